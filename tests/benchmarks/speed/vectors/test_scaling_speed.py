from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.comparison import Comparison
from benchmarks.speed.training.workload import TINY
from benchmarks.speed.vectors import scaling


def test_scaling_with_shared_prefixes_reads_as_whole_prompts_do(
    data: Path, complete: Callable[[Comparison, int], dict[str, Any]]
) -> None:
    found = scaling.measure(data, TINY, repeats=1)
    results = complete(found, 1)
    for length in scaling.SMALL.query_tokens:
        facts = results[f"{length} tokens"]
        assert facts["check"]["difference"] < facts["check"]["spread_over_parts"] / 100
        assert set(facts["shares"]) == {"prefix", "suffixes", "k-means", "splitting, scoring, choosing"}
        assert sum(facts["shares"].values()) == pytest.approx(1)
        assert 0 < facts["floor"]["gflop"] < facts["floor"]["gflop_of_whole_prompts"]


def test_a_prefix_that_is_not_the_prompts_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    case = scaling.Case(scaling.SMALL)
    tokens, plain = case.query(20), case.plain()
    other = case.query(20, batch=2)[1].tolist()
    read = plain.read
    monkeypatch.setattr(scaling.PlainScaling, "read", lambda self, query, contexts: read(other, contexts))
    with pytest.raises(AssertionError, match="from whole prompts"):
        scaling.check(case, plain, tokens)


def test_the_floor_counts_a_prefix_once() -> None:
    case = scaling.Case(scaling.SMALL)
    found = scaling.floor(case, 20, rate=1e9)
    assert found["contexts"] == 1 + 3 * 2
    shape, rest = case.shape, found["suffix_tokens"]
    weights = shape.num_layers * shape.dim * (3 * shape.num_heads * shape.head_dim + 3 * shape.mlp_dim)
    products = 2 * weights * (found["prefix_tokens"] + 7 * rest) / 1e9
    assert products < found["gflop"] < 2 * products
    assert found["prefix_tokens"] + rest == 20 + case.prompt.num_tokens


def test_the_plain_way_finds_what_ours_finds_without_scaling() -> None:
    case = scaling.Case(scaling.SMALL)
    tokens = case.query(20)
    vector = case.ours(tokens, 0, 0)[0, 0]
    best = (case.table @ vector).argsort(descending=True)[:10]
    assert case.plain().rank(tokens[0].tolist(), case.whole, width=3, depth=0).tolist() == best.tolist()


def test_candidates_form_clusters() -> None:
    vectors = scaling.clustered(scaling.SMALL)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(vectors)))
    likeness = vectors @ vectors.T - 2 * torch.eye(len(vectors))
    assert likeness.max(dim=1).values.mean() > likeness.mean() + 0.3
