"""GroupedFeatures: groups of K candidates as vectors."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from datamodules.drawing import slots_of
from datamodules.group_batches import FeatureMaker, UsableSlots, vectors_at
from datamodules.group_data import Drawing, GroupData, Negatives
from ranking.batch import Batch, FeatureBatch
from registry import DATAMODULES, ConfigError
from registry.ranges import Depths, FilePath, Probability

_VECTORS_AT_ONCE = 4096


@DATAMODULES.register("grouped_features")
class GroupedFeatures(GroupData):
    """Groups of K candidates as vectors, drawn anew in each training epoch and once for evaluation.

    Queries that the store does not assign to a split are assigned by a hash of their text, so equal queries are always
    in the same split. Training drops groups whose labels are all equal, because they teach no order (Language Ranker,
    appendix D). Validation and test keep every query; a query without a right candidate counts as a miss.

    Args:
        path: The path of the group store.
        depth: The stored depth to read; several to give each query and candidate the vectors of all of them, one after
            the other, in the order given; null if the store has only one.
        negatives: The negatives of a right candidate: the other candidates of its `group`, all candidates in the
            `batch`, or the right candidates of `all` training queries. With `all`, a candidate that is right for no
            training query is not a negative. `batch` and `all` need a ranker that scores each candidate independently.

    Raises:
        ConfigError: If the store cannot be opened, does not have this depth, or has no queries for a split.
    """

    batch_type: ClassVar[type[Batch]] = FeatureBatch
    all_references: ClassVar[tuple[str, ...]] = (
        "beam", "first", "random", "stored", "cosine", "majority", "weighted_majority", "likeliest", "best_single",
        "oracle",
    )  # fmt: skip

    def __init__(
        self,
        path: FilePath,
        depth: Probability | Depths | None = None,
        negatives: Negatives = "group",
        **drawing: Unpack[Drawing],
    ) -> None:
        super().__init__(path, negatives=negatives, **drawing)
        self.store.check_features()
        self._depths = self._find_depths(depth)
        if replay := drawing.pop("replay", None):
            self.replayed = GroupedFeatures(replay.path, depth, negatives, **drawing)
            self.check_replayed()

    @property
    def facts(self) -> dict[str, Any]:
        """The size of the vectors, and the number of depths they are made of."""
        return {"feature_dim": len(self._depths) * self.store.feature_dim, "num_depths": len(self._depths)}

    @property
    def encoder(self) -> dict[str, Any] | None:
        """The model that computed the features; for a language model, with the depths that are read."""
        encoder = self.store.encoder
        if encoder is None or "depths" not in encoder:
            return encoder
        return encoder | {"depths": [self.store.depths[depth] for depth in self._depths]}

    def maker(self, slots: UsableSlots) -> FeatureMaker:
        """The object that makes batches of vectors."""
        return FeatureMaker(slots, self._depths)

    def training_maker(self) -> FeatureMaker:
        """The object that makes training batches, with the negatives that their groups share."""
        maker = self.maker(self._training_slots)
        if self._negatives != "all":
            return dataclasses.replace(maker, negatives=self._negatives)
        _, drawn = slots_of(maker.slots.offsets, self._splits["train"])
        return dataclasses.replace(maker, negatives=maker.vectors(drawn))

    def training_vectors(self, most: int | None = None) -> Iterator[tuple[Float[Tensor, "N D"], Float[Tensor, " N"]]]:
        """The vector and the label of each training candidate, a few thousand at a time, in the order of the store.

        Args:
            most: The most candidates, evenly spread over the store; None for all.
        """
        slots = self._training_slots
        _, drawn = slots_of(slots.offsets, self._splits["train"])
        if most is not None and most < len(drawn):
            drawn = drawn[torch.arange(most) * len(drawn) // most]
        for part in drawn.split(_VECTORS_AT_ONCE):
            yield vectors_at(self.store.candidate_features, slots.rows(part), self._depths), slots.labels(part)

    def _find_depths(self, depth: float | Sequence[float] | None) -> list[int]:
        depths = self.store.depths
        if depth is None:
            if len(depths) > 1:
                raise ConfigError("datamodule.depth", "the store has several depths.", known=depths)
            return [0]
        wanted = [depth] if isinstance(depth, int | float) else list(depth)
        if not wanted:
            raise ConfigError("datamodule.depth", "names no depth.", known=depths)
        if missing := [str(each) for each in wanted if each not in depths]:
            raise ConfigError("datamodule.depth", f"the store has no depth {', '.join(missing)}.", known=depths)
        return [depths.index(each) for each in wanted]
