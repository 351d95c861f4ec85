"""Many users' rankers over one base: their scores, what they take, and what is refused."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.func import functional_call, grad

from rankers.base import Ranker
from ranking.batch import FeatureBatch
from ranking.stores.files import StoreError
from registry import RANKERS, ConfigError
from serving.exporting import Vectors
from serving.personal import PersonalRankers

DIM = 12
NODE: dict[str, Any] = {"name": "list_ranker", "projection": {"name": "linear", "dim": 8}, "similarity": "dot"}


def build(**changes: Any) -> Ranker[Any]:
    torch.manual_seed(0)
    return RANKERS.build({**NODE, **changes}, feature_dim=DIM)


def trained(base: Ranker[Any], seed: int, size: float = 0.05, rank: int | None = None) -> Ranker[Any]:
    """The base with other weights; with a rank, each matrix differs by a matrix of this rank."""
    user, draw = copy.deepcopy(base), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in user.parameters():
            if rank is None or weight.dim() < 2:
                weight += size * torch.randn(weight.shape, generator=draw)
            else:
                shapes = (weight.shape[0], rank), (rank, weight.shape[1])
                left, right = (torch.randn(shape, generator=draw) for shape in shapes)
                weight += size * left @ right
    return user.train()


def batch() -> FeatureBatch:
    draw = torch.Generator().manual_seed(5)
    return FeatureBatch(
        labels=torch.zeros(2, 6),
        mask=torch.tensor([[True] * 6, [True] * 4 + [False] * 2]),
        group=torch.arange(2),
        slot=torch.arange(12).view(2, 6),
        unique_queries=torch.randn(2, DIM, generator=draw),
        unique_candidates=torch.randn(12, DIM, generator=draw),
        query_index=torch.arange(2),
        candidate_index=torch.arange(12).view(2, 6),
    )


def test_whole_differences_give_a_users_scores_to_the_rounding_of_float16() -> None:
    base = build()
    user, personal, given = trained(base, seed=1), PersonalRankers(base), batch()
    assert 0 < personal.add("ana", user) < 2**-11
    true = {name: weight.double() for name, weight in user.state_dict().items()}
    start = {name: weight.double() for name, weight in base.state_dict().items()}
    # Half a unit in the last of 11 bits of the difference, then half of one of 24 bits of the sum.
    bounds = {name: (true[name] - start[name]).abs() * 2**-11 + 2**-25 + true[name].abs() * 2**-23 for name in true}
    for name, weight in personal.weights("ana").items():
        assert bool(((weight.double() - true[name]).abs() <= bounds[name]).all()), name

    inputs = given.unique_queries.double(), given.unique_candidates.double().view(2, 6, DIM), given.mask
    double = Vectors(copy.deepcopy(user).double().eval())
    whole = {f"ranker.{name}": weight for name, weight in true.items()}
    scores, found = functional_call(double, whole, inputs), personal.score("ana", given).double()
    for place in given.mask.nonzero().tolist():
        slopes = grad(lambda weights: functional_call(double, weights, inputs)[tuple(place)])(whole)  # noqa: B023
        bound = sum(float((slopes[f"ranker.{name}"].abs() * bounds[name]).sum()) for name in true)
        rounding = 1e-5 * float(scores.abs().max())
        assert abs(float(found[tuple(place)] - scores[tuple(place)])) <= 1.1 * bound + rounding


def test_users_do_not_change_each_other_or_the_base() -> None:
    base, given = build(), batch()
    before = copy.deepcopy(base.state_dict())
    personal, users = PersonalRankers(base), {f"user {seed}": trained(base, seed) for seed in range(5)}
    for name, ranker in users.items():
        personal.add(name, ranker)
    for name, ranker in [*users.items(), *reversed(users.items())]:
        with torch.no_grad():
            expected = ranker.eval()(given)
        torch.testing.assert_close(personal.score(name, given)[given.mask], expected[given.mask], rtol=2e-3, atol=2e-3)
    assert all(torch.equal(weight, before[name]) for name, weight in base.state_dict().items())
    assert personal.users == list(users) and not personal.base.training
    personal.remove("user 3")
    with pytest.raises(ValueError, match="no user 'user 3' among 4"):
        personal.score("user 3", given)


def test_a_base_that_is_trained_on_does_not_change_its_users(tmp_path: Path) -> None:
    base, given, file = build(), batch(), tmp_path / "users.safetensors"
    personal = PersonalRankers(base)
    personal.add("ana", trained(base, 1))
    before = personal.score("ana", given)
    with torch.no_grad():
        for weight in base.parameters():
            weight += 1
    assert torch.equal(personal.score("ana", given), before)
    personal.save(file)
    with pytest.raises(ConfigError, match="belongs to a base"):
        PersonalRankers.load(file, base)
    assert torch.equal(PersonalRankers.load(file, build()).score("ana", given), before)


def test_low_rank_differences_are_exact_up_to_their_rank_and_take_fewer_bytes() -> None:
    base = build(projection={"name": "linear", "dim": 32}, block="mlp")
    whole, low = PersonalRankers(base), PersonalRankers(base, rank=2)
    assert whole.bytes_per_user == 2 * sum(weight.numel() for weight in base.parameters())
    matrices = [weight.shape for weight in base.parameters() if weight.dim() == 2]
    vectors = sum(weight.numel() for weight in base.parameters() if weight.dim() == 1)
    assert low.bytes_per_user == 2 * (2 * sum(map(sum, matrices)) + vectors) < whole.bytes_per_user / 4
    assert low.add("exact", trained(base, 1, rank=2)) < 1e-3
    weights, true = low.weights("exact"), trained(base, 1, rank=2).state_dict()
    assert all(torch.allclose(weights[name], true[name], atol=1e-3) for name in true)


def test_the_error_of_a_low_rank_is_that_of_the_singular_values_left_out() -> None:
    base = build(projection={"name": "linear", "dim": 32}, block="mlp")
    user = trained(base, seed=2)
    left_out = total = 0.0
    for name, weight in user.state_dict().items():
        difference = (weight - base.state_dict()[name]).double().numpy()
        total += float((difference**2).sum())
        if difference.ndim == 2:
            values = torch.linalg.eigvalsh(torch.from_numpy(difference.T @ difference)).flip(0)
            left_out += float(values[2:].sum())
    assert PersonalRankers(base, rank=2).add("ana", user) == pytest.approx((left_out / total) ** 0.5, rel=1e-3)
    assert PersonalRankers(base).add("the base itself", copy.deepcopy(base)) == 0


@pytest.mark.parametrize("rank", [None, 2])
def test_saved_users_score_the_same_in_another_object(rank: int | None, tmp_path: Path) -> None:
    base, file, given = build(), tmp_path / "users.safetensors", batch()
    personal = PersonalRankers(base, rank)
    personal.save(file)
    assert PersonalRankers.load(file, build()).users == []
    for seed, name in enumerate(("ana", "björn", "名")):
        personal.add(name, trained(base, seed))
    personal.save(file)
    loaded = PersonalRankers.load(file, build())
    assert loaded.users == personal.users and loaded.rank == rank
    assert all(torch.equal(loaded.score(user, given), personal.score(user, given)) for user in loaded.users)
    assert [path.name for path in tmp_path.iterdir()] == ["users.safetensors"]


def test_what_does_not_belong_to_the_base_is_refused(tmp_path: Path) -> None:
    base, file = build(), tmp_path / "users.safetensors"
    personal = PersonalRankers(base)
    with pytest.raises(ValueError, match=r"the ranker has temperature 0\.5, and this base 1\.0: a user's"):
        personal.add("ana", build(temperature=0.5))
    with pytest.raises(ValueError, match="the ranker has num_blocks 2, and this base 1"):
        personal.add("ana", build(num_blocks=2))
    wider = build()
    wider.more = torch.nn.Parameter(torch.zeros(1))
    with pytest.raises(ValueError, match="the ranker has other weights than the base"):
        personal.add("ana", wider)
    with pytest.raises(ValueError, match="differ from the base by more than float16 can hold"):
        personal.add("ana", trained(base, 0, size=1e6))
    broken = trained(base, 0)
    torch.nn.init.constant_(next(iter(broken.parameters())), torch.nan)
    for each in (personal, PersonalRankers(base, rank=2)):
        with pytest.raises(ValueError, match="the ranker of user 'ana' has a weight that is not finite: layers"):
            each.add("ana", broken)
    with pytest.raises(ValueError, match="cosine has no weights, so users' rankers cannot differ from it"):
        PersonalRankers(RANKERS.build("cosine"))
    with pytest.raises(ValueError, match="rank has to be a whole number of 1 or more, got 0"):
        PersonalRankers(base, rank=0)
    with pytest.raises(ValueError, match="the base has to be in float32"):
        PersonalRankers(build().double())
    assert personal.users == []
    assert personal.add("ana", build(loss="bce", optimizer="sgd")) == 0
    personal.save(file)
    with pytest.raises(ConfigError, match="belongs to a base with weights with the sha256"):
        PersonalRankers.load(file, trained(base, 7))
    with pytest.raises(ConfigError, match=r"belongs to a base with temperature 1\.0, and this base 0\.2"):
        PersonalRankers.load(file, build(temperature=0.2))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="damaged: its content does not match its sha256"):
        PersonalRankers.load(file, base)
    file.write_bytes(content[: len(content) // 2])
    for path in (file, tmp_path / "nothing"):
        with pytest.raises(ConfigError, match="not a file of personal rankers"):
            PersonalRankers.load(path, base)
    with pytest.raises(StoreError, match="cannot be written"):
        personal.save(tmp_path / "no_folder" / "users.safetensors")
