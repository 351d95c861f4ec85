"""BM25: ranks by the words that query and candidate share (Robertson and Zaragoza 2009), through bm25s."""

from collections.abc import Sequence
from typing import Any

import bm25s
import torch
from jaxtyping import Float, Int
from rich.progress import track
from torch import Tensor

from ranking.pool_evaluation import Relevant
from ranking.text_lists import check_texts


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

    def ranks(
        self,
        texts: Sequence[str],
        relevant: Relevant,
        *,
        own: Int[Tensor, "Q L"] | None = None,
        removed: Int[Tensor, "E 2"] | None = None,
    ) -> Float[Tensor, "Q P"]:
        """The rank of each relevant candidate, 1 + those scored higher + half of the ties.

        Args:
            texts: Of the queries.
            relevant: Their relevant candidates.
            own: Each query's own candidates, -1 beyond their end, where it ranks only these.
            removed: Pairs (place of the query, row) that are no candidates.
        """
        check_texts("texts", texts)
        found = torch.zeros(relevant.mask.shape, dtype=torch.float64)
        for place, text in enumerate(track(texts, "BM25", transient=True, disable=len(texts) < 1000)):
            scores = self.scores(text)
            there = torch.ones(len(scores), dtype=torch.bool)
            if own is not None:
                there.zero_()
                there[own[place][own[place] >= 0]] = True
            if removed is not None:
                there[removed[removed[:, 0] == place, 1]] = False
            for at in relevant.mask[place].nonzero().flatten().tolist():
                row = int(relevant.rows[place, at])
                # A relevant candidate that is not among those to rank comes after all of them.
                score = scores[row] if there[row] else -torch.inf
                others = scores[there]
                tied = int((others == score).sum()) - bool(there[row])
                found[place, at] = 1 + int((others > score).sum()) + tied / 2
        return found
