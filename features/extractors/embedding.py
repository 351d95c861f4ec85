"""embedding: a group store of texts and their vectors from one encoder, each text on its own."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from rich.console import Console
from torch import Tensor

from console.progress import WorkProgress
from features.building.alike import Alike
from features.building.extractor import Extractor, build_source
from features.building.group_rows import (
    Item,
    Slot,
    given_slots,
    in_chunks,
    item_of,
    number_items,
    pool_ids,
    retrieved_slots,
)
from features.texts.groups import Source, TextGroup, checked
from language_models.encoder import Encoder
from ranking.stores.group_store import GroupStore
from ranking.stores.group_store_writer import GroupStoreWriter
from ranking.vectors.search import inverse_norms, top_k
from registry import EXTRACTORS, SOURCES, ConfigError, Node
from registry.ranges import FilePath, Rank, Rows

DEFAULT_ENCODER = Encoder()


@EXTRACTORS.register("embedding")
class EmbeddingExtractor(Extractor):
    """Builds a group store from a source, goes on with an unfinished one, or finds it finished.

    Args:
        source: Where queries and candidates come from.
        encoder: What embeds them; null where every line of the source has features of its own.
        path: The folder of the store; by default `data/<source>-<encoder>-<hash of all settings>`.
        retrieve: If set, all candidates of the source are one pool, and each query's group is the encoder's nearest
            ones, so many, in that order; other queries' candidates have label 0. Its own relevant ones that were
            missed are appended as injected: for training only.
        dtype: Of the stored vectors.
        chunk_size: Texts between two saves.
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
        super().__init__(build_source(source, "groups"), path)
        self.encoder, self.retrieve, self.dtype, self.chunk_size = encoder, retrieve, dtype, chunk_size

    def settings(self) -> dict[str, Any]:
        """All that the store's content depends on."""
        encoder = self.encoder.settings() if self.encoder else None
        settings = {"extractor": "embedding", "source": self.source.fingerprint(), "encoder": encoder}
        return settings | {"retrieve": self.retrieve, "dtype": self.dtype, "chunk_size": self.chunk_size}

    def items(self) -> Iterator[TextGroup]:
        """Every group, checked."""
        return checked(self.source.groups(), with_features=self.encoder is None)

    def build(self, settings: dict[str, Any], *, to_train: bool) -> Path:
        """Embed all texts and write them."""
        encoder = self.encoder.identity() if self.encoder else None
        groups = self.items() if self.retrieve is None else list(self.items())
        total, feature_dim = self._survey(groups, to_train)
        writer = GroupStoreWriter(
            self.path,
            feature_dim=feature_dim,
            depths=[None],
            dtype=self.dtype,
            settings=settings,
            encoder=encoder,
            source=settings["source"],
        )
        with writer, WorkProgress(total) as progress:
            build = _Build(self, writer, progress)
            if isinstance(groups, list):
                build.retrieved(groups, self.retrieve or 1)
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
            line = f"Warning: {counts} have candidates of different labels with the same vector: {why}."
            advice = "No ranker can tell them apart: raise features.encoder.max_length, or leave them out."
            Console(stderr=True).print(
                f"{line} {advice}", style="yellow", highlight=False, soft_wrap=True, markup=False
            )

    def _survey(self, groups: Iterable[TextGroup], to_train: bool) -> tuple[int, int]:
        """How many texts to embed, and a vector's size; reads all of the source, so that bad data shows before work."""
        total, feature_dim = 0, self.encoder.feature_dim if self.encoder else 0
        labelled = not to_train
        for part in [groups] if isinstance(groups, list) else in_chunks(groups, self.chunk_size):
            total += len(part) + len(number_items(part))
            feature_dim = feature_dim or len(part[0].feature or ())
            labelled = labelled or any(each.label is not None for group in part for each in group.candidates)
        if not labelled:
            cure = "give candidates a `label`; python -m features makes a store without labels"
            raise ConfigError("features.source", "no candidate has a label: there is nothing to learn.", cure=cure)
        return total, feature_dim


