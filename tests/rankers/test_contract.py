"""What every registered ranker of groups keeps to, with each block, projection and similarity it can be made with."""

import dataclasses
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rankers.base import Ranker
from rankers.checkpoint import load_ranker, save_pretrained
from rankers.language_ranker.list_ranker import ListRanker
from rankers.language_ranker.point_ranker import PointRanker
from ranking.batch import FeatureBatch
from registry import BLOCKS, PROJECTIONS, RANKERS, SIMILARITIES, schema

DIM, QUERIES, CANDIDATES, GROUPS, PLACES = 16, 4, 14, 6, 5
CHOICES: dict[str, list[Any]] = {
    "block": BLOCKS.names(),
    "projection": [*PROJECTIONS.names(), None],
    "similarity": SIMILARITIES.names(),
    "num_blocks": [1, 2, 1, 0],
    "query": ["feature", "learned"],
    "learn_temperature": [False, True],
    "extra": [[], ["log_probability", "num_tokens", "agreement", "self_certainty"], ["agreement"]],
    "use_query": [False, True],
    "standardize": [True, False],
    "metric": ["euclidean", "cosine"],
}
KNOWN = ("answer", "log_probability", "num_tokens", "self_certainty")
# Every choice occurs once, some of them together.
MIXED = [dict(zip(CHOICES, row, strict=True)) for row in zip_longest(*CHOICES.values(), fillvalue="default")]
NODES = [
    {"name": name, **{option: choice for option, choice in mixed.items() if choice != "default" and option in options}}
    for name in RANKERS.names()
    # Those of groups that are trained; test_lranker.py has those of pools.
    if RANKERS.get(name).batch_type is FeatureBatch and ".references." not in RANKERS.get(name).__module__
    for options in [schema.options(RANKERS.get(name))]
    for mixed in [{}, *MIXED]
]
EACH = pytest.mark.parametrize("node", NODES, ids=lambda node: "-".join(map(str, node.values())))


def build(node: dict[str, Any]) -> Ranker[FeatureBatch]:
    torch.manual_seed(0)
    ranker = RANKERS.build(node, feature_dim=DIM, num_depths=2)
    ranker.learn_from(TrainingData())
    return ranker.eval()


class TrainingData:
    """Training candidates, for rankers that learn from them before the first step."""

    def training_vectors(self, most: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        draw = torch.Generator().manual_seed(3)
        for _ in range(4):
            yield 3 * torch.randn(40, DIM, generator=draw) + 1, torch.rand(40, generator=draw).round()

    def most_candidates(self, split: str) -> int:
        return PLACES

    def candidate_id(self, slot: int) -> str:
        return str(slot % 7)

    def evaluation_batches(self, split: str, num_candidates: int, draws: int) -> Iterator[FeatureBatch]:
        yield make_batch()


def make_batch() -> FeatureBatch:
    """Six groups of one to five candidates; vectors are shared, and padding points to a real one."""
    draw = torch.Generator().manual_seed(1)
    mask = torch.arange(PLACES) < torch.tensor([5, 1, 3, 5, 2, 4]).unsqueeze(1)
    index = torch.stack([torch.randperm(CANDIDATES, generator=draw)[:PLACES] for _ in range(GROUPS)])
    labels = torch.zeros(GROUPS, PLACES)
    labels[:, 0] = 1
    return FeatureBatch(
        labels=labels,
        mask=mask,
        group=torch.arange(GROUPS),
        slot=torch.where(mask, torch.arange(GROUPS * PLACES).view(GROUPS, PLACES), -1),
        unique_queries=torch.randn(QUERIES, DIM, generator=draw),
        unique_candidates=torch.randn(CANDIDATES, DIM, generator=draw),
        query_index=torch.randint(QUERIES, (GROUPS,), generator=draw),
        candidate_index=index.masked_fill(~mask, 0),
        answer=torch.randint(0, 3, (GROUPS, PLACES), generator=draw),
        log_probability=(-9 * torch.rand(GROUPS, PLACES, generator=draw)).masked_fill(index == 3, torch.nan),
        num_tokens=torch.randint(-1, 9, (GROUPS, PLACES), generator=draw),
        self_certainty=torch.rand(GROUPS, PLACES, generator=draw),
    )


def loss_and_gradients(ranker: Ranker[FeatureBatch], batch: FeatureBatch) -> tuple[Tensor, dict[str, Tensor]]:
    ranker.zero_grad()
    scores, labels, mask = ranker.training_scores(batch)
    loss = ranker.loss(scores.float(), labels, mask)
    loss.backward()
    gradients = {name: weight.grad for name, weight in ranker.named_parameters() if weight.requires_grad}
    assert None not in gradients.values(), f"weights that nothing depends on: {gradients}"
    return loss.detach(), gradients  # type: ignore[return-value]


@EACH
def test_what_padding_holds_does_not_matter(node: dict[str, Any]) -> None:
    ranker, batch = build(node), make_batch()
    padding = ~batch.mask
    garbage = dataclasses.replace(
        batch,
        labels=batch.labels.masked_fill(padding, torch.nan),
        unique_candidates=torch.cat([batch.unique_candidates, torch.full((1, DIM), 1e4)]),
        candidate_index=batch.candidate_index.masked_fill(padding, CANDIDATES),
        **{name: getattr(batch, name).masked_fill(padding, 77) for name in KNOWN},
    )
    torch.testing.assert_close(ranker(garbage)[batch.mask], ranker(batch)[batch.mask])
    if not ranker.is_trained:
        return
    (loss, gradients), (expected, expected_gradients) = (loss_and_gradients(ranker, each) for each in (garbage, batch))
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-4, atol=1e-5)


