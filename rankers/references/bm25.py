"""BM25: ranks by the words that query and candidate share (Robertson and Zaragoza 2009), through bm25s."""

from collections.abc import Callable, Sequence
from typing import Any

import bm25s
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ranking.places import Places
from ranking.pool_evaluation import Qrels
from ranking.texts import check_texts


class BM25:
    """An index of a pool's texts, with Lucene's variant, k1 = 1.5, b = 0.75, and English stop words left out.

    Args:
        texts: Of the candidates, by row.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        check_texts("texts", texts)
        self._index = bm25s.BM25()
        tokens = bm25s.tokenize(list(texts), stopwords="en", show_progress=False)
        self._index.index(tokens, show_progress=False)
        self._num_candidates = len(texts)

    @classmethod
    def of(cls, pool: Any) -> "BM25":
        """The index of a CandidatePool; all of its texts are read."""
        return cls([pool.text(row) for row in range(pool.num_candidates)])

    def scores(self, query: str) -> Float[Tensor, " N"]:
        """The score of every candidate for one query; 0 where no word is shared."""
        words: Any = bm25s.tokenize([query], stopwords="en", show_progress=False, return_ids=False)
        known = [word for word in words[0] if word in self._index.vocab_dict]
        if not known:
            return torch.zeros(self._num_candidates)
        return torch.from_numpy(self._index.get_scores(known).copy())

    def places(
        self,
        texts: Sequence[str],
        qrels: Qrels,
        *,
        own: Int[Tensor, "Q L"] | None = None,
        removed: Int[Tensor, "E 2"] | None = None,
        report: Callable[[int], None] | None = None,
    ) -> Places:
        """Where each judged candidate stands, `[Q, P]`.

        Args:
            texts: Of the queries.
            qrels: Their judged candidates.
            own: Each query's own candidates, -1 beyond their end, where it ranks only these.
            removed: Pairs (place of the query, row) that are no candidates.
            report: Told of each query.
        """
        check_texts("texts", texts)
        found = Places.nowhere(*qrels.mask.shape)
        for place, text in enumerate(texts):
            scores = self.scores(text)
            there = torch.ones(len(scores), dtype=torch.bool)
            if own is not None:
                there.zero_()
                there[own[place][own[place] >= 0]] = True
            if removed is not None:
                there[removed[removed[:, 0] == place, 1]] = False
            others = scores[there].sort().values
            at = qrels.mask[place] & there[qrels.rows[place]]
            judged = scores[qrels.rows[place, at]]
            not_above = torch.searchsorted(others, judged, right=True)
            found.above[place, at] = (len(others) - not_above).double()
            found.tied[place, at] = (not_above - torch.searchsorted(others, judged) - 1).double()
            if report:
                report(1)
        return found