class _Build:
    """One build: what it embeds goes to the writer, unless an earlier run has written it."""

    def __init__(self, extractor: EmbeddingExtractor, writer: GroupStoreWriter, progress: WorkProgress) -> None:
        self.encoder, self.chunk_size = extractor.encoder, extractor.chunk_size
        self.writer, self.progress = writer, progress
        self.num_candidates = self.num_groups = 0

    def given(self, groups: Iterable[TextGroup]) -> None:
        """Each group as its source has it; equal candidates are stored once a chunk."""
        for chunk in in_chunks(groups, self.chunk_size):
            rows = number_items(chunk, self.num_candidates)
            self._add_candidates(list(rows))
            slots = [given_slots(group, rows) for group in chunk]
            self._add_groups(chunk, lambda _, slots=slots: slots)

    def retrieved(self, groups: list[TextGroup], k: int) -> None:
        """Each group with the k candidates of the pool that are nearest to its query."""
        rows = number_items(groups)
        ids, items = pool_ids(groups, rows), list(rows)
        for start in range(0, len(items), self.chunk_size):
            self._add_candidates(items[start : start + self.chunk_size])
        pool = [shard.tensors["features"][:, 0] for shard in self.writer.candidates().shards]
        norms = inverse_norms(pool)
        for start in range(0, len(groups), self.chunk_size):
            chunk = groups[start : start + self.chunk_size]
            self._add_groups(chunk, partial(_search, chunk, pool, norms, k, rows, ids))

    def _add_candidates(self, items: list[Item]) -> None:
        self.num_candidates += len(items)
        if self.num_candidates <= self.writer.num_candidates:
            self.progress.skip(len(items))
            return
        vectors = self._embed(items, self.encoder.candidate_prompt if self.encoder else "")
        self.writer.add_candidates(vectors.unsqueeze(1), [item.text for item in items])

    def _add_groups(self, chunk: list[TextGroup], slots_of: Callable[[Tensor], list[list[Slot]]]) -> None:
        self.num_groups += len(chunk)
        if self.num_groups <= self.writer.num_groups:
            self.progress.skip(len(chunk))
            return
        queries = self._embed([item_of(group) for group in chunk], self.encoder.query_prompt if self.encoder else "")
        grouped = slots_of(queries)
        slots = list(itertools.chain.from_iterable(grouped))
        self.writer.add_groups(
            ids=[group.query_id for group in chunk],
            texts=[group.query for group in chunk],
            features=queries.unsqueeze(1),
            offsets=torch.tensor([0, *itertools.accumulate(map(len, grouped))]),
            candidate=torch.tensor([slot.row for slot in slots]),
            label=torch.tensor([slot.label for slot in slots], dtype=torch.float32),
            injected=torch.tensor([slot.injected for slot in slots]),
            slot_ids=[slot.id for slot in slots],
            split=[group.split for group in chunk],
        )

    def _embed(self, items: list[Item], prompt: str) -> Float[Tensor, "N D"]:
        if self.encoder:
            return self.encoder.encode([item.text for item in items], prompt, self.progress.report)
        self.progress.skip(len(items))
        return torch.tensor([item.feature for item in items], dtype=torch.float32)


def _search(
    chunk: list[TextGroup],
    pool: list[Tensor],
    norms: Float[Tensor, " N"],
    k: int,
    rows: dict[Item, int],
    ids: list[str],
    queries: Float[Tensor, "Q D"],
) -> list[list[Slot]]:
    """The slots of retrieved groups, by the vectors as they are stored: what a ranker sees is what ordered them."""
    _, nearest = top_k(queries.to(pool[0].dtype), pool, k, inverse_norms=norms)
    return [retrieved_slots(group, found, rows, ids) for group, found in zip(chunk, nearest.tolist(), strict=True)]
