import itertools
import math

import pytest
import torch

from registry import SIMILARITIES

NAMES = SIMILARITIES.names()


def vectors() -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(3, 2, 5, generator=draw), torch.randn(3, 4, 5, generator=draw)


def score_of(name: str, module: torch.nn.Module, query: torch.Tensor, candidate: torch.Tensor) -> float:
    weights = {key: value.double() for key, value in module.state_dict().items()}
    dot = sum(a * b for a, b in zip(query.tolist(), candidate.tolist(), strict=True))
    if name == "dot":
        return dot
    if name == "cosine":
        return dot / math.sqrt(query.square().sum().item() * candidate.square().sum().item())
    if name == "bilinear":
        return (weights["map.weight"] @ query @ candidate).item()
    hidden = weights["query.weight"] @ query + weights["query.bias"] + weights["candidate.weight"] @ candidate
    activated = [h * (1 + math.erf(h / math.sqrt(2))) / 2 for h in hidden.tolist()]
    return (
        sum(w * a for w, a in zip(weights["score.weight"][0].tolist(), activated, strict=True))
        + weights["score.bias"].item()
    )


@pytest.mark.parametrize("name", ["bilinear", "cosine", "dot", "mlp"])
def test_scores_are_those_of_the_definition(name: str) -> None:
    torch.manual_seed(0)
    module = SIMILARITIES.build({"name": name, "init": "random"} if name == "bilinear" else name, dim=5)
    queries, candidates = vectors()
    scores = module(queries, candidates)
    for group, query, candidate in itertools.product(range(3), range(2), range(4)):
        expected = score_of(name, module, queries[group, query].double(), candidates[group, candidate].double())
        assert scores[group, query, candidate].item() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_bilinear_starts_as_the_inner_product() -> None:
    assert torch.equal(SIMILARITIES.build("bilinear", dim=5)(*vectors()), SIMILARITIES.build("dot", dim=5)(*vectors()))


def test_the_cosine_of_zeros_is_zero_with_finite_gradients() -> None:
    queries, candidates = torch.zeros(1, 1, 5, requires_grad=True), torch.ones(1, 2, 5, requires_grad=True)
    scores = SIMILARITIES.build("cosine", dim=5)(queries, candidates)
    assert not scores.any()
    scores.sum().backward()
    assert queries.grad.isfinite().all() and candidates.grad.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_in_full_precision_under_autocast_and_for_half_precision_weights(name: str) -> None:
    module = SIMILARITIES.build(name, dim=5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = module(*vectors())
    assert scores.dtype == torch.float32
    assert not torch.equal(scores, scores.bfloat16().float())
    assert module.bfloat16()(*(tensor.bfloat16() for tensor in vectors())).dtype == torch.float32


@pytest.mark.parametrize("name", NAMES)
def test_shared_candidates_get_the_scores_they_get_in_groups(name: str) -> None:
    module = SIMILARITIES.build(name, dim=5)
    queries, candidates = vectors()
    shared = module(queries.flatten(0, 1).unsqueeze(0), candidates[:1])
    grouped = module(queries, candidates[:1].expand(3, -1, -1))
    torch.testing.assert_close(shared.unflatten(1, (3, 2))[0], grouped)
