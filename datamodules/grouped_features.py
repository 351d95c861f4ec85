"""GroupedFeatures: groups of K candidates as vectors."""

from typing import Any, ClassVar, Unpack

from datamodules.group_batches import FeatureMaker, UsableSlots
from datamodules.group_data import Drawing, GroupData, Negatives
from ranking.batch import Batch, FeatureBatch
from registry import DATAMODULES, ConfigError
from registry.ranges import FilePath, Probability


@DATAMODULES.register("grouped_features")
class GroupedFeatures(GroupData):
    """Groups of K candidates with features, drawn afresh each epoch for training and once for evaluation.

    Queries that the store does not assign to a split are assigned by a hash of their text, so that equal queries never
    fall into different splits. In training, groups that cannot teach an order are dropped (Language Ranker, appendix
    D); validation and test keep every query, and one without a right candidate counts as a miss.

    Args:
        path: The store.
        depth: Which of the stored depths to read; null where there is one.
        negatives: What a right candidate is trained against: its `group`, all candidates in the `batch`, or the right
            candidates of `all` training queries; one that is right for none of them is not pushed away for that. The
            last two are for rankers that score each candidate alone.

    Raises:
        ConfigError: If the store does not open, has no such depth, or leaves a split empty.
    """

    batch_type: ClassVar[type[Batch]] = FeatureBatch
    all_references: ClassVar[tuple[str, ...]] = (
        "beam", "first", "random", "stored", "cosine", "majority", "likeliest", "oracle",
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
        """What made the features; a language model with the one depth that is read."""
        encoder = self.store.encoder
        if encoder is None or "depths" not in encoder:
            return encoder
        return encoder | {"depths": [self.store.depths[self._depth]]}

    def maker(self, slots: UsableSlots) -> FeatureMaker:
        """Batches of vectors."""
        return FeatureMaker(slots, self._depth)

    def _find_depth(self, depth: float | None) -> int:
        depths = self.store.depths
        if depth is None and len(depths) == 1:
            return 0
        if depth not in depths:
            problem = f"the store has no depth {depth}." if depth is not None else "the store has several depths."
            raise ConfigError("datamodule.depth", problem, known=depths)
        return depths.index(depth)
