"""PromptedRanker: the base of rankers that ask a language model about the candidates of a query."""

from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, NamedTuple, Unpack

import torch
from annotated_types import Interval
from jaxtyping import Float
from torch import Tensor

from language_models.asking.asker import Asker
from language_models.asking.replies import Chat
from rankers.judging.judging import Judging
from rankers.prompted.prompted import ModelOptions, Prompted
from rankers.text.reranking import Rerank, RerankJudging
from ranking.batch import Batch, TextBatch
from ranking.pools.pool_batch import PoolBatch
from ranking.pools.pool_data import PoolData, Reading


class Questions(NamedTuple):
    """Chats for the model; with `choices`, it is asked how likely each of these answers is, not what it says."""

    chats: Sequence[Chat]
    choices: tuple[str, ...] | None = None


Answers = list[str] | list[list[float]] | None
"""The texts of the answers, or the log-probabilities of the choices; None if the model does not tell those."""

Asking = Generator[Questions, Answers, list[float]]
"""A ranking in progress: yields questions, is sent their answers, and returns the score of each candidate."""


class AskingOptions(ModelOptions, total=False):
    """Options of all rankers that ask a language model about candidates.

    Args:
        rerank: Over a pool, which of its candidates are read; null to rank groups of texts.
        max_words: The most words of a passage that the model is shown; 300 in RankGPT.
    """

    rerank: Rerank | None
    max_words: Annotated[int, Interval(ge=1, le=1_000_000)]


class PromptedRanker(Prompted[TextBatch]):
    """A ranker that asks about each query's candidates, in the order of the data, or over a pool of its first ranker.

    A subclass implements `ranking`.
    """

    batch_type: ClassVar[type[Batch]] = TextBatch

    def __init__(self, *, rerank: Rerank | None = None, max_words: int = 300, **model: Unpack[ModelOptions]) -> None:
        super().__init__(**model)
        self.rerank, self._max_words = rerank, max_words

    @classmethod
    def batch_and_judging(cls, options: Mapping[str, Any]) -> tuple[type[Batch], type[Judging]]:
        """Groups of texts; with `rerank`, a pool."""
        return (PoolBatch, RerankJudging) if options.get("rerank") else (cls.batch_type, cls.judging)

    @property
    def data(self) -> PoolData:
        """The run's pool and queries."""
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def reading(self) -> Reading:
        """Read nothing but texts, which are taken from the pool."""
        return Reading()

    def ranking(self, query: str, candidates: Sequence[str], faults: Counter[str]) -> Asking:
        """Rank the candidates of one query: `answers = yield Questions(chats)`, then return a score for each candidate.

        Args:
            query: The query's text.
            candidates: Their texts, at least two, in the order that they are in.
            faults: Where answers that cannot be used are counted.
        """
        raise TypeError(f"{type(self).__name__} does not say what to ask: write ranking(query, candidates, faults)")

    def forward(self, batch: TextBatch) -> Float[Tensor, "B K"]:
        """Score every candidate of every query."""
        texts = [
            [text for text, there in zip(row, mask, strict=True) if there]
            for row, mask in zip(batch.candidates, batch.mask.tolist(), strict=True)
        ]
        scores = self.score(batch.queries, texts).to(batch.labels.device)
        return scores.new_zeros(batch.mask.shape).masked_scatter(batch.mask, scores)

    def score(self, queries: Sequence[str], candidates: Sequence[Sequence[str]]) -> Float[Tensor, " N"]:
        """The scores of all candidates, query by query; the questions about all queries are asked together.

        Args:
            queries: One text for each list of candidates.
            candidates: The candidates of each query.
        """
        cost = self.count(len(queries))
        rankings = [
            self.ranking(query, [self._shortened(text) for text in texts], cost.faults) if len(texts) > 1 else None
            for query, texts in zip(queries, candidates, strict=True)
        ]
        found = _finished(rankings, self._asker)
        scores = [found.get(place, [0.0] * len(texts)) for place, texts in enumerate(candidates)]
        return torch.tensor([score for each in scores for score in each], dtype=torch.float32)

    def _shortened(self, text: str) -> str:
        words = text.split()
        return text if len(words) <= self._max_words else " ".join(words[: self._max_words])


def _finished(rankings: Sequence[Asking | None], asker: Asker) -> dict[int, list[float]]:
    """Run rankings step by step; in each step, the questions of all those that go on are asked together."""
    found: dict[int, list[float]] = {}
    sent: dict[int, Answers] = {place: None for place, each in enumerate(rankings) if each is not None}
    while sent:
        asked: dict[int, Questions] = {}
        for place, answers in sent.items():
            ranking = rankings[place]
            assert ranking is not None
            try:
                asked[place] = ranking.send(answers)
            except StopIteration as stop:
                found[place] = stop.value
        sent = {}
        for choices in dict.fromkeys(questions.choices for questions in asked.values()):
            alike = {place: questions for place, questions in asked.items() if questions.choices == choices}
            chats = [chat for questions in alike.values() for chat in questions.chats]
            answers = asker.ask(chats) if choices is None else asker.likelihoods(chats, choices)
            start = 0
            for place, questions in alike.items():
                end = start + len(questions.chats)
                sent[place] = None if answers is None else answers[start:end]
                start = end
    return found
