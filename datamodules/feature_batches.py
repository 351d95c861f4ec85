"""Feature batches: the batches of an epoch, each made by one gather from the store."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from datamodules.drawing import draw_slots, slots_of
from ranking.batch import FeatureBatch
from ranking.stores.group_store import GroupStore
from registry import ConfigError

_EVALUATION_BYTES = 1 << 26


@dataclass(frozen=True)
class Slots:
    """Those slots of a store that may be drawn, by group.

    Args:
        store: Where features and labels are.
        slot: Slots of the store, group by group.
        offsets: Group g owns `slot[offsets[g]:offsets[g + 1]]`.
    """

    store: GroupStore
    slot: Int[Tensor, " S"]
    offsets: Int[Tensor, " Q1"]

    @classmethod
    def of(cls, store: GroupStore, usable: Tensor) -> "Slots":
        """The usable ones among the slots of a store."""
        before = torch.nn.functional.pad(usable.long().cumsum(0), (1, 0))
        return cls(store, usable.nonzero().flatten(), before[store.offsets])

    def labels(self, drawn: Int[Tensor, "G K"]) -> Float[Tensor, "G K"]:
        """The labels of drawn slots, 0 where there is none."""
        labels = self.store.label[self.slot[drawn.clamp(min=0)]]
        return labels.masked_fill(drawn < 0, 0)

    def rows(self, drawn: Int[Tensor, " N"]) -> Int[Tensor, " N"]:
        """The candidates' rows of drawn slots."""
        return self.store.candidate[self.slot[drawn]]

    def batch(
        self,
        groups: Int[Tensor, " B"],
        drawn: Int[Tensor, "B K"],
        depth: int,
        *,
        table: "Table | None" = None,
        shared_negatives: bool = False,
    ) -> FeatureBatch:
        """A batch in which every vector occurs once, however many groups it is in.

        Args:
            groups: The group of each row.
            drawn: Its slots, -1 where there is none.
            depth: Place among the store's depths.
            table: Candidates to point into; None gathers those that the groups need.
            shared_negatives: Each group will be scored against the whole table.
        """
        mask = drawn >= 0
        slot = torch.where(mask, self.slot[drawn.clamp(min=0)], -1)
        rows = self.store.candidate[slot[mask]]
        if table is None:
            table = Table.gather(self.store, rows, depth)
        candidate_index = torch.zeros_like(drawn)
        candidate_index[mask] = torch.searchsorted(table.rows, rows)
        queries, query_index = groups.unique(return_inverse=True)
        return FeatureBatch(
            labels=self.labels(drawn),
            mask=mask,
            group=groups,
            slot=slot,
            unique_queries=self.store.query_features(queries, depth),
            unique_candidates=table.features,
            query_index=query_index,
            candidate_index=candidate_index,
            excluded=self._own_candidates(groups, table) if shared_negatives else None,
        )

    def _own_candidates(self, groups: Int[Tensor, " B"], table: "Table") -> Int[Tensor, "E 2"]:
        """Where in the table a group's own candidates are that are not known to be wrong, drawn or not."""
        place, slot = slots_of(self.store.offsets, groups)
        unsure = ~(self.store.valid[slot] & (self.store.label[slot] <= 0))
        place, rows = place[unsure], self.store.candidate[slot[unsure]]
        at = torch.searchsorted(table.rows, rows).clamp(max=len(table.rows) - 1)
        found = table.rows[at] == rows
        return torch.stack([place[found], at[found]], dim=1)


@dataclass(frozen=True)
class Table:
    """Some candidates of a store: their rows, ascending, each once, and their features."""

    rows: Int[Tensor, " C"]
    features: Float[Tensor, "C D"]

    @classmethod
    def gather(cls, store: GroupStore, rows: Int[Tensor, " N"], depth: int) -> "Table":
        """The features of these rows, in one gather."""
        rows = rows.unique()
        return cls(rows, store.candidate_features(rows, depth))


