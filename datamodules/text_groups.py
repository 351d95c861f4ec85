"""TextGroups: groups of K candidates as texts."""

from typing import Any, ClassVar, Unpack

from datamodules.group_batches import TextMaker, UsableSlots
from datamodules.group_data import Drawing, GroupData
from ranking.batch import Batch, TextBatch
from registry import DATAMODULES
from registry.ranges import Count, FilePath


@DATAMODULES.register("text_groups")
class TextGroups(GroupData):
    """Groups of K candidates as texts, for rankers that read them; vectors that the store may have are left alone.

    Groups are drawn as `grouped_features` draws them: afresh each epoch for training, once for evaluation.

    Args:
        path: A group store, with vectors or without.
        eval_batch_size: Groups a step of each process in validation and test.

    Raises:
        ConfigError: If the store does not open, or leaves a split empty.
    """

    batch_type: ClassVar[type[Batch]] = TextBatch
    all_references: ClassVar[tuple[str, ...]] = (
        "beam", "first", "random", "stored", "majority", "likeliest", "oracle",
    )  # fmt: skip

    def __init__(self, path: FilePath, eval_batch_size: Count = 32, **drawing: Unpack[Drawing]) -> None:
        super().__init__(path, **drawing)
        self._eval_batch_size = eval_batch_size

    @property
    def facts(self) -> dict[str, Any]:
        """Nothing that a ranker of texts has to know."""
        return {}

    @property
    def encoder(self) -> dict[str, Any] | None:
        """None: texts are read as they are."""
        return None

    def maker(self, slots: UsableSlots) -> TextMaker:
        """Batches of texts."""
        return TextMaker(slots, self._eval_batch_size)
