"""GroupData: groups of K candidates, drawn by index from a group store; the base of all group datamodules."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypedDict

import torch
from annotated_types import Interval
from torch import Tensor

from datamodules.base import Known, RankingData
from datamodules.drawing import draw_slots, has_order, has_relevant
from datamodules.epoch_loader import EpochLoader
from datamodules.group_batches import EvaluationBatches, Maker, TrainingBatches, UsableSlots
from datamodules.replay import Replay, ReplayedBatches
from datamodules.splits import SPLIT_CODES, assign_splits
from ranking.batch import Batch
from ranking.stores.group_store import GroupStore
from registry import ConfigError
from registry.errors import shown
from registry.ranges import Count, Few, FilePath, NonNegative, Seed

Negatives = Literal["group", "batch", "all"]


class Drawing(TypedDict, total=False):
    """Options for drawing groups, shared by all group datamodules.

    Args:
        num_candidates: K, the candidates per group; null for all candidates of a query.
        groups_per_query: Groups drawn from each query per epoch.
        batch_size: Groups per step over all processes, so results do not depend on the number of processes.
        drop_unordered: Drop training groups whose labels are all equal.
        eval_draws: Groups drawn from each query with more than K candidates in validation and test; metrics average
            over them.
        split_shares: Shares of train, val and test, for queries that the store does not assign to a split.
        seed: The seed for drawing training groups; null for the run's seed.
        eval_seed: The seed for drawing validation and test groups, so runs with different seeds use the same groups.
        num_workers: Number of processes that prepare batches in advance.
        verify: Check the store's hashes before using it.
        replay: An old store whose groups training repeats beside the new ones; null for none.
    """

    num_candidates: Annotated[int, Interval(ge=2, le=100_000)] | None
    groups_per_query: Few
    batch_size: Count
    drop_unordered: bool
    eval_draws: Few
    split_shares: tuple[NonNegative, NonNegative, NonNegative]
    seed: Seed | None
    eval_seed: Seed
    num_workers: Annotated[int, Interval(ge=0, le=1000)]
    verify: bool
    replay: Replay | None


class GroupData(RankingData):
    """Groups of K candidates, drawn anew in each training epoch and once for evaluation.

    Queries that the store does not assign to a split are assigned by a hash of their text, so equal queries are always
    in the same split. Training drops groups whose labels are all equal, because they teach no order (Language Ranker,
    appendix D). Validation and test keep every query; a query without a right candidate counts as a miss.

    A subclass implements `maker`, which decides what batches hold.
    """

    def __init__(
        self,
        path: FilePath,
        *,
        negatives: Negatives = "group",
        num_candidates: int | None = 10,
        groups_per_query: int = 1,
        batch_size: int = 256,
        drop_unordered: bool = True,
        eval_draws: int = 1,
        split_shares: tuple[float, float, float] = (0.8, 0.1, 0.1),
        seed: int | None = None,
        eval_seed: int = 0,
        num_workers: int = 0,
        verify: bool = True,
        replay: Replay | None = None,
    ) -> None:
        super().__init__()
        self._num_old = _num_old(replay, batch_size, negatives)
        self.store = GroupStore.open(Path(path), verify=verify)
        self._groups_per_query, self._batch_size, self._negatives = groups_per_query, batch_size, negatives
        self._num_candidates, self._drop_unordered = num_candidates, drop_unordered
        self._eval_draws, self._seed, self._eval_seed, self._num_workers = eval_draws, seed or 0, eval_seed, num_workers
        usable = self.store.valid & ~torch.isnan(self.store.label)
        taught = usable & (self.store.label > 0) if negatives == "all" else usable
        self._training_slots = UsableSlots.of(self.store, taught)
        self._evaluation_slots = UsableSlots.of(self.store, usable & ~self.store.injected)
        self._splits = self._assign_splits(split_shares)
        self.known = _known(self.store)
        self.responses = self.store if self.store.num_tokens is not None else None

    all_references: ClassVar[tuple[str, ...]]
    """References that may stand beside a ranker of such batches, in the order of the report."""

    @abstractmethod
    def maker(self, slots: UsableSlots) -> Maker:
        """The object that makes batches from these slots."""

    replayed: "GroupData | None" = None
    """The data of the old store, if there is one; a subclass opens it with its own options."""

    def check_replayed(self) -> None:
        """Refuse an old store whose vectors another model made, or of another size."""
        if self.replayed is None:
            return
        for what in ("facts", "encoder"):
            old, new = getattr(self.replayed, what), getattr(self, what)
            if old != new and old is not None and new is not None:
                problem = f"its vectors differ from those of {self.store.path}: {differing(old, new)}."
                cure = "build both stores with the same encoder"
                raise ConfigError("datamodule.replay.path", f"{self.replayed.store.path}: {problem}", cure=cure)

    def training_maker(self) -> Maker:
        """The object that makes training batches."""
        return self.maker(self._training_slots)

    @property
    def default_references(self) -> list[str]:
        """References for any group, and references for responses if the store has what they need."""
        answers, probabilities = self.known.answers, self.known.log_probabilities
        known = {
            "beam": self.known.beams,
            "majority": answers,
            "weighted_majority": answers,
            "likeliest": probabilities,
            "best_single": self.known.performances,
        }
        return [name for name in self.all_references if known.get(name, True)]

    @property
    def shared_negatives(self) -> bool:
        """True if training scores every query against all candidates of a batch."""
        return self._negatives != "group"

    @property
    def steps_per_epoch(self) -> int:
        """The largest number of steps in an epoch: the number if no drawn group is dropped."""
        return -(-self.num_queries("train") * self._groups_per_query // (self._batch_size - self._num_old))

    def steps(self, split: str) -> int:
        """How many batches validation or test has in one process."""
        return len(self._evaluation_loader(split))

    def num_queries(self, split: str) -> int:
        """How many queries a split has."""
        return len(self._splits[split])

    def query_id(self, group: int) -> str:
        """The query's id, for messages and result files."""
        if self.replayed is not None and group >= self.store.num_groups:
            return self.replayed.query_id(group - self.store.num_groups)
        return self.store.query_id(group)

    def query_text(self, group: int) -> str:
        """The query's text, for display."""
        return self.store.query_text(group)

    def candidate_id(self, slot: int) -> str:
        """The candidate's id in its group."""
        return self.store.slot_id(slot)

    def candidate_text(self, slot: int) -> str:
        """The candidate's text, for display."""
        return self.store.candidate_text(int(self.store.candidate[slot]))

    def train_dataloader(self) -> EpochLoader:
        """Batches of newly drawn groups, shuffled, with those of an old store if there is one."""
        processes = self.process()
        source: TrainingBatches | ReplayedBatches = self._training_batches(self._batch_size - self._num_old, processes)
        if self.replayed is not None and self._num_old:
            source = ReplayedBatches(source, self.replayed._training_batches(self._num_old, processes))
        return EpochLoader(source, num_workers=self._num_workers, pin_memory=torch.cuda.is_available())

    def _training_batches(self, batch_size: int, processes: dict[str, int]) -> TrainingBatches:
        keep = None
        if self._negatives != "group":
            keep = has_relevant
        elif self._drop_unordered:
            keep = has_order
        return TrainingBatches(
            self.training_maker(),
            self._splits["train"].repeat_interleave(self._groups_per_query),
            num_candidates=self._width(self._training_slots),
            batch_size=batch_size,
            accumulated=self.accumulated,
            keep=keep,
            seed=self._seed,
            **processes,
        )

    def val_dataloader(self) -> EpochLoader:
        """Each validation query once per draw, in order."""
        return self._evaluation_loader("val")

    def test_dataloader(self) -> EpochLoader:
        """Each test query once per draw, in order."""
        return self._evaluation_loader("test")

    def most_candidates(self, split: str) -> int:
        """The largest number of candidates of a query in a split."""
        return int(self._evaluation_slots.offsets.diff()[self._splits[split]].amax())

    def evaluation_batches(
        self, split: str, num_candidates: int | None = None, draws: int | None = None
    ) -> Iterator[Batch]:
        """Batches for evaluation in this process alone.

        Args:
            split: The split of the queries.
            num_candidates: K; a query with fewer candidates keeps all of them. None for that of validation and test.
            draws: Groups drawn from each query; None for that of validation and test.
        """
        num_candidates, draws = num_candidates or self._width(self._evaluation_slots), draws or self._eval_draws
        batches = self._evaluation(split, num_candidates, draws, {"rank": 0, "world": 1})
        return (batches.batch(0, step) for step in range(batches.num_steps()))

    def _evaluation_loader(self, split: str) -> EpochLoader:
        width = self._width(self._evaluation_slots)
        return EpochLoader(self._evaluation(split, width, self._eval_draws, self.process()))

    def _evaluation(self, split: str, width: int, draws: int, processes: dict[str, int]) -> EvaluationBatches:
        generator = torch.Generator().manual_seed(self._eval_seed)
        groups = self._splits[split].repeat_interleave(draws)
        drawn = draw_slots(self._evaluation_slots.offsets, groups, width, generator)
        return EvaluationBatches(self.maker(self._evaluation_slots), groups, drawn, **processes)

    def _width(self, slots: UsableSlots) -> int:
        return self._num_candidates or int(slots.offsets.diff().amax())

    def _assign_splits(self, shares: tuple[float, float, float]) -> dict[str, Tensor]:
        split = assign_splits(self.store.split, self.store.query_text, shares)
        has_candidates = self._evaluation_slots.offsets.diff() > 0
        found = {name: ((split == code) & has_candidates).nonzero().flatten() for name, code in SPLIT_CODES.items()}
        for name, groups in found.items():
            if not len(groups):
                counts = ", ".join(f"{key} {len(value)}" for key, value in found.items())
                cure = "more queries, another datamodule.split_shares, or a `split` in the data; labels must be there"
                raise ConfigError(str(self.store.path), f"no labelled query for {name} ({counts}).", cure=cure)
        return found