@EACH
def test_how_many_places_are_padded_does_not_matter(node: dict[str, Any]) -> None:
    ranker, batch = build(node), make_batch()
    names = ("labels", "mask", "candidate_index", *KNOWN)
    wider = {name: torch.nn.functional.pad(getattr(batch, name), (0, 3)) for name in names}
    wider["slot"] = torch.nn.functional.pad(batch.slot, (0, 3), value=-1)
    scores = ranker(dataclasses.replace(batch, **wider))
    torch.testing.assert_close(scores[:, :PLACES][batch.mask], ranker(batch)[batch.mask])


@EACH
def test_a_batch_without_groups_has_no_scores(node: dict[str, Any]) -> None:
    batch = make_batch()
    tables = ("unique_queries", "unique_candidates", "query_index", "candidate_index")
    names = ("labels", "mask", "group", "slot", *tables, *KNOWN)
    empty = dataclasses.replace(batch, **{name: getattr(batch, name)[:0] for name in names})
    assert build(node)(empty).shape == (0, PLACES)


@EACH
def test_scores_follow_their_candidates(node: dict[str, Any]) -> None:
    ranker, batch = build(node), make_batch()
    draw = torch.Generator().manual_seed(2)
    order = torch.stack([torch.randperm(PLACES, generator=draw) for _ in range(GROUPS)])
    names = ("labels", "mask", "slot", "candidate_index", *KNOWN)
    permuted = dataclasses.replace(batch, **{name: getattr(batch, name).gather(1, order) for name in names})
    scores, mask = ranker(batch).gather(1, order), permuted.mask
    torch.testing.assert_close(ranker(permuted)[mask], scores[mask])


@EACH
def test_scores_do_not_depend_on_the_other_groups_of_the_batch(node: dict[str, Any]) -> None:
    ranker, batch = build(node), make_batch()
    scores = ranker(batch)
    for row in range(GROUPS):
        alone = FeatureBatch(
            labels=batch.labels[[row]],
            mask=batch.mask[[row]],
            group=batch.group[[row]],
            slot=batch.slot[[row]],
            unique_queries=batch.query[[row]],
            unique_candidates=batch.candidates[row],
            query_index=torch.zeros(1, dtype=torch.int64),
            candidate_index=torch.arange(PLACES).unsqueeze(0),
            **{name: getattr(batch, name)[[row]] for name in KNOWN},
        )
        torch.testing.assert_close(ranker(alone)[alone.mask], scores[[row]][alone.mask])


@EACH
def test_a_pointwise_ranker_scores_a_candidate_alike_in_any_company(node: dict[str, Any]) -> None:
    ranker, batch = build(node), make_batch()
    draw = torch.Generator().manual_seed(2)
    fewer = dataclasses.replace(batch, mask=batch.mask & (torch.rand(GROUPS, PLACES, generator=draw) < 0.5))
    # A list ranker would be judged wrongly if it said so, and a pointwise one that did not would score too often.
    assert ranker.is_pointwise is not (node["name"] in ("list_ranker", "depth_mean") or bool(node.get("extra")))
    if ranker.is_pointwise:
        torch.testing.assert_close(ranker(fewer)[fewer.mask], ranker(batch)[fewer.mask])


@EACH
def test_every_weight_gets_a_finite_gradient_from_the_default_loss(node: dict[str, Any]) -> None:
    ranker = build(node)
    if not ranker.is_trained:
        pytest.skip("it has no weights")
    loss, gradients = loss_and_gradients(ranker, make_batch())
    assert torch.isfinite(loss)
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
    assert not gradients or any(gradient.any() for gradient in gradients.values())


