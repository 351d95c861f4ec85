"""texts: a group store of texts and labels without vectors, for rankers that read texts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from console.progress import WorkProgress
from features.building.extractor import Extractor, build_source
from features.building.group_build import GroupBuild, survey
from features.texts.groups import Source, TextGroup, checked
from ranking.stores.group_store_writer import GroupStoreWriter
from registry import EXTRACTORS, SOURCES, Node
from registry.ranges import FilePath, Rows


@EXTRACTORS.register("texts")
class TextsExtractor(Extractor):
    """Builds a group store of texts and labels, goes on with an unfinished one, or finds it finished; runs no model.

    Args:
        source: Where queries and candidates come from; vectors that it gives are left out.
        path: The folder of the store; by default `data/<source>-texts-<hash of all settings>`.
        chunk_size: Texts between two saves.
    """

    source: Source

    def __init__(
        self, source: Annotated[Node, SOURCES], path: FilePath | None = None, chunk_size: Rows = 16384
    ) -> None:
        super().__init__(build_source(source, "groups"), path)
        self.chunk_size = chunk_size

    @property
    def made_with(self) -> str:
        """What the usual path says in place of a model."""
        return "texts"

    def settings(self) -> dict[str, Any]:
        """All that the store's content depends on."""
        return {"extractor": "texts", "source": self.source.fingerprint(), "chunk_size": self.chunk_size}

    def items(self) -> Iterator[TextGroup]:
        """Every group, checked."""
        return checked(self.source.groups())

    def read_source(self) -> None:
        """Read all of the source, as a run does before it builds.

        Raises:
            ConfigError: If its data is not as it should be, or has nothing to learn from.
        """
        survey(self.items(), self.chunk_size, to_train=True)

    def build(self, settings: dict[str, Any], *, to_train: bool) -> Path:
        """Write all texts."""
        total, _ = survey(self.items(), self.chunk_size, to_train=to_train)
        writer = GroupStoreWriter(self.path, settings=settings, source=settings["source"])
        with writer, WorkProgress(total, doing="Writing", done="Wrote", brief=True) as progress:
            GroupBuild(writer, progress, None, self.chunk_size).given(self.items())
            return writer.finish()
