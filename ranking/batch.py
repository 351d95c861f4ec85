"""Batch: the candidates of B queries, what they are labelled, and which of them exist."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

B = TypeVar("B", bound="Batch")


@dataclass
class Batch:
    """B groups of up to K candidates; the letters B and K mean this in every shape of the project.

    Args:
        labels: Relevance, higher is better; anything where the mask is False.
        mask: True where a candidate exists.
        group: Which group of the store each row is, for per-query results and error messages.
        slot: Each candidate's place in the store, -1 where there is none.
        weight: Its number of groups by that of a full batch; its loss counts as much, so that each group of a step
            weighs the same, in small batches too.
        answer: Where answers were compared, which one each candidate gives: equal numbers are equal answers, 0 is none.
        log_probability: Where it is known, that of each response, in nats; nan for single responses without one.
        num_tokens: Where it is known, that of each response; -1 for single responses without one.
        self_certainty: Where it is known, that of each response, in nats; nan for single responses without one.
        performance: Where candidates are models to choose from, how well each answers the query.
        cost: Where candidates are models to choose from, what the answer of each costs; nan where it is unknown.
        beam: Where a beam search was made, the label of what it found for each query, nan where there is none.
    """

    labels: Float[Tensor, "B K"]
    mask: Bool[Tensor, "B K"]
    group: Int[Tensor, " B"]
    slot: Int[Tensor, "B K"]
    weight: float = dataclasses.field(default=1.0, kw_only=True)
    answer: Int[Tensor, "B K"] | None = dataclasses.field(default=None, kw_only=True)
    log_probability: Float[Tensor, "B K"] | None = dataclasses.field(default=None, kw_only=True)
    num_tokens: Int[Tensor, "B K"] | None = dataclasses.field(default=None, kw_only=True)
    self_certainty: Float[Tensor, "B K"] | None = dataclasses.field(default=None, kw_only=True)
    performance: Float[Tensor, "B K"] | None = dataclasses.field(default=None, kw_only=True)
    cost: Float[Tensor, "B K"] | None = dataclasses.field(default=None, kw_only=True)
    beam: Float[Tensor, " B"] | None = dataclasses.field(default=None, kw_only=True)

    def to(self: B, device: torch.device | str) -> B:
        """The same batch with every tensor on the device."""
        return dataclasses.replace(self, **{name: value.to(device) for name, value in self._tensors().items()})

    def pin_memory(self: B) -> B:
        """The same batch in page-locked memory, so that a copy to a GPU can run beside computation."""
        return dataclasses.replace(self, **{name: value.pin_memory() for name, value in self._tensors().items()})

    @staticmethod
    def _unlabelled(count: int) -> dict[str, Any]:
        """The fields of one group whose labels are not known."""
        return {
            "labels": torch.zeros(1, count),
            "mask": torch.ones(1, count, dtype=torch.bool),
            "group": torch.zeros(1, dtype=torch.int64),
            "slot": torch.arange(count).unsqueeze(0),
        }

    def _tensors(self) -> dict[str, Tensor]:
        fields = ((field.name, getattr(self, field.name)) for field in dataclasses.fields(self))
        return {name: value for name, value in fields if isinstance(value, Tensor)}


@dataclass
class FeatureBatch(Batch):
    """A batch whose queries and candidates are stored vectors of size D.

    A vector that occurs in several groups is held once: groups point into two tables of U queries and C candidates. A
    ranker that first maps each vector on its own should map the tables, then index; one that does not care reads
    `query` and `candidates`.

    Args:
        unique_queries: The queries' vectors.
        unique_candidates: The candidates' vectors; rows that no group points to are shared negatives.
        query_index: Row of `unique_queries` for each group.
        candidate_index: Row of `unique_candidates` for each candidate; 0 where the mask is False.
        excluded: Only where every group is scored against the whole table: pairs (group, table row) that are not
            known to be wrong answers for that group, such as further right responses to the same query.
    """

    unique_queries: Float[Tensor, "U D"]
    unique_candidates: Float[Tensor, "C D"]
    query_index: Int[Tensor, " B"]
    candidate_index: Int[Tensor, "B K"]
    excluded: Int[Tensor, "E 2"] | None = None

    @classmethod
    def of_group(cls, query: Float[Tensor, " D"], candidates: Float[Tensor, "K D"], **known: Tensor) -> "FeatureBatch":
        """One group to score, with labels of zero.

        Args:
            query: The vector of the query.
            candidates: The vectors of the candidates.
            known: What else is known of the candidates, one value each, such as `num_tokens`.

        >>> FeatureBatch.of_group(torch.zeros(8), torch.zeros(3, 8)).candidates.shape
        torch.Size([1, 3, 8])
        """
        count = len(candidates)
        fields: dict[str, Any] = cls._unlabelled(count) | {name: values.unsqueeze(0) for name, values in known.items()}
        return cls(
            **fields,
            unique_queries=query.unsqueeze(0),
            unique_candidates=candidates,
            query_index=torch.zeros(1, dtype=torch.int64),
            candidate_index=torch.arange(count).unsqueeze(0),
        )

    @property
    def query(self) -> Float[Tensor, "B D"]:
        """One vector a group, in fp32 whatever it is stored in."""
        return self.unique_queries[self.query_index].float()

    @property
    def candidates(self) -> Float[Tensor, "B K D"]:
        """One vector a candidate, in fp32: a copy, K times as large as the queries."""
        return self.unique_candidates[self.candidate_index].float()

    def against_table(self) -> tuple[Float[Tensor, "B C"], Bool[Tensor, "B C"]]:
        """Labels and mask for scores of every group against every row of `unique_candidates`.

        A group's own candidates keep their labels, all other rows count as wrong, and excluded pairs take no part.

        Raises:
            ValueError: If the batch was not drawn for this (`excluded` is None).
        """
        if self.excluded is None:
            raise ValueError("this batch has no shared negatives: draw it with `negatives: batch` or `negatives: all`")
        shape = len(self.labels), len(self.unique_candidates)
        labels, mask = self.labels.new_zeros(shape), self.mask.new_ones(shape)
        mask[self.excluded[:, 0], self.excluded[:, 1]] = False
        group, place = self.mask.nonzero(as_tuple=True)
        row = self.candidate_index[group, place]
        labels[group, row] = self.labels[group, place]
        mask[group, row] = True
        return labels, mask


@dataclass
class TextBatch(Batch):
    """A batch whose queries and candidates are texts.

    Args:
        queries: One text a group.
        candidates: K texts a group, empty where the mask is False.
    """

    queries: list[str]
    candidates: list[list[str]]

    @classmethod
    def of_group(cls, query: str, candidates: Sequence[str]) -> "TextBatch":
        """One group to score, with labels of zero.

        >>> TextBatch.of_group("a query", ["one", "another"]).mask.shape
        torch.Size([1, 2])
        """
        return cls.of_groups([query], [candidates])

    @classmethod
    def of_groups(cls, queries: Sequence[str], candidates: Sequence[Sequence[str]]) -> "TextBatch":
        """Groups to score, with labels of zero.

        >>> TextBatch.of_groups(["a query", "another"], [["one", "two"], ["three"]]).mask.tolist()
        [[True, True], [True, False]]
        """
        counts = torch.tensor([len(each) for each in candidates])
        place = torch.arange(int(counts.max())).repeat(len(queries), 1)
        mask = place < counts.unsqueeze(1)
        return cls(
            labels=torch.zeros(mask.shape),
            mask=mask,
            group=torch.arange(len(queries)),
            slot=torch.where(mask, place, -1),
            queries=list(queries),
            candidates=[[*each, *[""] * (mask.shape[1] - len(each))] for each in candidates],
        )
