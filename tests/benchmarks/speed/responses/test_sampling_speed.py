from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.comparison import Comparison
from benchmarks.speed.responses import hidden_states, kept_states, sampling
from benchmarks.speed.training.workload import TINY

Complete = Callable[[Comparison, int], dict[str, Any]]


def test_sampling_is_measured_in_each_way(data: Path, complete: Complete) -> None:
    results = complete(sampling.measure(data, TINY, repeats=2, apart=False), 2)
    assert all(8 <= count <= 8 * 16 for counts in results["tokens"].values() for count in counts)
    assert set(results["tokens_a_second"]) == set(results["ways"])


def test_the_floor_multiplies_with_the_weights_of_such_a_model() -> None:
    model, case = sampling.model_of(sampling.SMALL), sampling.SMALL
    shapes = [tuple(weight.shape) for name, weight in model.named_parameters() if weight.ndim == 2]
    weights = sampling.weights_of(case, case.num_layers, head=True)
    assert sorted(tuple(weight.shape) for weight in weights) == sorted(shapes)


def test_the_same_responses_are_sampled_with_states_and_without(data: Path, complete: Complete) -> None:
    complete(kept_states.measure(data, TINY, repeats=2), 2)


def test_states_are_those_of_the_plain_forward(data: Path, complete: Complete) -> None:
    results = complete(hidden_states.measure(data, TINY, repeats=2, apart=False), 2)
    assert max(results["distance_from_plain"].values()) < 1e-4


def test_other_states_are_noticed(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hidden_states, "_WITHIN", -1.0)
    with pytest.raises(AssertionError, match="plain"):
        hidden_states.measure(data, TINY, repeats=1, apart=False)


def test_the_dtype_of_a_case_is_resolved_when_it_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sampling.FULL.dtype == "auto"
    for native, dtype in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr("language_models.precision.has_bfloat16", lambda device_type, native=native: native)
        assert sampling.FULL.resolved.dtype == dtype
    assert sampling.SMALL.resolved == sampling.SMALL


def test_a_text_ends_with_the_same_probability_everywhere() -> None:
    model = sampling.model_of(sampling.SMALL)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[5, 6, 7], [8, 9, 10]])).logits
    ends = logits.softmax(dim=-1)[..., 2]
    torch.testing.assert_close(ends, torch.full((2, 3), 1 / 6))
