"""GroupBuild: writes the text groups of a source to a group store, with or without vectors."""

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from console.progress import WorkProgress
from features.building.group_rows import Item, Slot, given_slots, in_chunks, item_of, number_items
from features.texts.groups import TextGroup
from language_models.encoder import Encoder
from ranking.stores.group_store_writer import GroupStoreWriter
from ranking.stores.group_tables import ROUTES
from registry import ConfigError


class GroupBuild:
    """One build of a group store; skips everything that an earlier run has written.

    Args:
        writer: The writer of the store; its `feature_dim` says whether the store has vectors.
        progress: Receives a report of every text.
        encoder: The model that embeds texts; None if texts come with vectors or get none.
        chunk_size: Number of texts between two saves.
    """

    def __init__(
        self, writer: GroupStoreWriter, progress: WorkProgress, encoder: Encoder | None, chunk_size: int
    ) -> None:
        self.writer, self.progress, self.encoder, self.chunk_size = writer, progress, encoder, chunk_size
        self._num_candidates = self._num_groups = 0

    def given(self, groups: Iterable[TextGroup]) -> None:
        """Write each group as its source gives it; equal candidates of a chunk are stored once."""
        for chunk in in_chunks(groups, self.chunk_size):
            rows = number_items(chunk, self._num_candidates)
            self.add_candidates(list(rows))
            slots = [given_slots(group, rows) for group in chunk]
            self.add_groups(chunk, lambda _, slots=slots: slots)

    def add_candidates(self, items: list[Item]) -> None:
        """Write the next candidates of the store."""
        self._num_candidates += len(items)
        if self._num_candidates <= self.writer.num_candidates:
            self.progress.skip(len(items))
            return
        vectors = self._vectors(items, self.encoder.candidate_prompt if self.encoder else "")
        self.writer.add_candidates(_with_depth(vectors), [item.text for item in items])

    def add_groups(self, chunk: list[TextGroup], slots_of: Callable[[Any], list[list[Slot]]]) -> None:
        """Write the next groups of the store.

        Args:
            chunk: The groups.
            slots_of: Returns the slots of each group, given the vectors of the queries.
        """
        self._num_groups += len(chunk)
        if self._num_groups <= self.writer.num_groups:
            self.progress.skip(len(chunk))
            return
        queries = self._vectors([item_of(group) for group in chunk], self.encoder.query_prompt if self.encoder else "")
        grouped = slots_of(queries)
        slots = list(itertools.chain.from_iterable(grouped))
        self.writer.add_groups(
            ids=[group.query_id for group in chunk],
            texts=[group.query for group in chunk],
            features=_with_depth(queries),
            offsets=torch.tensor([0, *itertools.accumulate(map(len, grouped))]),
            candidate=torch.tensor([slot.row for slot in slots]),
            label=torch.tensor([slot.label for slot in slots], dtype=torch.float32),
            injected=torch.tensor([slot.injected for slot in slots]),
            slot_ids=[slot.id for slot in slots],
            split=[group.split for group in chunk],
            known=_routes(chunk, slots),
        )

    def _vectors(self, items: list[Item], prompt: str) -> Float[Tensor, "N D"] | None:
        if self.encoder:
            return self.encoder.encode([item.text for item in items], prompt, self.progress.report)
        if not self.writer.feature_dim:
            self.progress.report(len(items))
            return None
        self.progress.skip(len(items))
        return torch.tensor([item.feature for item in items], dtype=torch.float32)


def survey(groups: Iterable[TextGroup], chunk_size: int, *, to_train: bool) -> tuple[int, int]:
    """Read a whole source, to find bad data before the work begins.

    Args:
        groups: All groups of the source.
        chunk_size: Number of texts between two saves of the build.
        to_train: Whether a ranker will be trained on the groups.

    Returns:
        The number of texts that the build stores, and the size of the vectors that they come with.

    Raises:
        ConfigError: If no candidate has a label, though a ranker will be trained.
    """
    total = feature_dim = 0
    labelled = not to_train
    for part in [groups] if isinstance(groups, list) else in_chunks(groups, chunk_size):
        total += len(part) + len(number_items(part))
        feature_dim = feature_dim or len(part[0].feature or ())
        labelled = labelled or any(each.label is not None for group in part for each in group.candidates)
    if not labelled:
        cure = "give candidates a `label`; only python -m features builds a store without labels"
        raise ConfigError("features.source", "no candidate has a label: there is nothing to learn.", cure=cure)
    return total, feature_dim


def _routes(chunk: list[TextGroup], slots: list[Slot]) -> dict[str, torch.Tensor]:
    """Performance and cost of each slot, if the candidates are models to choose from."""
    if all(each.performance is None for group in chunk for each in group.candidates):
        return {}
    return {name: torch.tensor([getattr(slot, name) for slot in slots]) for name in ROUTES}


def _with_depth(vectors: Float[Tensor, "N D"] | None) -> Float[Tensor, "N 1 D"] | None:
    return None if vectors is None else vectors.unsqueeze(1)
