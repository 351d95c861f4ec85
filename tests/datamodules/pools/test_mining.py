from itertools import pairwise
from pathlib import Path

import pytest
import torch
from pools import write_pool

from datamodules.pools import mining
from datamodules.pools.judgements import Judgements
from datamodules.pools.mining import MinedLists, Scoring


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("at_once", [7, 1000])
def test_mined_candidates_are_the_nearest_by_cosine_but_no_right_ones(
    tmp_path: Path, normalize: bool, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mining, "_QUERIES_A_SCAN", at_once)
    pool = write_pool(tmp_path / "pool", normalize=normalize)
    queries = torch.arange(0, 60, 3)
    mined = MinedLists.mine(Scoring.of_encoder(pool, "cpu"), queries, 10, Judgements(pool, exclude_history=False))
    bounds = list(pairwise(pool.queries.relevant_offsets.tolist()))
    for query in queries.tolist():
        vector = pool.queries.features(torch.tensor([query]))[0].double()
        cosines = torch.stack(
            [vector @ each / vector.norm() / each.norm() for each in torch.cat(list(pool.blocks())).double()]
        )
        right = pool.queries.relevant[slice(*bounds[query])].tolist()
        expected = [row for row in cosines.argsort(descending=True).tolist() if row not in right][:10]
        rows, scores = mined.of(torch.tensor([query]))
        assert rows[0].tolist() == expected
        torch.testing.assert_close(scores[0].double(), cosines[expected], rtol=1e-5, atol=1e-6)
        score = mined.score(torch.tensor([query]), torch.tensor(right[:1]))
        torch.testing.assert_close(score.double(), cosines[right[:1]], rtol=1e-5, atol=1e-6)
