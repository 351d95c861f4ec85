"""Recommenders: their formulas as plain loops compute them, and what all of them keep to."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from rankers.recommenders import full_softmax
from rankers.recommenders.full_softmax import full_softmax_loss
from rankers.recommenders.gru4rec import GRU4Rec
from rankers.recommenders.recommender import Recommender, last_items
from ranking.losses import bpr_max
from ranking.pools.pool_batch import PoolBatch
from registry import RANKERS, ConfigError

NUM_ITEMS, USERS = 12, torch.tensor([3, 5, 8, 11])
NAMES = ["sasrec", "gru_prefix", "gru4rec", "bert4rec", "bpr", "fm"]
HISTORIES = [[1, 2, 3, 4, 5], [6], [7, 8, 9], [10, 2, 0, 4]]


def batch_of(histories: list[list[int]], users: Tensor = USERS, width: int = 0) -> PoolBatch:
    width = max(width, *map(len, histories))
    items = torch.tensor([each + [-1] * (width - len(each)) for each in histories], dtype=torch.int64)
    rows = items[:, -1].clamp(min=0) if width else torch.zeros(len(items)).long()
    return PoolBatch(
        labels=torch.eye(len(items)),
        mask=torch.ones(len(items), len(items)).bool(),
        group=torch.arange(len(items)),
        slot=rows.expand(len(items), -1),
        rows=rows,
        candidates=torch.zeros(len(items), 0),
        tokens=torch.zeros(len(items), 0).long(),
        lengths=torch.zeros(len(items)).long(),
        partition=torch.full((len(items),), -1),
        history=items,
        user=users[: len(items)],
    )


def build(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    ranker = RANKERS.build({"name": name, "dim": 8, **options}, num_items=NUM_ITEMS, num_users=len(USERS))
    counts = torch.arange(NUM_ITEMS)
    ranker.learn_from(SimpleNamespace(users=USERS, seed=3, sequences=SimpleNamespace(flat=counts.repeat(2))))
    reduced = SimpleNamespace(reduce=lambda value, reduce_op: value)
    ranker._trainer = SimpleNamespace(strategy=reduced, current_epoch=0, global_step=0, world_size=1, global_rank=0)
    with torch.no_grad():
        for weight in ranker.parameters():
            weight += 0.1 * torch.randn(weight.shape)
    return ranker.eval()


def scores(ranker: Recommender, batch: PoolBatch) -> Tensor:
    with torch.no_grad():
        return ranker.query_vectors(batch)[:, 0] @ ranker.candidates_to_rank().T


@pytest.mark.parametrize("name", NAMES)
def test_padding_and_other_users_make_no_difference(name: str) -> None:
    ranker = build(name)
    found = scores(ranker, batch_of(HISTORIES))
    assert found.shape == (4, NUM_ITEMS)
    torch.testing.assert_close(scores(ranker, batch_of(HISTORIES, width=9)), found)
    for place, history in enumerate(HISTORIES):
        torch.testing.assert_close(scores(ranker, batch_of([history], USERS[[place]])), found[[place]])


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_history_and_an_unknown_user_have_finite_scores(name: str) -> None:
    ranker = build(name)
    assert scores(ranker, batch_of([[], [4]], torch.tensor([77, 78]))).isfinite().all()
    assert scores(ranker, batch_of([[]], torch.tensor([77]), width=0)).isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_without_users_has_no_states(name: str) -> None:
    ranker, batch = build(name), batch_of(HISTORIES)
    assert ranker.query_vectors(batch.only(torch.zeros(0, dtype=torch.int64))).shape == (
        0,
        *ranker.query_vectors(batch).shape[1:],
    )


@pytest.mark.parametrize("name", ["sasrec", "gru_prefix"])
def test_each_item_is_predicted_as_from_the_history_before_it(name: str) -> None:
    ranker = build(name, max_length=5)
    found = ranker.positions(batch_of(HISTORIES))
    for place, history in enumerate(HISTORIES):
        for at in range(1, len(history)):
            assert found.mask[place, at - 1] and found.targets[place, at - 1] == history[at]
            if name == "gru_prefix":  # SASRec's positions are counted from the end of what is read
                alone = ranker.user_states(batch_of([history[:at]]))
                torch.testing.assert_close(found.states[place, at - 1], alone[0])
        if len(history) > 1:
            other = ranker.positions(batch_of([[*history[:-1], 11]]))
            torch.testing.assert_close(other.states[0, : len(history) - 1], found.states[place, : len(history) - 1])
    assert int(found.mask.sum()) == sum(len(each) - 1 for each in HISTORIES)


@pytest.mark.parametrize("name", ["sasrec", "gru_prefix", "bert4rec"])
def test_of_a_long_history_the_latest_items_are_read(name: str) -> None:
    ranker = build(name, max_length=4)
    read = 3 if name == "bert4rec" else 4
    torch.testing.assert_close(
        scores(ranker, batch_of([[9, 9, 9, 1, 2, 3, 4]])), scores(ranker, batch_of([[1, 2, 3, 4][-read:]]))
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_weight_that_a_step_uses_gets_a_finite_gradient_and_steps_lower_the_loss(name: str) -> None:
    ranker = build(name).train()
    optimizer = torch.optim.Adam(ranker.parameters(), lr=0.02)
    histories = HISTORIES if name != "gru4rec" else [each[:2] for each in HISTORIES if len(each) > 1]
    losses = []
    for step in range(60):
        torch.manual_seed(step % 3)
        optimizer.zero_grad()
        loss = ranker.training_loss(batch_of(histories))
        loss.backward()
        for weight_name, weight in ranker.named_parameters():
            assert weight.grad is not None and weight.grad.isfinite().all(), weight_name
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3])


def test_the_softmax_over_all_items_is_pytorchs_with_its_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(full_softmax, "_MEMORY", 3 * NUM_ITEMS)
    states, items = torch.randn(10, 5), torch.randn(NUM_ITEMS, 5)
    targets = torch.randint(NUM_ITEMS, (10,))
    ours, theirs = ([each.clone().requires_grad_() for each in (states, items)] for _ in range(2))
    loss = full_softmax_loss(*ours, targets)
    double = [each.double() for each in theirs]
    expected = torch.nn.functional.cross_entropy(double[0] @ double[1].T, targets, reduction="sum")
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    (3 * loss).backward()
    (3 * expected).backward()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-5, atol=1e-5)


def test_sasrec_is_the_formula_of_its_paper() -> None:
    ranker = build("sasrec", num_blocks=1, num_heads=1, max_length=6).double()
    items = [3, 7, 1]

    def norm(x: Tensor, layer: Any) -> Tensor:
        return (x - x.mean()) / (x.var(unbiased=False) + 1e-8).sqrt() * layer.weight + layer.bias

    (block,) = ranker.blocks
    inputs = [ranker.items.weight[item] * 8**0.5 + ranker.places.weight[3 + at] for at, item in enumerate(items)]
    (key, value), (key_bias, value_bias) = block.key_value.weight.chunk(2), block.key_value.bias.chunk(2)
    asked = norm(inputs[2], block.before)
    query = block.query.weight @ asked + block.query.bias
    logits = torch.stack([query @ (key @ x + key_bias) / 8**0.5 for x in inputs])
    found = sum(share * (value @ x + value_bias) for share, x in zip(logits.softmax(0), inputs, strict=True))
    attended = norm(asked + found, block.between)
    inner = (block.wide.weight @ attended + block.wide.bias).relu()
    state = norm(attended + block.narrow.weight @ inner + block.narrow.bias, ranker.norm)
    torch.testing.assert_close(ranker.user_states(batch_of([items]))[0], state)


def test_fm_is_the_sum_over_all_pairs_of_fields() -> None:
    ranker = build("fm", num_last=2).double()
    history, user = HISTORIES[0], 1
    found = scores(ranker, batch_of([history], USERS[[user]]))[0]
    fields = [(ranker.users.table.weight[user], 1.0)] + [(ranker.seen.weight[item], 0.5) for item in history[-2:]]
    of_history = sum(x * y * (a @ b) for place, (a, x) in enumerate(fields) for b, y in fields[place + 1 :])

    def machine(candidate: int) -> Tensor:
        pairs = [*fields, (ranker.items.weight[candidate], 1.0)]
        both = sum(x * y * (a @ b) for place, (a, x) in enumerate(pairs) for b, y in pairs[place + 1 :])
        return ranker.bias[candidate] + both

    expected = torch.stack([machine(item) - of_history for item in range(NUM_ITEMS)])
    torch.testing.assert_close(found, expected)
    before = ranker.positions(batch_of([history], USERS[[user]])).states[0, 3]
    torch.testing.assert_close(
        before @ ranker.item_table().T, scores(ranker, batch_of([history[:3]], USERS[[user]]))[0]
    )


def test_bpr_is_the_loss_of_its_paper_with_the_drawn_items() -> None:
    ranker = build("bpr")
    batch = batch_of(HISTORIES[:1])
    torch.manual_seed(5)
    drawn, allowed = ranker.draw_negatives(batch, batch.history, 1)
    torch.manual_seed(5)
    loss = ranker.training_loss(batch)
    assert bool(allowed.all()) and not set(drawn.flatten().tolist()) & set(HISTORIES[0])
    user, table, bias = ranker.users.table.weight[0].double(), ranker.items.weight.double(), ranker.bias.double()
    apart = [
        user @ (table[i] - table[j]) + bias[i] - bias[j]
        for i, j in zip(HISTORIES[0], drawn.flatten().tolist(), strict=True)
    ]
    assert loss.item() == pytest.approx(-torch.stack(apart).sigmoid().log().mean().item(), rel=1e-5)


def test_gru4rec_carries_states_over_and_begins_anew_with_each_sequence() -> None:
    ranker = build("gru4rec", num_samples=0)
    whole = ranker.gru(ranker.items(torch.tensor([[1, 2, 3]])))[0][0]
    batch = batch_of([[1, 2], [7, 8]])
    torch.testing.assert_close(ranker.positions(batch).states[0, 0], whole[0])
    torch.testing.assert_close(ranker.positions(batch_of([[2, 3], [8, 9]])).states[0, 0], whole[1])
    last = batch_of([[3, 4], [1, 2]])
    last.group[1] = 9
    found = ranker.positions(last).states[:, 0]
    torch.testing.assert_close(found, torch.stack([whole[2], whole[0]]))
    state = ranker.user_states(batch_of([[1, 2, 3]]))[0]
    torch.testing.assert_close(state, torch.cat([whole[2], torch.ones(1)]))


def test_gru4recs_negatives_are_other_users_items_and_drawn_ones_corrected_by_their_chances() -> None:
    ranker = build("gru4rec", num_samples=5, alpha=0.5, logq=1.0)
    batch = batch_of([[1, 2], [7, 8], [5, 2]])
    drawn = ranker._samples().tolist()
    assert drawn == ranker._samples().tolist()
    loss = ranker.training_loss(batch)
    ranker._lanes = None
    states = ranker.positions(batch).states[:, 0].double()
    counts = torch.full((NUM_ITEMS,), 2.0).double()
    rows = [2, 8, 2, *drawn]
    chances = [(counts / counts.sum())[row] for row in rows[:3]] + [
        (counts**0.5 / (counts**0.5).sum())[row] for row in drawn
    ]
    total = 0.0
    for place, target in enumerate((2, 8, 2)):
        logits = {
            at: (states[place] @ ranker.items.weight[row].double() + ranker.bias[row] - chances[at].log()).item()
            for at, row in enumerate(rows)
        }
        right = logits[rows.index(target)]
        rivals = [right, *(value for at, value in logits.items() if rows[at] != target)]
        total += torch.tensor(rivals).double().logsumexp(0).item() - right
    assert loss.item() == pytest.approx(total / 3, rel=1e-5)


def test_chances_correct_the_cross_entropy_alone() -> None:
    batch, losses = batch_of([[1, 2], [7, 8], [5, 2]]), {}
    for loss in ("infonce", "bpr_max"):
        for logq in (0.0, 1.0):
            losses[loss, logq] = build("gru4rec", loss=loss, num_samples=5, logq=logq).training_loss(batch).item()
    assert losses["bpr_max", 0.0] == losses["bpr_max", 1.0] and losses["infonce", 0.0] != losses["infonce", 1.0]


def test_bpr_max_is_its_formula() -> None:
    scores, labels = torch.tensor([[1.0, 0.5, -2.0, 9.0]]), torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    mask = torch.tensor([[True, True, True, False]])
    weights = torch.tensor([0.5, -2.0]).double().softmax(0)
    likely = weights[0] * torch.sigmoid(torch.tensor(0.5)) + weights[1] * torch.sigmoid(torch.tensor(3.0))
    expected = -likely.log() + 0.3 * (weights[0] * 0.25 + weights[1] * 4)
    assert bpr_max(scores, labels, mask, regularization=0.3).item() == pytest.approx(expected.item(), rel=1e-6)
    scores.requires_grad_()
    bpr_max(scores, labels * 0, mask).backward()
    assert scores.grad is not None and scores.grad.isfinite().all()


def test_bert4rec_sees_only_the_mask_at_what_it_predicts() -> None:
    ranker = build("bert4rec", mask=0.5, only_last=0.0)
    torch.manual_seed(1)
    found = ranker.positions(batch_of(HISTORIES))
    assert found.mask.any(dim=1).all() and not found.mask.all()
    changed = [
        [11 if found.mask[place, at] else item for at, item in enumerate(each)] for place, each in enumerate(HISTORIES)
    ]
    torch.manual_seed(1)
    other = ranker.positions(batch_of(changed))
    torch.testing.assert_close(other.states[found.mask], found.states[found.mask])
    last = build("bert4rec", only_last=0.999).positions(batch_of(HISTORIES))
    assert last.mask.nonzero()[:, 1].tolist() == [len(each) - 1 for each in HISTORIES]


def test_negatives_are_never_of_the_users_own_sequence_unless_there_are_no_others() -> None:
    ranker = build("sasrec", loss="bce", num_negatives=6)
    batch = batch_of([list(range(10)), [1]])
    drawn, allowed = ranker.draw_negatives(batch, batch.history, 6)
    for own, rows, fine in zip(([*range(10)], [1]), drawn, allowed, strict=True):
        assert not set(rows[fine].tolist()) & set(own)
    assert allowed.float().mean() > 0.7
    whole = batch_of([list(range(NUM_ITEMS))])
    assert not ranker.draw_negatives(whole, whole.history, 2)[1].any()
    assert ranker.training_loss(whole).isfinite()


def test_last_items_of_histories_of_any_length() -> None:
    assert last_items(torch.full((2, 0), -1), 3).tolist() == [[-1], [-1]]
    assert last_items(torch.tensor([[-1, -1]]), 1).tolist() == [[-1]]


def test_options_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"(?s)ranker.num_negatives: bce compares items with drawn ones.*infonce"):
        build("sasrec", loss="bce")
    for name in ("sasrec", "bert4rec"):
        with pytest.raises(ConfigError, match="3 heads cannot share a dim of 8"):
            build(name, num_heads=3)
    with pytest.raises(ConfigError, match="max_length: 1 leaves no place for an item"):
        build("bert4rec", max_length=1)
    assert isinstance(build("gru4rec", loss="bpr_max"), GRU4Rec)