def _known(store: GroupStore) -> Known:
    answer, num_tokens = store.answer, store.num_tokens
    log_probability, self_certainty = store.log_probability, store.self_certainty
    return Known(
        answers=answer is not None and bool(answer.any()),
        log_probabilities=log_probability is not None and not bool(log_probability.isnan().all()),
        num_tokens=num_tokens is not None and bool((num_tokens >= 0).any()),
        self_certainties=self_certainty is not None and not bool(self_certainty.isnan().all()),
        beams=store.beam_label is not None,
        performances=store.performance is not None,
    )


def _num_old(replay: Replay | None, batch_size: int, negatives: Negatives) -> int:
    """How many groups of a batch are old: the share, rounded, but at least one old and one new group."""
    if replay is None or not replay.share:
        return 0
    if negatives != "group":
        cure = "negatives: group, or replay.share: 0"
        raise ConfigError("datamodule.negatives", f"{negatives} cannot be combined with replay.", cure=cure)
    if batch_size < 2:
        raise ConfigError("datamodule.batch_size", "one group cannot be shared by new and old data.", cure="2 or more")
    return min(max(1, round(replay.share * batch_size)), batch_size - 1)


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """The first entry in which two mappings differ, with both values.

    >>> differing({"model": "a", "size": 3}, {"model": "b", "size": 3})
    "model is 'a' and 'b'"
    """
    missing = object()
    name = next(key for key in {**one, **other} if one.get(key, missing) != other.get(key, missing))
    return f"{name} is {shown(one.get(name))} and {shown(other.get(name))}"
