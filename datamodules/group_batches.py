"""Group batches: makes the batches of an epoch from groups of slots drawn from a store."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from datamodules.drawing import draw_slots, has_relevant, slots_of
from ranking.batch import Batch, FeatureBatch, TextBatch
from ranking.stores.group_store import GroupStore
from ranking.stores.group_tables import KNOWN
from registry import ConfigError

_EVALUATION_BYTES = 1 << 26


@dataclass(frozen=True)
class UsableSlots:
    """The slots of a store that may be drawn, by group.

    Args:
        store: The store with features and labels.
        slot: The usable slots of the store, group by group.
        offsets: Group g owns `slot[offsets[g]:offsets[g + 1]]`.
    """

    store: GroupStore
    slot: Int[Tensor, " S"]
    offsets: Int[Tensor, " Q1"]

    @classmethod
    def of(cls, store: GroupStore, usable: Tensor) -> "UsableSlots":
        """Select the usable slots of a store."""
        before = torch.nn.functional.pad(usable.long().cumsum(0), (1, 0))
        return cls(store, usable.nonzero().flatten(), before[store.offsets])

    def labels(self, drawn: Int[Tensor, "*G"]) -> Float[Tensor, "*G"]:
        """The labels of drawn slots; 0 for a slot of -1."""
        labels = self.store.label[self.slot[drawn.clamp(min=0)]]
        return labels.masked_fill(drawn < 0, 0)

    def rows(self, drawn: Int[Tensor, " N"]) -> Int[Tensor, " N"]:
        """The candidates' rows of drawn slots."""
        return self.store.candidate[self.slot[drawn]]

    def columns(self, groups: Int[Tensor, " B"], drawn: Int[Tensor, "B K"]) -> dict[str, Any]:
        """The fields of any batch with these groups and their drawn slots."""
        mask = drawn >= 0
        real = self.slot[drawn.clamp(min=0)]
        further = {name: getattr(self.store, name) for name in KNOWN}
        known = {name: values[real] for name, values in further.items() if values is not None}
        return {
            "labels": self.labels(drawn),
            "mask": mask,
            "group": groups,
            "slot": torch.where(mask, real, -1),
            **known,
        }


@dataclass(frozen=True)
class UniqueCandidates:
    """Some candidates of a store: their rows, ascending and without duplicates, and their features."""

    rows: Int[Tensor, " C"]
    features: Float[Tensor, "C D"]

    @classmethod
    def gather(cls, store: GroupStore, rows: Int[Tensor, " N"], depths: Sequence[int]) -> "UniqueCandidates":
        """Read the features of these rows with one gather per depth."""
        rows = rows.unique()
        return cls(rows, vectors_at(store.candidate_features, rows, depths))


def vectors_at(
    read: Callable[[Tensor, int], Tensor], index: Int[Tensor, " N"], depths: Sequence[int]
) -> Float[Tensor, "N D"]:
    """The vectors of these rows at each depth, one after the other."""
    parts = [read(index, depth) for depth in depths]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


class Maker(ABC):
    """Makes batches from groups and the slots drawn for each group."""

    slots: UsableSlots
    """The slots that may be drawn."""

    @abstractmethod
    def batch(self, groups: Int[Tensor, " B"], drawn: Int[Tensor, "B K"]) -> Batch:
        """Make a batch in which each group has its own candidates.

        Args:
            groups: The group of each row of the batch.
            drawn: The slots drawn for each row, padded with -1.
        """

    def training_batch(
        self, groups: Int[Tensor, " B"], drawn: Int[Tensor, "B K"], all_drawn: Int[Tensor, "G K"]
    ) -> Batch:
        """Make a batch for training; by default the same as `batch`.

        Args:
            groups: The group of each row of the batch.
            drawn: The slots drawn for each row, padded with -1.
            all_drawn: The slots drawn for this step in all processes.
        """
        return self.batch(groups, drawn)

    @abstractmethod
    def num_at_once(self, num_candidates: int) -> int:
        """The number of groups of K candidates in a batch of validation or test."""


