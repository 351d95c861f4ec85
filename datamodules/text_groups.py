"""TextGroups: groups of K candidates as texts."""

from typing import Any, ClassVar, Unpack

from datamodules.group_batches import TextMaker, UsableSlots
from datamodules.group_data import Drawing, GroupData
from ranking.batch import Batch, TextBatch
from registry import DATAMODULES
from registry.ranges import Count, FilePath


@DATAMODULES.register("text_groups")
class TextGroups(GroupData):
    """Groups of K candidates as texts, for rankers that read text; the store's vectors, if any, are not read.

    Groups are drawn as in `grouped_features`: anew in each training epoch, and once for evaluation.

    Args:
        path: The path of a group store, with or without vectors.
        eval_batch_size: Groups per step and process in validation and test.

    Raises:
        ConfigError: If the store cannot be opened, or has no queries for a split.
    """

    batch_type: ClassVar[type[Batch]] = TextBatch
    all_references: ClassVar[tuple[str, ...]] = (
        "beam", "first", "random", "stored", "majority", "weighted_majority", "likeliest", "best_single", "oracle",
    )  # fmt: skip

    def __init__(self, path: FilePath, eval_batch_size: Count = 32, **drawing: Unpack[Drawing]) -> None:
        super().__init__(path, **drawing)
        self._eval_batch_size = eval_batch_size
        if replay := drawing.pop("replay", None):
            self.replayed = TextGroups(replay.path, eval_batch_size, **drawing)

    @property
    def facts(self) -> dict[str, Any]:
        """Empty, because rankers of texts need no facts about the data."""
        return {}

    @property
    def encoder(self) -> dict[str, Any] | None:
        """None, because texts are read without an encoder."""
        return None

    def maker(self, slots: UsableSlots) -> TextMaker:
        """The object that makes batches of texts."""
        return TextMaker(slots, self._eval_batch_size)
