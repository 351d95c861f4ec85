"""QueryRewriter: a language model writes the search query, and a retriever ranks the pool for it (Rec-R1)."""

import json
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from typing import Any, ClassVar, Literal, Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from language_models.encoder import Encoder
from rankers.judging.judging import Judging
from rankers.judging.scores import ScoreJudging
from rankers.prompted.answers import final_answer
from rankers.prompted.prompted import ModelOptions, Prompted
from rankers.references.bm25 import BM25Index
from ranking.batch import Batch
from ranking.pools.pool_batch import PoolBatch
from ranking.pools.pool_data import PoolData, Reading
from ranking.stores.candidate_pool import CandidatePool
from ranking.vectors.search import inverse_norms
from registry import RANKERS
from registry.ranges import Text

_PROMPT = (
    "You are an expert in search. Write the search query with which {retriever} finds what is asked for below.\n\n"
    "{query}\n\nThink inside <think> and </think>, then give the search query inside <answer> and </answer> as JSON, "
    'such as <answer>{"query": "words to search for"}</answer>.'
)
_RETRIEVERS = {"bm25": "a search engine that matches words (BM25)", "encoder": "a search engine that matches meanings"}


@RANKERS.register("query_rewriter")
class QueryRewriter(Prompted[PoolBatch]):
    """Rec-R1 at test time (Lin et al. 2025, arXiv 2503.24289): ranks the pool by a retriever's scores of a new query.

    Without a usable answer the query stays as it is, which is counted.

    Note:
        The paper trains the language model by GRPO, with the NDCG of what is found as reward. That is not here: name a
        model that was trained elsewhere as the generator.

    Args:
        retriever: What ranks the pool: `bm25`, or the `encoder` that made the pool's vectors.
        prompt: The question, with `{query}` in it; null for the default.
    """

    batch_type: ClassVar[type[Batch]] = PoolBatch
    judging: ClassVar[type[Judging]] = ScoreJudging

    def __init__(
        self,
        retriever: Literal["bm25", "encoder"] = "bm25",
        prompt: Text | None = None,
        **model: Unpack[ModelOptions],
    ) -> None:
        super().__init__(**model)
        if prompt is not None and "{query}" not in prompt:
            raise ValueError("the prompt must contain {query}")
        self._retriever, self._prompt = retriever, prompt
        self._indexed: tuple[CandidatePool, BM25Index] | None = None

    def reading(self) -> Reading:
        """Read nothing but texts, which are taken from the pool."""
        return Reading()

    @property
    def data(self) -> PoolData:
        """The run's pool and queries."""
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def lacks(self, data: Any) -> str | None:
        """Report a pool whose encoder is not known."""
        if self._retriever == "encoder" and data.pool.encoder is None:
            return "no encoder made the pool's vectors"
        return None

    def forward(self, batch: PoolBatch) -> Float[Tensor, "B N"]:
        """Every candidate's score for what the model makes of each query."""
        texts = [self.data.pool.queries.text(query) for query in batch.group.tolist()]
        return self._scores(self.rewritten(texts))

    def rewritten(self, queries: list[str]) -> list[str]:
        """The search query that the model writes for each query."""
        faults = self.count(len(queries)).faults
        return [
            search_query(answer, faults) or query
            for query, answer in zip(queries, self.ask([self._chat(query) for query in queries]), strict=True)
        ]

    def _chat(self, query: str) -> list[dict[str, str]]:
        prompt = self._prompt or _PROMPT.replace("{retriever}", _RETRIEVERS[self._retriever])
        return [{"role": "user", "content": prompt.replace("{query}", query)}]

    def _scores(self, queries: list[str]) -> Float[Tensor, "B N"]:
        pool = self.data.pool
        if not queries:
            return torch.empty(0, pool.num_candidates)
        if self._retriever == "bm25":
            if self._indexed is None or self._indexed[0] is not pool:
                self._indexed = pool, BM25Index([pool.text(row) for row in range(pool.num_candidates)])
            return torch.stack([self._indexed[1].scores(query) for query in queries])
        vectors = torch.nn.functional.normalize(self._encoder.encode(queries, self._encoder.query_prompt), dim=1)
        norms = 1 if pool.normalized else inverse_norms(pool)
        return torch.cat([vectors @ block.float().T for block in pool.blocks()], dim=1) * norms

    @cached_property
    def _encoder(self) -> Encoder:
        return Encoder(**(self.data.pool.encoder or {}))


def search_query(answer: str, faults: Counter[str]) -> str | None:
    """The search query in an answer: `query` of its JSON, or else all of its text; None if there is none.

    Example:
        >>> search_query('<think>hm</think><answer>{"query": "blue car"}</answer>', Counter())
        'blue car'
    """
    found: Any = final_answer(answer)
    with suppress(ValueError):
        found = json.loads(found)
    if isinstance(found, Mapping):
        found = found.get("query")
    if not isinstance(found, str) or not found.strip():
        faults["no search query"] += 1
        return None
    return found.strip()
