"""GenerationJudging: a ranker that generates some candidates of the pool for each query, best first."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rankers.judging.scores import ScoreJudging
from ranking.pools.pool_batch import PoolBatch


class GenerationJudging(ScoreJudging):
    """Calls the ranker's `generate(batch)`, which returns scores and rows of k candidates per query, `[B, k]`.

    Rows of -1 are ignored. If a row occurs twice, the higher score counts. Candidates that were not generated are not
    ranked: if one of them is judged, it counts as never found.
    """

    def scores(self, batch: PoolBatch, num_candidates: int) -> tuple[Float[Tensor, "B N"], Bool[Tensor, "B N"]]:
        """The scores of the generated candidates."""
        scores, rows = (each.cpu() for each in self.ranker.generate(batch))
        if bool((rows >= num_candidates).any()):
            raise ValueError(f"{self.ranker.name} generated row {int(rows.max())} of {num_candidates} candidates")
        given = rows >= 0
        found = torch.full((len(rows), num_candidates + 1), -torch.inf)
        found.scatter_reduce_(1, rows.masked_fill(~given, num_candidates), scores.float(), "amax")
        there = torch.zeros(found.shape, dtype=torch.bool)
        there.scatter_(1, rows.masked_fill(~given, num_candidates), True)
        return found[:, :num_candidates], there[:, :num_candidates]