@dataclass(frozen=True)
class FeatureMaker(Maker):
    """Makes batches that contain every vector once, even if several groups use it.

    Args:
        slots: The slots that may be drawn.
        depths: Indices into the store's depths; the vectors of several are one vector, one after the other.
        negatives: What training scores each group against: its own candidates (`group`), those of the `batch`, or the
            candidates of these vectors.
    """

    slots: UsableSlots
    depths: Sequence[int]
    negatives: Literal["group", "batch"] | UniqueCandidates = "group"

    def batch(self, groups: Int[Tensor, " B"], drawn: Int[Tensor, "B K"]) -> FeatureBatch:
        """Make a batch of vectors with one gather."""
        return self._batch(groups, drawn, self.vectors(drawn))

    def training_batch(
        self, groups: Int[Tensor, " B"], drawn: Int[Tensor, "B K"], all_drawn: Int[Tensor, "G K"]
    ) -> FeatureBatch:
        """Make a batch with the negatives that all of its groups share, if they share any."""
        if self.negatives == "group":
            return self.batch(groups, drawn)
        # With the other processes' candidates, so that the loss does not depend on the number of processes.
        table = self.vectors(all_drawn) if self.negatives == "batch" else self.negatives
        assert isinstance(table, UniqueCandidates)
        return dataclasses.replace(self._batch(groups, drawn, table), excluded=self._own_candidates(groups, table))

    def vectors(self, drawn: Int[Tensor, "..."]) -> UniqueCandidates:
        """Read the vectors of drawn slots with one gather; slots of -1 have none."""
        store = self.slots.store
        return UniqueCandidates.gather(store, self.slots.rows(drawn[drawn >= 0]), self.depths)

    def num_at_once(self, num_candidates: int) -> int:
        """The number of groups whose features take 64 MiB; at least 1."""
        size = len(self.depths) * self.slots.store.feature_dim
        return max(1, _EVALUATION_BYTES // (4 * num_candidates * size))

    def _batch(self, groups: Int[Tensor, " B"], drawn: Int[Tensor, "B K"], table: UniqueCandidates) -> FeatureBatch:
        store, columns = self.slots.store, self.slots.columns(groups, drawn)
        candidate_index = torch.zeros_like(drawn)
        rows = store.candidate[columns["slot"][columns["mask"]]]
        candidate_index[columns["mask"]] = torch.searchsorted(table.rows, rows)
        queries, query_index = groups.unique(return_inverse=True)
        return FeatureBatch(
            **columns,
            unique_queries=vectors_at(store.query_features, queries, self.depths),
            unique_candidates=table.features,
            query_index=query_index,
            candidate_index=candidate_index,
        )

    def _own_candidates(self, groups: Int[Tensor, " B"], table: UniqueCandidates) -> Int[Tensor, "E 2"]:
        """The places in the table of each group's own candidates that are not known to be wrong, drawn or not."""
        store = self.slots.store
        place, slot = slots_of(store.offsets, groups)
        unsure = ~(store.valid[slot] & (store.label[slot] <= 0))
        place, rows = place[unsure], store.candidate[slot[unsure]]
        at = torch.searchsorted(table.rows, rows).clamp(max=len(table.rows) - 1)
        found = table.rows[at] == rows
        return torch.stack([place[found], at[found]], dim=1)


@dataclass(frozen=True)
class TextMaker(Maker):
    """Makes batches of texts.

    Args:
        slots: The slots that may be drawn.
        groups_at_once: The number of groups in a batch of validation or test.
    """

    slots: UsableSlots
    groups_at_once: int

    def batch(self, groups: Int[Tensor, " B"], drawn: Int[Tensor, "B K"]) -> TextBatch:
        """Make a batch of texts as they are stored."""
        store, columns = self.slots.store, self.slots.columns(groups, drawn)
        return TextBatch(
            **columns,
            queries=[store.query_text(group) for group in groups.tolist()],
            candidates=[
                ["" if slot < 0 else store.candidate_text(int(store.candidate[slot])) for slot in row]
                for row in columns["slot"].tolist()
            ],
        )

    def num_at_once(self, num_candidates: int) -> int:
        """The number that the options set."""
        return self.groups_at_once


class EvaluationBatches:
    """Given groups, in order; each group is in one process only.

    Args:
        maker: Makes the batches.
        groups: The group of each draw.
        drawn: The slots of each draw.
        rank: The number of this process.
        world: The number of processes.
    """

    def __init__(
        self, maker: Maker, groups: Int[Tensor, " G"], drawn: Int[Tensor, "G K"], *, rank: int, world: int
    ) -> None:
        self._maker = maker
        self._groups, self._drawn = groups[rank::world], drawn[rank::world]
        self._most_groups = -(-len(groups) // world)
        self._size = maker.num_at_once(drawn.shape[1])

    def num_steps(self) -> int:
        """As many steps as every other process and at least one, the last of which may be empty.

        Every process must take part in gathering results, and in gathering weights that are shared out.
        """
        return max(1, -(-self._most_groups // self._size))

    def batch(self, epoch: int, step: int) -> Batch:
        """The batch of one step, the same in every epoch."""
        part = slice(step * self._size, (step + 1) * self._size)
        batch = self._maker.batch(self._groups[part], self._drawn[part])
        beam = self._maker.slots.store.beam_label
        return batch if beam is None else dataclasses.replace(batch, beam=beam[self._groups[part]])


class TrainingBatches:
    """Draws and shuffles new groups in each epoch, as a function of only (seed, epoch).

    Each process has the same number of groups, so an epoch on N processes may leave out up to N - 1 groups. Every epoch
    has as many steps as the first one, so schedules know the number. If a later epoch keeps fewer groups, it repeats
    its own first groups.

    Args:
        maker: Makes the batches.
        groups: The group of each draw; a group with several draws occurs several times.
        num_candidates: K, the number of candidates in a group.
        batch_size: Groups per batch, over all processes.
        accumulated: Batches per step of the optimizer, which takes the mean of their gradients.
        keep: Decides from labels and slots which drawn groups to keep; None to keep all.
        seed: The seed of drawing and shuffling.
        rank: The number of this process.
        world: The number of processes.

    Raises:
        ConfigError: If no group is kept, or the number of processes does not divide `batch_size`.
    """

    def __init__(
        self,
        maker: Maker,
        groups: Int[Tensor, " G"],
        *,
        num_candidates: int,
        batch_size: int,
        accumulated: int = 1,
        keep: Callable[[Tensor, Tensor], Tensor] | None,
        seed: int,
        rank: int,
        world: int,
    ) -> None:
        if batch_size % world:
            problem = f"{batch_size} groups cannot be shared evenly by {world} processes."
            raise ConfigError("datamodule.batch_size", problem, cure=f"a multiple of {world}")
        self._maker, self._slots = maker, maker.slots
        self._source_groups, self._num_candidates = groups, num_candidates
        self._batch_size, self._accumulated, self._keep = batch_size, accumulated, keep
        self._seed, self._rank, self._world = seed, rank, world
        self._epoch, self._groups, self._drawn = -1, groups, groups
        self._plan(0)
        self._num_groups = len(self._groups) - len(self._groups) % world

    def num_steps(self) -> int:
        """The number of batches per epoch; the last one may be smaller."""
        return -(-self._num_groups // self._batch_size)

    def batch(self, epoch: int, step: int) -> Batch:
        """The part of a batch that this process trains on."""
        if epoch != self._epoch:
            self._plan(epoch)
        start, end = step * self._batch_size, min((step + 1) * self._batch_size, self._num_groups)
        everyone = torch.arange(start, end) % len(self._groups)
        picked = everyone.tensor_split(self._world)[self._rank]
        batch = self._maker.training_batch(self._groups[picked], self._drawn[picked], self._drawn[everyone])
        return dataclasses.replace(batch, weight=len(picked) * self._world / self.full_size)

    @property
    def full_size(self) -> float:
        """The number of groups with weight 1: those of a full step, over all processes, per batch of the step."""
        return min(self._batch_size * self._accumulated, self._num_groups) / self._accumulated

    @property
    def store(self) -> GroupStore:
        """The store that the groups are drawn from."""
        return self._slots.store

    def _plan(self, epoch: int) -> None:
        generator = torch.Generator().manual_seed(hash((self._seed, epoch)) % 2**63)
        drawn = draw_slots(self._slots.offsets, self._source_groups, self._num_candidates, generator)
        kept = torch.arange(len(drawn))
        if self._keep is not None:
            kept = self._keep(self._slots.labels(drawn), drawn).nonzero().flatten()
        if len(kept) < self._world:
            lacking = "a right candidate" if self._keep is has_relevant else "candidates of different labels"
            problem = f"{len(kept)} training groups have {lacking} in epoch {epoch}: nothing can be learnt from these."
            raise ConfigError(str(self._slots.store.path), problem)
        kept = kept[torch.randperm(len(kept), generator=generator)]
        self._epoch, self._groups, self._drawn = epoch, self._source_groups[kept], drawn[kept]
