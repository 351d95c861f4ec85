"""Three processes, each with its rows of the tables, compute what one process with whole tables does."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from forks import Fork
from test_recommenders import HISTORIES, NAMES, NUM_ITEMS, USERS, batch_of, build, scores
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

from rankers.recommenders.recommender import Recommender
from rankers.recommenders.sharded_softmax import sharded_softmax_loss
from rankers.recommenders.sharding import OwnRows, _own_rows, rows_of, shard
from ranking.vectors.search import search
from registry import ConfigError

pytestmark = pytest.mark.skipif(
    not hasattr(torch.cpu.Stream, "record_event"), reason="this PyTorch cannot shard weights on a CPU"
)
WORLD = 3
BATCHES = [[0], [2], [3, 1]]
"""The users of each process."""


def in_one_of_three(folder: Path, rank: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=WORLD)
    mesh, found = init_device_mesh("cpu", (WORLD,)), {}
    for name in NAMES:
        ranker, batch = case(name, BATCHES[rank])
        ranker._trainer.strategy = SimpleNamespace(reduce=_mean)
        ranker._trainer.datamodule = SimpleNamespace(restrictions=lambda queries: (None, None))
        shard(ranker, mesh, NUM_ITEMS)
        ranker._is_sharded = True
        loss = ranker.training_loss(batch)
        loss.backward()
        gradients = {name: weight.grad.full_tensor() for name, weight in ranker.named_parameters()}
        vectors = ranker.user_states(batch_of(HISTORIES)).detach()
        ranked = search(vectors, ranker.candidates_to_rank(), k=5, distributed=True)
        found[name] = {"loss": loss.detach(), "gradients": gradients, "rows": ranked.rows, "scores": ranked.scores}
    table, states, targets = softmax_case()
    for num_rows in (len(table), 4):  # of 4 rows, the last process has none
        part = _own_rows(nn.Parameter(table[:num_rows]), mesh)
        mine = states[rank::WORLD].clone().requires_grad_()
        loss = sharded_softmax_loss(mine, part, targets[rank::WORLD] % num_rows)
        (2 * loss).backward()
        rows = torch.tensor([[3, 0], [1, 3]])
        own = OwnRows(part.detach(), lists=False)
        for outside in (own._first - 1, own._first + len(part.to_local())):
            with pytest.raises(AssertionError, match="another process holds some of these rows"):
                own.features(torch.tensor([outside]))
        looked_up = rows_of(part, rows).detach(), OwnRows(part.detach(), lists=True).features(rows.flatten())
        found[num_rows] = loss.detach(), mine.grad, part.grad.full_tensor(), *looked_up
    lonely = nn.Module()
    lonely.weight = nn.Parameter(torch.ones(2))
    with pytest.raises(ConfigError, match="the weight weight of Module can be in no shard"):
        shard(lonely, mesh, NUM_ITEMS)
    torch.save(found, folder / f"{rank}.pt")


def case(name: str, users: list[int]) -> tuple[Recommender, Any]:
    """A recommender without randomness, and a batch of some users."""
    options = {"num_samples": 4} if name == "gru4rec" else {"only_last": 0.999} if name == "bert4rec" else {}
    ranker: Any = build(name, **options)
    ranker.draw_negatives = lambda batch, targets, count: (
        (targets.unsqueeze(2) + 1 + torch.arange(count)) % NUM_ITEMS,
        torch.ones(*targets.shape, count, dtype=torch.bool),
    )
    histories, everyone = HISTORIES, torch.tensor([each[-1] for each in HISTORIES])
    if name == "gru4rec":
        histories = [[*each, 0][:2] for each in HISTORIES]
        everyone = torch.tensor([each[1] for each in histories])
    batch = batch_of([histories[user] for user in users], USERS[users])
    return ranker, _with_rows(batch, everyone) if name == "gru4rec" else batch


def softmax_case() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    table, states = torch.randn(10, 5, generator=draw), 3 * torch.randn(7, 5, generator=draw)
    return table, states, torch.randint(10, (7,), generator=draw)


def _with_rows(batch: Any, rows: torch.Tensor) -> Any:
    places = torch.zeros(len(batch.labels), len(rows))
    candidates = batch.candidates.new_zeros(len(rows), batch.candidates.shape[1])
    mask, slot = places.bool(), places.long()
    return replace(batch, rows=rows, labels=places, mask=mask, slot=slot, candidates=candidates)


def _mean(value: torch.Tensor, reduce_op: str) -> torch.Tensor:
    dist.all_reduce(value)
    return value / WORLD


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[dict[Any, Any]]]:
    folder = tmp_path_factory.mktemp("shards")
    code = "import sys\nfrom pathlib import Path\nfrom test_sharding import in_one_of_three\n"
    code += "in_one_of_three(Path(sys.argv[1]), int(sys.argv[2]))"
    paths = [Path(__file__).parent, Path(__file__).parents[2]]
    forks = [Fork(code, [folder, rank], folder=folder, paths=paths) for rank in range(WORLD)]
    outputs = [each.communicate() for each in forks]
    assert all(each.returncode == 0 for each in forks), outputs
    yield [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]


@pytest.mark.parametrize("name", NAMES)
def test_losses_gradients_and_ranks_of_shards_are_those_of_whole_tables(
    name: str, processes: list[dict[Any, Any]]
) -> None:
    ranker, batch = case(name, [user for users in BATCHES for user in users])
    if name == "gru4rec":  # its loss is the mean over the users of each process
        losses = []
        for users in BATCHES:
            ranker._lanes = None
            losses.append(ranker.training_loss(case(name, users)[1]))
        total = torch.stack(losses).mean()
    else:
        total = ranker.training_loss(batch)
    total.backward()
    found = [each[name] for each in processes]
    torch.testing.assert_close(torch.stack([each["loss"] for each in found]).mean(), total.detach())
    for key, weight in ranker.named_parameters():
        for each in found:
            torch.testing.assert_close(each["gradients"][key], weight.grad, msg=key)
    expected = scores(ranker, batch_of(HISTORIES)).topk(5)
    for each in found:
        torch.testing.assert_close(each["scores"], expected.values)
        assert torch.equal(each["rows"], expected.indices)


@pytest.mark.parametrize("num_rows", [10, 4])
def test_the_softmax_over_shards_is_pytorchs_with_its_gradients(num_rows: int, processes: list[dict[Any, Any]]) -> None:
    table, states, targets = softmax_case()
    table, states = table[:num_rows].double().requires_grad_(), states.double().requires_grad_()
    losses = torch.nn.functional.cross_entropy(states @ table.T, targets % num_rows, reduction="none")
    (2 * losses.sum()).backward()
    for rank, each in enumerate(processes):
        loss, by_state, by_item, looked_up, listed = each[num_rows]
        assert loss.item() == pytest.approx(losses[rank::WORLD].sum().item(), rel=1e-5)
        torch.testing.assert_close(by_state.double(), states.grad[rank::WORLD], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(by_item.double() * WORLD, table.grad, rtol=1e-5, atol=1e-5)
        rows = torch.tensor([[3, 0], [1, 3]])
        torch.testing.assert_close(looked_up.double(), table.detach()[rows])
        torch.testing.assert_close(listed.double(), table.detach()[rows.flatten()])