class EvaluationBatches:
    """Given groups in order, each in one process only.

    Args:
        slots: What was drawn from.
        groups: A group for each draw.
        drawn: Its slots.
        depth: Place among the store's depths.
        rank: This process.
        world: How many processes there are.
    """

    def __init__(
        self, slots: Slots, groups: Int[Tensor, " G"], drawn: Int[Tensor, "G K"], *, depth: int, rank: int, world: int
    ) -> None:
        self._slots, self._depth = slots, depth
        self._groups, self._drawn = groups[rank::world], drawn[rank::world]
        self._size = max(1, _EVALUATION_BYTES // (4 * drawn.shape[1] * slots.store.feature_dim))
        answer, log_probability = slots.store.answer, slots.store.log_probability
        # What is not known of any response orders none.
        self._known: dict[str, Tensor] = {}
        if answer is not None and bool(answer.any()):
            self._known["answer"] = answer
        if log_probability is not None and not bool(log_probability.isnan().all()):
            self._known["log_probability"] = log_probability

    def num_steps(self) -> int:
        """At least one, if empty, so that every process takes part when results are gathered."""
        return max(1, -(-len(self._groups) // self._size))

    def batch(self, epoch: int, step: int) -> FeatureBatch:
        """The batch of one step, the same in every epoch."""
        part = slice(step * self._size, (step + 1) * self._size)
        batch = self._slots.batch(self._groups[part], self._drawn[part], self._depth)
        slot = batch.slot.clamp(min=0)
        beam = self._slots.store.beam_label
        known = {name: values[slot] for name, values in self._known.items()}
        return dataclasses.replace(batch, **known, beam=None if beam is None else beam[self._groups[part]])


class TrainingBatches:
    """Freshly drawn and shuffled groups each epoch, a function of (seed, epoch) alone.

    Each process has the same number of groups, so with several of them an epoch may lack up to that many groups less
    one. An epoch has as many steps as the first one: another epoch in which fewer groups are kept starts over with its
    own first ones, so that schedules can count on the number.

    Args:
        slots: What is drawn from.
        groups: The group of each draw; one that is drawn often occurs often.
        depth: Place among the store's depths.
        num_candidates: K.
        batch_size: Groups a step over all processes.
        negatives: `group`, `batch` or `all`.
        keep: Which drawn groups to keep, from their labels and slots; None for all.
        seed: Of drawing and shuffling.
        rank: This process.
        world: How many processes there are.

    Raises:
        ConfigError: If no group is kept, or the processes cannot share a batch evenly.
    """

    def __init__(
        self,
        slots: Slots,
        groups: Int[Tensor, " G"],
        *,
        depth: int,
        num_candidates: int,
        batch_size: int,
        negatives: str,
        keep: Callable[[Tensor, Tensor], Tensor] | None,
        seed: int,
        rank: int,
        world: int,
    ) -> None:
        if batch_size % world:
            problem = f"{batch_size} groups cannot be shared evenly by {world} processes."
            raise ConfigError("datamodule.batch_size", problem, cure=f"a multiple of {world}")
        self._slots, self._source_groups, self._depth, self._num_candidates = slots, groups, depth, num_candidates
        self._batch_size, self._keep, self._seed, self._rank, self._world = batch_size, keep, seed, rank, world
        self._negatives = negatives
        self._epoch, self._groups, self._drawn = -1, groups, groups
        self._plan(0)
        self._num_groups = len(self._groups) - len(self._groups) % world
        self._table = None
        if negatives == "all":
            _, own = slots_of(slots.offsets, groups.unique())
            self._table = Table.gather(slots.store, slots.rows(own), depth)

    def num_steps(self) -> int:
        """Steps an epoch, the last one possibly smaller."""
        return -(-self._num_groups // self._batch_size)

    def batch(self, epoch: int, step: int) -> FeatureBatch:
        """The part of this process of the batch of one step."""
        if epoch != self._epoch:
            self._plan(epoch)
        start, end = step * self._batch_size, min((step + 1) * self._batch_size, self._num_groups)
        everyone = torch.arange(start, end) % len(self._groups)
        picked = everyone.tensor_split(self._world)[self._rank]
        groups, drawn, table = self._groups[picked], self._drawn[picked], self._table
        if self._negatives == "batch" and self._world > 1:
            # The other processes' candidates too, so that the number of processes changes no loss.
            slot = self._drawn[everyone].flatten()
            table = Table.gather(self._slots.store, self._slots.rows(slot[slot >= 0]), self._depth)
        shared = self._negatives != "group"
        batch = self._slots.batch(groups, drawn, self._depth, table=table, shared_negatives=shared)
        full = min(self._batch_size, self._num_groups)
        return dataclasses.replace(batch, weight=len(picked) * self._world / full)

    def _plan(self, epoch: int) -> None:
        generator = torch.Generator().manual_seed(hash((self._seed, epoch)) % 2**63)
        drawn = draw_slots(self._slots.offsets, self._source_groups, self._num_candidates, generator)
        kept = torch.arange(len(drawn))
        if self._keep is not None:
            kept = self._keep(self._slots.labels(drawn), drawn).nonzero().flatten()
        if len(kept) < self._world:
            lacking = "a right candidate" if self._negatives != "group" else "candidates of different labels"
            problem = f"{len(kept)} training groups have {lacking} in epoch {epoch}: nothing can be learnt from these."
            raise ConfigError(str(self._slots.store.path), problem)
        kept = kept[torch.randperm(len(kept), generator=generator)]
        self._epoch, self._groups, self._drawn = epoch, self._source_groups[kept], drawn[kept]