@EACH
def test_features_may_be_stored_in_any_precision(node: dict[str, Any]) -> None:
    ranker, batch = build(node), make_batch()
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        names = ("unique_queries", "unique_candidates")
        stored = dataclasses.replace(batch, **{name: getattr(batch, name).to(dtype) for name in names})
        exact = dataclasses.replace(stored, **{name: getattr(stored, name).float() for name in names})
        torch.testing.assert_close(ranker(stored), ranker(exact), rtol=0, atol=0)


@EACH
def test_scores_are_not_rounded_where_weights_are_used_in_bf16(node: dict[str, Any]) -> None:
    ranker, batch = build(node), make_batch()
    exact = ranker(batch)[batch.mask]
    with torch.autocast("cpu", torch.bfloat16):
        scores = ranker(batch)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores[batch.mask], exact, rtol=0.1, atol=0.1)
    assert ranker.bfloat16()(batch).dtype == torch.float32


@EACH
def test_a_ranker_comes_back_from_disk_with_the_same_scores(node: dict[str, Any], tmp_path: Path) -> None:
    ranker, batch = build(node), make_batch()
    with torch.no_grad():
        for weight in ranker.parameters():
            weight += 0.01
    ranker.encoder = {"model": "some-encoder"}
    loaded = load_ranker(save_pretrained(ranker, tmp_path / "saved"))
    assert type(loaded) is type(ranker) and not loaded.training
    assert loaded.encoder == ranker.encoder
    assert torch.equal(loaded(batch), ranker(batch))
    again = save_pretrained(loaded, tmp_path / "again")
    for file in ("config.json", "model.safetensors"):
        assert (again / file).read_bytes() == (tmp_path / "saved" / file).read_bytes()


@pytest.mark.parametrize(("ranker", "options", "count"), [
    (ListRanker, {"feature_dim": 4096}, "0.30M"),
    (ListRanker, {"feature_dim": 3584}, "0.27M"),
    (ListRanker, {"feature_dim": 5120}, "0.36M"),
    (ListRanker, {"feature_dim": 4096, "projection": None}, "192M"),
    (PointRanker, {"feature_dim": 4096}, "0.28M"),
    (PointRanker, {"feature_dim": 3584}, "0.25M"),
    (PointRanker, {"feature_dim": 5120}, "0.34M"),
    (PointRanker, {"feature_dim": 4096, "projection": None}, "128M"),
    (PointRanker, {"feature_dim": 4096, "num_blocks": 0}, "0.25M"),
])  # fmt: skip
def test_sizes_are_those_of_the_paper(ranker: type[Ranker[Any]], options: dict[str, Any], count: str) -> None:
    with torch.device("meta"):
        weights = sum(weight.numel() for weight in ranker(**options).parameters() if weight.requires_grad)
    assert f"{weights / 2**20:{'.2f' if '.' in count else '.0f'}}M" == count


def test_a_point_ranker_scores_every_query_against_all_candidates_of_the_batch() -> None:
    ranker = build({"name": "point_ranker", "temperature": 0.5})
    batch = make_batch()
    excluded = torch.tensor([[0, 3], [0, int(batch.candidate_index[0, 0])], [2, 7], [5, 0]])
    batch = dataclasses.replace(batch, excluded=excluded)
    with torch.no_grad():
        scores, labels, mask = ranker.training_scores(batch)
    assert scores.shape == (GROUPS, CANDIDATES)

    weights = {name: weight.detach().double() for name, weight in ranker.named_parameters()}

    def mapped(vector: Tensor) -> Tensor:
        x = weights["layers.projection.linear.weight"] @ vector.double()
        block = {name.removeprefix("layers.blocks.0."): weight for name, weight in weights.items()}
        y = (x - x.mean()) / torch.sqrt(((x - x.mean()) ** 2).mean() + 1e-5) * block["norm.weight"] + block["norm.bias"]
        hidden = block["expand.weight"] @ y + block["expand.bias"]
        hidden = hidden * (1 + torch.special.erf(hidden / 2**0.5)) / 2
        return x + block["contract.weight"] @ hidden + block["contract.bias"]

    for group in range(GROUPS):
        own = {
            int(batch.candidate_index[group, place]): float(batch.labels[group, place])
            for place in range(PLACES)
            if batch.mask[group, place]
        }
        query = mapped(batch.unique_queries[batch.query_index[group]])
        for row in range(CANDIDATES):
            candidate = mapped(batch.unique_candidates[row])
            cosine = float(query @ candidate / query.norm() / candidate.norm())
            assert float(scores[group, row]) == pytest.approx(cosine / 0.5, abs=1e-5)
            assert float(labels[group, row]) == own.get(row, 0.0)
            assert bool(mask[group, row]) == (row in own or [group, row] not in excluded.tolist())


def test_a_ranker_that_does_not_say_how_to_score_says_so() -> None:
    with pytest.raises(TypeError, match=r"Ranker does not say how to score: write forward\(batch\)"):
        Ranker()(make_batch())
