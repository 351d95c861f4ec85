"""GroupedFeatures: groups of K candidates as vectors."""

import dataclasses
from typing import Any, ClassVar, Unpack

from datamodules.drawing import slots_of
from datamodules.group_batches import FeatureMaker, UsableSlots
from datamodules.group_data import Drawing, GroupData, Negatives
from ranking.batch import Batch, FeatureBatch
from registry import DATAMODULES, ConfigError
from registry.ranges import FilePath, Probability


@DATAMODULES.register("grouped_features")
class GroupedFeatures(GroupData):
    """Groups of K candidates as vectors, drawn anew in each training epoch and once for evaluation.

    Queries that the store does not assign to a split are assigned by a hash of their text, so equal queries are always
    in the same split. Training drops groups whose labels are all equal, because they teach no order (Language Ranker,
    appendix D). Validation and test keep every query; a query without a right candidate counts as a miss.

    Args:
        path: The path of the group store.
        depth: The stored depth to read; null if the store has only one.
        negatives: The negatives of a right candidate: the other candidates of its `group`, all candidates in the
            `batch`, or the right candidates of `all` training queries. With `all`, a candidate that is right for no
            training query is not a negative. `batch` and `all` need a ranker that scores each candidate independently.

    Raises:
        ConfigError: If the store cannot be opened, does not have this depth, or has no queries for a split.
    """

    batch_type: ClassVar[type[Batch]] = FeatureBatch
    all_references: ClassVar[tuple[str, ...]] = (
        "beam", "first", "random", "stored", "cosine", "majority", "weighted_majority", "likeliest", "oracle",
    )  # fmt: skip

    def __init__(
        self,
        path: FilePath,
        depth: Probability | None = None,
        negatives: Negatives = "group",
        **drawing: Unpack[Drawing],
    ) -> None:
        super().__init__(path, negatives=negatives, **drawing)
        self.store.check_features()
        self._depth = self._find_depth(depth)

    @property
    def facts(self) -> dict[str, Any]:
        """The size of the stored vectors."""
        return {"feature_dim": self.store.feature_dim}

    @property
    def encoder(self) -> dict[str, Any] | None:
        """The model that computed the features; for a language model, with the depth that is read."""
        encoder = self.store.encoder
        if encoder is None or "depths" not in encoder:
            return encoder
        return encoder | {"depths": [self.store.depths[self._depth]]}

    def maker(self, slots: UsableSlots) -> FeatureMaker:
        """The object that makes batches of vectors."""
        return FeatureMaker(slots, self._depth)

    def training_maker(self) -> FeatureMaker:
        """The object that makes training batches, with the negatives that their groups share."""
        maker = self.maker(self._training_slots)
        if self._negatives != "all":
            return dataclasses.replace(maker, negatives=self._negatives)
        _, drawn = slots_of(maker.slots.offsets, self._splits["train"])
        return dataclasses.replace(maker, negatives=maker.vectors(drawn))

    def _find_depth(self, depth: float | None) -> int:
        depths = self.store.depths
        if depth is None and len(depths) == 1:
            return 0
        if depth not in depths:
            problem = f"the store has no depth {depth}." if depth is not None else "the store has several depths."
            raise ConfigError("datamodule.depth", problem, known=depths)
        return depths.index(depth)
