"""Every loss trains to the same weights on one process, on two, and with accumulated gradients."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from test_processes import train_here, train_in_processes

from datamodules.drawing import has_order
from datamodules.group_batches import FeatureMaker, TrainingBatches, UsableSlots
from rankers.lranker.reference_norm import ReferenceNorm
from ranking.batch import Batch
from ranking.stores.candidate_pool import CandidatePool
from ranking.stores.group_store import GroupStore
from ranking.stores.group_store_writer import GroupStoreWriter
from registry import LOSSES, RANKERS
from registry.config import to_yaml

NUM_GROUPS, DIM = 46, 6


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """46 groups of 1 to 7 candidates, a few of them without a right one."""
    draw = torch.Generator().manual_seed(0)
    sizes = torch.arange(NUM_GROUPS) % 7 + 1
    count = int(sizes.sum())
    path = tmp_path_factory.mktemp("stores") / "uneven"
    with GroupStoreWriter(path, feature_dim=DIM, depths=[None], dtype="float32", settings={}) as writer:
        writer.add_candidates(torch.randn(count, 1, DIM, generator=draw), [f"c{row}" for row in range(count)])
        writer.add_groups(
            ids=[f"q{place}" for place in range(NUM_GROUPS)],
            texts=[f"query {place}" for place in range(NUM_GROUPS)],
            features=torch.randn(NUM_GROUPS, 1, DIM, generator=draw),
            offsets=torch.nn.functional.pad(sizes.cumsum(0), (1, 0)),
            candidate=torch.arange(count),
            label=torch.randint(0, 2, (count,), generator=draw).float(),
            slot_ids=[f"c{row}" for row in range(count)],
            split=["train" if place < 40 else ("val", "test")[place % 2] for place in range(NUM_GROUPS)],
        )
        return writer.finish()


def in_float64(batch: Batch) -> Batch:
    """The batch in numbers whose rounding does not hide or make a difference."""
    floats = {name: value.double() for name, value in batch._tensors().items() if value.is_floating_point()}
    return dataclasses.replace(batch, **floats)


def after_three_steps(
    store: GroupStore, loss: str, *, world: int, accumulated: int, batch_size: int = 18, ordered: bool = False
) -> list[torch.Tensor]:
    """The weights, gradients being the mean over the processes of the mean over the accumulated batches."""
    torch.manual_seed(0)
    ranker = RANKERS.build(
        {"name": "point_ranker", "loss": loss, "projection": {"name": "linear", "dim": 4}}, feature_dim=DIM
    )
    optimizer = torch.optim.SGD(ranker.double().parameters(), lr=0.5)
    usable = torch.ones(store.num_slots, dtype=torch.bool)
    sources = [
        TrainingBatches(
            FeatureMaker(UsableSlots.of(store, usable), [0]),
            torch.arange(39 if ordered else 40),  # 30 of the 39 have an order
            num_candidates=7,
            batch_size=batch_size // accumulated,
            accumulated=accumulated,
            keep=has_order if ordered else None,
            seed=1,
            rank=rank,
            world=world,
        )
        for rank in range(world)
    ]
    steps_per_epoch = -(-sources[0].num_steps() // accumulated)
    for step in range(3):  # 18, 18 and the last 4 groups, or three epochs of one step
        epoch, step_of_epoch = divmod(step, steps_per_epoch)
        optimizer.zero_grad()
        for source in sources:
            for part in range(accumulated):
                if (number := step_of_epoch * accumulated + part) < source.num_steps():
                    batch = in_float64(source.batch(epoch, number))
                    value = ranker.loss(ranker(batch), batch.labels, batch.mask)
                    (value * batch.weight / accumulated / world).backward()
        optimizer.step()
    return [weight.detach() for weight in ranker.parameters()]


@pytest.mark.parametrize("loss", LOSSES.names())
def test_each_loss_gives_the_same_weights_however_groups_are_shared_out(loss: str, uneven: Path) -> None:
    store = GroupStore.open(uneven)
    expected = after_three_steps(store, loss, world=1, accumulated=1)
    for world, accumulated in [(2, 1), (1, 3), (1, 2)]:
        found = after_three_steps(store, loss, world=world, accumulated=accumulated)
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("loss", LOSSES.names())
def test_each_loss_gives_the_same_weights_where_a_step_is_larger_than_what_is_left_of_an_epoch(
    loss: str, uneven: Path
) -> None:
    store = GroupStore.open(uneven)
    expected = after_three_steps(store, loss, world=1, accumulated=1, batch_size=36, ordered=True)
    for world, accumulated in [(2, 1), (1, 2), (1, 3), (1, 6), (2, 3)]:
        found = after_three_steps(store, loss, world=world, accumulated=accumulated, batch_size=36, ordered=True)
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_a_batch_size_beyond_the_epoch_weighs_like_the_epoch(uneven: Path) -> None:
    store = GroupStore.open(uneven)
    expected = after_three_steps(store, "mse", world=1, accumulated=1, batch_size=40)
    found = after_three_steps(store, "mse", world=1, accumulated=1, batch_size=256)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


# A run multiplies any loss by the weight of its batch: one loss of candidates alone, and one of whole groups.
@pytest.mark.slow
@pytest.mark.parametrize("loss", ["mse", "listwise_kl"])
def test_whole_runs_end_with_the_same_weights(loss: str, uneven: Path, tmp_path: Path) -> None:
    config: dict[str, Any] = {
        "ranker": {"name": "point_ranker", "loss": loss, "optimizer": {"name": "sgd", "lr": 0.5}},
        "datamodule": {
            "name": "grouped_features",
            "path": str(uneven),
            "batch_size": 18,
            "groups_per_query": 1,
            "drop_unordered": False,  # an odd number of groups that are left would lose one to two processes
        },
        "trainer": {"max_steps": 3, "accelerator": "cpu", "enable_progress_bar": False},
    }
    (tmp_path / "run.yaml").write_text(to_yaml(config))
    config["datamodule"]["batch_size"] = 6
    config["trainer"]["accumulate_grad_batches"] = 3
    (tmp_path / "accumulated.yaml").write_text(to_yaml(config))
    train_here(tmp_path / "run.yaml", tmp_path / "one")
    train_here(tmp_path / "accumulated.yaml", tmp_path / "three")
    train_in_processes(tmp_path / "two", "--config", tmp_path / "run.yaml", "trainer.strategy=ddp")
    one, *others = (
        torch.load(tmp_path / name / "last.ckpt", weights_only=True)["state_dict"] for name in ("one", "two", "three")
    )
    for other in others:
        for name, weight in one.items():
            torch.testing.assert_close(other[name], weight, atol=1e-6, rtol=1e-5)


def test_a_norm_takes_its_statistics_from_the_references_alone() -> None:
    draw = torch.Generator().manual_seed(0)
    own, references = torch.randn(3, 4, generator=draw), 2 + 3 * torch.randn(20, 4, generator=draw)
    norm = ReferenceNorm(4)
    norm.num_own = 3
    found = norm(torch.cat([own, references]))
    mean, variance = references.mean(dim=0), references.var(dim=0, correction=0)
    torch.testing.assert_close(found[:3], (own - mean) / (variance + norm.eps).sqrt())
    torch.testing.assert_close(found[3:], torch.nn.BatchNorm1d(4)(references))
    torch.testing.assert_close(norm.running_mean, 0.1 * mean)


@pytest.mark.slow
def test_two_processes_of_lranker_end_with_the_weights_of_one(
    pool: CandidatePool, tiny_bert: Path, tmp_path: Path
) -> None:
    # Dropout is drawn anew by each process.
    shutil.copytree(tiny_bert, tmp_path / "bert")
    described = json.loads((tmp_path / "bert" / "config.json").read_text())
    described |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (tmp_path / "bert" / "config.json").write_text(json.dumps(described))
    config = {
        "ranker": {
            "name": "lranker",
            "backbone": {"model": str(tmp_path / "bert")},
            "template": "the value of {query} <|embedding|> key",
            "max_length": 64,
            "aggregator": {"name": "kmeans", "num_centroids": 4},
            "lora": {"rank": 4, "dropout": 0.0},
            "scaling": None,
            "optimizer": {"name": "sgd", "lr": 0.1},
        },
        "datamodule": {
            "name": "partitioned_candidates",
            "path": str(pool.path),
            "batch_size": 8,
            "num_partitions": 4,
            "num_splits": 2,
        },
        "trainer": {"max_steps": 3, "accelerator": "cpu", "enable_progress_bar": False},
    }
    (tmp_path / "run.yaml").write_text(to_yaml(config))
    train_here(tmp_path / "run.yaml", tmp_path / "one")
    train_in_processes(tmp_path / "two", "--config", tmp_path / "run.yaml", "trainer.strategy=ddp")
    one, two = (torch.load(tmp_path / name / "last.ckpt", weights_only=True)["state_dict"] for name in ("one", "two"))
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, atol=5e-5, rtol=1e-4)
