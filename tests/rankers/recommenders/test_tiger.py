"""TIGER: codes of items, and a beam search that is checked against all items one by one."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_recommenders import batch_of

from rankers.recommenders import semantic_ids
from rankers.recommenders.semantic_ids import CodeTree, residual_codes
from rankers.recommenders.tiger import Tiger
from registry import ConfigError

SMALL: dict[str, Any] = {
    "dim": 16,
    "num_layers": 1,
    "num_heads": 2,
    "head_dim": 8,
    "hidden_dim": 16,
    "num_user_tokens": 3,
}
VECTORS = torch.randn(12, 6, generator=torch.Generator().manual_seed(1))


def tiger(vectors: torch.Tensor = VECTORS, **options: Any) -> Tiger:
    torch.manual_seed(0)
    ranker = Tiger(len(vectors), vectors.shape[1], **{**SMALL, "num_levels": 2, "num_codes": 4, **options})
    ranker.learn_from(SimpleNamespace(pool=[vectors[:5], vectors[5:]], seed=0))
    return ranker.eval()


def test_codes_are_all_different_and_each_level_clusters_what_the_one_before_it_leaves() -> None:
    vectors = torch.cat([VECTORS, VECTORS[:3]])
    codes = residual_codes(vectors, 2, 4)
    assert len(codes.unique(dim=0)) == len(vectors)
    assert torch.equal(codes[:3, :2], codes[12:, :2]) and (codes[:3, 2] != codes[12:, 2]).all()
    rest = vectors.double()
    for level in range(2):
        means = torch.stack([rest[codes[:, level] == code].mean(dim=0) for code in range(4)])
        # In k-means' solution each vector is nearest to the mean of its own cluster.
        assert torch.equal(torch.cdist(rest, means).argmin(dim=1), codes[:, level])
        rest = rest - means[codes[:, level]]
    with pytest.raises(ValueError, match="5 items have the same codes, and 4 codes cannot"):
        residual_codes(torch.ones(5, 2), 1, 4)


def test_a_sample_places_the_centroids_of_a_large_pool_and_every_item_gets_the_nearest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(semantic_ids, "_SAMPLE", 9)
    codes = residual_codes(VECTORS, 2, 4, seed=3)
    drawn = torch.randperm(12, generator=torch.Generator().manual_seed(3))[:9]
    rest = VECTORS.double()
    for level in range(2):
        means = torch.stack([rest[drawn][codes[drawn, level] == code].mean(dim=0) for code in range(4)])
        assert torch.equal(torch.cdist(rest, means).argmin(dim=1), codes[:, level])
        rest = rest - means[codes[:, level]]


def test_the_tree_has_the_codes_of_items_and_no_others() -> None:
    codes = torch.tensor([[0, 1, 0], [0, 1, 1], [2, 0, 0], [2, 3, 0]])
    tree = CodeTree(codes, 4)
    nodes, found = torch.zeros(1, dtype=torch.int64), []
    prefixes = [[]]
    for level in range(3):
        follow, possible = tree.children(level, nodes)
        at = possible.nonzero().tolist()
        prefixes = [[*prefixes[node], code] for node, code in at]
        nodes = torch.stack([follow[node, code] for node, code in at])
    found = [prefixes[place] for place in range(len(nodes))]
    assert found == [codes[row].tolist() for row in tree.rows[nodes].tolist()]
    assert sorted(found) == sorted(codes.tolist())


def test_wide_beams_find_all_items_with_their_probabilities_in_order() -> None:
    ranker = tiger(num_beams=20)
    batch = batch_of([[1, 2, 3], [4], []])
    with torch.no_grad():
        scores, rows = ranker.generate(batch)
        for place, history in enumerate(([1, 2, 3], [4], [])):
            one = batch_of([history], batch.user[[place]], width=3)
            tokens, _ = ranker._inputs(one.history, one.user)
            expected = torch.stack(
                [
                    -3
                    * ranker.model(
                        input_ids=tokens[:, : 1 + 3 * len(history)], labels=ranker._tokens(torch.tensor([item]))
                    ).loss
                    for item in range(12)
                ]
            )
            order = expected.argsort(descending=True)
            assert rows[place].tolist() == [*order.tolist(), *[-1] * 8]
            torch.testing.assert_close(scores[place, :12], expected[order], rtol=1e-4, atol=1e-4)
    few = tiger(num_beams=3).generate(batch)[1]
    assert few.shape == (3, 3) and (few >= 0).all()


def test_steps_lower_the_loss_and_items_of_one_vector_are_refused() -> None:
    ranker = tiger(dropout=0.0).train()
    optimizer, losses = torch.optim.Adam(ranker.parameters(), lr=0.01), []
    for _ in range(40):
        optimizer.zero_grad()
        loss = ranker.training_loss(batch_of([[1, 2, 3, 4], [5, 6], [7, 8, 9]]))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    with pytest.raises(ConfigError, match=r"(?s)ranker.num_codes: 12 items have the same codes.*more codes"):
        tiger(torch.ones(12, 6))
