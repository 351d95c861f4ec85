"""PoolBaselines: what BM25 and the frozen encoder make of the same queries and the same pool."""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

from rich.console import Console
from torch import nn

from console.progress import WorkProgress
from rankers.pool_table import PoolTable
from rankers.references.bm25 import BM25
from ranking.places import Places
from ranking.pool_evaluation import Qrels

Baseline = Literal["bm25", "encoder"]

# Beyond this, an index of words takes more memory than the machines that run it have.
_MOST_TEXTS = 2_000_000


class PoolBaselines:
    """Places by scorers that are not trained, computed once for the same queries.

    Args:
        table: The pool.
    """

    def __init__(self, table: PoolTable) -> None:
        self.table = table
        self._found: dict[tuple[str, str], Places] = {}

    def places(self, names: Sequence[Baseline], qrels: Qrels, *, distributed: bool, **limits: Any) -> dict[str, Places]:
        """Where each judged candidate stands, `[Q, P]`, by baseline.

        Args:
            names: Which baselines; BM25 is left out, and a line says so, where a pool is too large to index.
            qrels: The queries and their judged candidates.
            distributed: Whether processes share the scan of the pool.
            limits: What limits the candidates, `own` and `removed`.
        """
        queries = hashlib.sha256(qrels.queries.numpy().tobytes()).hexdigest()
        if "bm25" in names and self.table.pool.num_candidates > _MOST_TEXTS:
            names = [name for name in names if name != "bm25"]
            line = f"BM25 is left out: an index of {self.table.pool.num_candidates:,} texts would not fit in memory"
            Console(stderr=True).print(line, highlight=False, soft_wrap=True)
        for name in names:
            if (name, queries) not in self._found:
                compute = self._bm25_places if name == "bm25" else self._encoder_places
                self._found[name, queries] = compute(qrels, distributed, limits)
        return {name: self._found[name, queries] for name in names}

    @cached_property
    def _bm25(self) -> BM25:
        return BM25.of(self.table.pool)

    def _bm25_places(self, qrels: Qrels, distributed: bool, limits: dict[str, Any]) -> Places:
        texts = [self.table.pool.queries.text(query) for query in qrels.queries.tolist()]
        with WorkProgress(len(texts), doing="BM25", done="BM25: ranked", unit="queries", brief=True) as shown:
            return self._bm25.places(texts, qrels, **limits, report=shown.report)

    def _encoder_places(self, qrels: Qrels, distributed: bool, limits: dict[str, Any]) -> Places:
        """By cosine of the encoder's own vectors: zero-shot."""
        vectors = nn.functional.normalize(self.table.pool.queries.features(qrels.queries).float(), dim=1)
        given = {"inverse_norms": self.table.inverse_norms, "distributed": distributed, **limits}
        found = qrels.places(vectors.to(self.table.device).unsqueeze(1), self.table.candidates, **given)
        return Places(*(each[0] for each in found))
