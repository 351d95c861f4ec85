"""texts: builds a group store of texts and labels without vectors, for rankers that read texts."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from console.progress import WorkProgress
from features.building.extractor import Extractor, build_source
from features.building.group_build import GroupBuild, survey
from features.texts.groups import Source, TextGroup, checked, grades
from ranking.stores.group_store_writer import GroupStoreWriter
from registry import EXTRACTORS, SOURCES, Node
from registry.ranges import FilePath, Rows


@EXTRACTORS.register("texts")
class TextsExtractor(Extractor):
    """Builds a group store of texts and labels, continues an unfinished store, or uses a finished one; runs no model.

    Args:
        source: The source of queries and candidates; vectors that it gives are ignored.
        path: The folder of the store; by default `data/<source>-texts-<hash of all settings>`.
        chunk_size: Number of texts between two saves.
    """

    source: Source

    def __init__(
        self, source: Annotated[Node, SOURCES], path: FilePath | None = None, chunk_size: Rows = 16384
    ) -> None:
        super().__init__(build_source(source, Source), path)
        self.chunk_size = chunk_size

    @property
    def made_with(self) -> str:
        """The word in the default path in place of a model's name."""
        return "texts"

    def settings(self) -> dict[str, Any]:
        """All settings that the content of the store depends on."""
        return {"extractor": "texts", "source": self.source.fingerprint(), "chunk_size": self.chunk_size}

    def items(self) -> Iterator[TextGroup]:
        """All groups, checked."""
        return checked(self.source.groups())

    def judgements(self) -> Iterator[tuple[str, Mapping[str, float]]] | None:
        """The labels of the source."""
        return grades(self.items())

    def read_source(self) -> None:
        """Read and check the whole source, as a run does before it builds.

        Raises:
            ConfigError: If the data is wrong, or has no labels to learn from.
        """
        survey(self.items(), self.chunk_size, to_train=True)

    def build(self, settings: dict[str, Any], *, to_train: bool) -> Path:
        """Write all texts."""
        total, _ = survey(self.items(), self.chunk_size, to_train=to_train)
        writer = GroupStoreWriter(self.path, settings=settings, source=settings["source"])
        with writer, WorkProgress(total, doing="Writing", done="Wrote", brief=True) as progress:
            GroupBuild(writer, progress, None, self.chunk_size).given(self.items())
            return writer.finish()
