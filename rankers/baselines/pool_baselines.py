"""PoolBaselines: what BM25 and the frozen encoder make of the same queries and the same pool."""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

from jaxtyping import Float
from rich.console import Console
from torch import Tensor, nn

from rankers.baselines.bm25 import BM25
from rankers.pool_table import PoolTable
from ranking.pool_evaluation import Relevant

Baseline = Literal["bm25", "encoder"]

# Beyond this, an index of words takes more memory than the machines that run it have.
_MOST_TEXTS = 2_000_000


class PoolBaselines:
    """Ranks by scorers that are not trained, computed once for the same queries.

    Args:
        table: The pool.
    """

    def __init__(self, table: PoolTable) -> None:
        self.table = table
        self._found: dict[tuple[str, str], Float[Tensor, "Q P"]] = {}

    def ranks(
        self, names: Sequence[Baseline], relevant: Relevant, *, distributed: bool, **limits: Any
    ) -> dict[str, Float[Tensor, "Q P"]]:
        """The rank of each relevant candidate, by baseline.

        Args:
            names: Which baselines; BM25 is left out, and a line says so, where a pool is too large to index.
            relevant: The queries and their relevant candidates.
            distributed: Whether processes share the scan of the pool.
            limits: What limits the candidates, `own` and `removed`.
        """
        queries = hashlib.sha256(relevant.queries.numpy().tobytes()).hexdigest()
        if "bm25" in names and self.table.pool.num_candidates > _MOST_TEXTS:
            names = [name for name in names if name != "bm25"]
            line = f"BM25 is left out: an index of {self.table.pool.num_candidates:,} texts would not fit in memory"
            Console(stderr=True).print(line, highlight=False, soft_wrap=True)
        for name in names:
            if (name, queries) not in self._found:
                compute = self._bm25_ranks if name == "bm25" else self._encoder_ranks
                self._found[name, queries] = compute(relevant, distributed, limits)
        return {name: self._found[name, queries] for name in names}

    @cached_property
    def _bm25(self) -> BM25:
        return BM25.of(self.table.pool)

    def _bm25_ranks(self, relevant: Relevant, distributed: bool, limits: dict[str, Any]) -> Float[Tensor, "Q P"]:
        texts = [self.table.pool.queries.text(query) for query in relevant.queries.tolist()]
        return self._bm25.ranks(texts, relevant, **limits)

    def _encoder_ranks(self, relevant: Relevant, distributed: bool, limits: dict[str, Any]) -> Float[Tensor, "Q P"]:
        """By cosine of the encoder's own vectors: zero-shot."""
        vectors = nn.functional.normalize(self.table.pool.queries.features(relevant.queries).float(), dim=1)
        given = {"inverse_norms": self.table.inverse_norms, "distributed": distributed, **limits}
        return relevant.ranks(vectors.to(self.table.device).unsqueeze(1), self.table.candidates, **given)[0]
