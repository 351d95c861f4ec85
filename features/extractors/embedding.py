"""embedding: builds a group store of texts and their vectors; one encoder embeds each text separately."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from jaxtyping import Float
from rich.console import Console
from torch import Tensor

from console.progress import WorkProgress
from features.building.alike import Alike
from features.building.extractor import Extractor, build_source
from features.building.group_build import GroupBuild, survey
from features.building.group_rows import Item, Slot, number_items, pool_ids, retrieved_slots
from features.texts.groups import Source, TextGroup, checked, grades
from language_models.encoder import Encoder
from ranking.stores.group_store import GroupStore
from ranking.stores.group_store_writer import GroupStoreWriter
from ranking.vectors.search import inverse_norms, top_k
from registry import EXTRACTORS, SOURCES, Node
from registry.ranges import FilePath, Rank, Rows

DEFAULT_ENCODER = Encoder()


@EXTRACTORS.register("embedding")
class EmbeddingExtractor(Extractor):
    """Builds a group store from a source, continues an unfinished store, or uses a finished one.

    Args:
        source: The source of queries and candidates.
        encoder: The model that embeds queries and candidates; null if the source gives vectors for all of them.
        path: The folder of the store; by default `data/<source>-<encoder>-<hash of all settings>`.
        retrieve: If set, all candidates of the source form one pool, and each query's group gets this many nearest
            candidates, nearest first; candidates of other queries have label 0. Relevant candidates of the query that
            are not among them are appended as injected: used in training, not in evaluation.
        dtype: Number format of the stored vectors.
        chunk_size: Number of texts between two saves.
    """

    source: Source

    def __init__(
        self,
        source: Annotated[Node, SOURCES],
        encoder: Encoder | None = DEFAULT_ENCODER,
        path: FilePath | None = None,
        retrieve: Rank | None = None,
        dtype: Literal["float16", "bfloat16", "float32"] = "float16",
        chunk_size: Rows = 1024,
    ) -> None:
        super().__init__(build_source(source, Source), path)
        self.encoder, self.retrieve, self.dtype, self.chunk_size = encoder, retrieve, dtype, chunk_size

    def settings(self) -> dict[str, Any]:
        """All settings that the content of the store depends on."""
        encoder = self.encoder.settings() if self.encoder else None
        settings = {"extractor": "embedding", "source": self.source.fingerprint(), "encoder": encoder}
        return settings | {"retrieve": self.retrieve, "dtype": self.dtype, "chunk_size": self.chunk_size}

    def items(self) -> Iterator[TextGroup]:
        """All groups, checked."""
        return checked(self.source.groups(), with_features=self.encoder is None)

    def judgements(self) -> Iterator[tuple[str, Mapping[str, float]]] | None:
        """The labels of the source; None for retrieved candidates, which can get other ids."""
        return grades(self.items()) if self.retrieve is None else None

    def read_source(self) -> None:
        """Read and check the whole source, as a run does before it builds.

        Raises:
            ConfigError: If the data is wrong, or has no labels to learn from.
        """
        survey(self.items(), self.chunk_size, to_train=True)

    def build(self, settings: dict[str, Any], *, to_train: bool) -> Path:
        """Embed and write all texts."""
        encoder = self.encoder.identity() if self.encoder else None
        groups = self.items() if self.retrieve is None else list(self.items())
        total, feature_dim = survey(groups, self.chunk_size, to_train=to_train)
        writer = GroupStoreWriter(
            self.path,
            feature_dim=self.encoder.feature_dim if self.encoder else feature_dim,
            depths=[None],
            dtype=self.dtype,
            settings=settings,
            encoder=encoder,
            source=settings["source"],
        )
        with writer, WorkProgress(total) as progress:
            build = GroupBuild(writer, progress, self.encoder, self.chunk_size)
            if isinstance(groups, list):
                _add_retrieved(build, groups, self.retrieve or 1)
            else:
                build.given(self.items())
            writer.finish()
        self._tell_alike()
        return self.path

    def _tell_alike(self) -> None:
        found = Alike.of(GroupStore.open(self.path))
        if found.num_groups:
            counts = f"{found.num_groups:,} of {found.num_labelled:,} queries with labels"
            why = "their texts are equal"
            if self.encoder:
                why += f", or equal in the {self.encoder.max_length} tokens that the encoder reads"
            line = f"Warning: {counts} have candidates with different labels but the same vector: {why}."
            advice = "No ranker can tell them apart: raise features.encoder.max_length, or leave them out."
            Console(stderr=True).print(
                f"{line} {advice}", style="yellow", highlight=False, soft_wrap=True, markup=False
            )


def _add_retrieved(build: GroupBuild, groups: list[TextGroup], k: int) -> None:
    """Write each group with the k candidates of the pool that are nearest to its query."""
    rows = number_items(groups)
    ids, items = pool_ids(groups, rows), list(rows)
    for start in range(0, len(items), build.chunk_size):
        build.add_candidates(items[start : start + build.chunk_size])
    pool = [shard.tensors["features"][:, 0] for shard in build.writer.candidates().shards]
    norms = inverse_norms(pool)
    for start in range(0, len(groups), build.chunk_size):
        chunk = groups[start : start + build.chunk_size]
        build.add_groups(chunk, partial(_search, chunk, pool, norms, k, rows, ids))


def _search(
    chunk: list[TextGroup],
    pool: list[Tensor],
    norms: Float[Tensor, " N"],
    k: int,
    rows: dict[Item, int],
    ids: list[str],
    queries: Float[Tensor, "Q D"],
) -> list[list[Slot]]:
    """The slots of retrieved groups; the search uses the stored vectors, so rankers see what ordered the candidates."""
    _, nearest = top_k(queries.to(pool[0].dtype), pool, k, inverse_norms=norms)
    return [retrieved_slots(group, found, rows, ids) for group, found in zip(chunk, nearest.tolist(), strict=True)]
