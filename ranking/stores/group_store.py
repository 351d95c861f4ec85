"""GroupStore: queries with their candidates, features, labels and texts, on disk and mapped from there.

A store is a folder of two tables in shards and a manifest. `candidates` holds each candidate's vectors and text once,
however many groups share it. `groups` holds each query's vectors, text, id and split, and its slots: which candidate,
its label, whether it may be used, whether it was injected, and its id. A store of texts alone has no vectors: its
`feature_dim` is 0, and it has no depths.
"""

from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from ranking.stores.files import StoreError, damaged
from ranking.stores.format import MANIFEST, SPLITS, check_hashes
from ranking.stores.group_tables import GROUP_STORE, RESPONSES
from ranking.stores.shard import DTYPES, Table

S = TypeVar("S", bound="GroupStore")


class GroupStore:
    """A finished store, open for reading. G groups have S slots in all, n vectors are read at a time, D long.

    Args:
        path: Its folder.
        manifest: Its checked manifest.
        candidates: The table of candidates.
        groups: The table of groups.

    Attributes:
        offsets: Where each group's slots begin; group g has slots offsets[g] to offsets[g + 1].
        candidate: Row of the candidate in each slot.
        label: Relevance of each slot; nan where it is unlabelled.
        valid: Whether a slot's candidate may be used.
        injected: Whether it is a relevant candidate that retrieval missed: shown in training, never in evaluation.
        split: 0 train, 1 val, 2 test, 255 where the source does not say.
        answer: Which answer a slot's response gives, as a hash: equal numbers are equal answers, 0 is none. None where
            answers were not compared.
        log_probability: Of all tokens of a slot's response together, in nats; nan where it is not known, None where it
            is known of no slot.
        num_tokens: Of a slot's response; -1 where it is not known, None where it is known of no slot.
    """

    offsets: Int[Tensor, " G+1"]
    candidate: Int[Tensor, " S"]
    label: Float[Tensor, " S"]
    valid: Bool[Tensor, " S"]
    injected: Bool[Tensor, " S"]
    split: UInt8[Tensor, " G"]
    answer: Int[Tensor, " S"] | None
    log_probability: Float[Tensor, " S"] | None
    num_tokens: Int[Tensor, " S"] | None

    def __init__(self, path: Path, manifest: dict[str, Any], candidates: Table, groups: Table) -> None:
        self.path, self.manifest = path, manifest
        self.feature_dim: int = manifest["feature_dim"]
        self.depths: list[float | None] = manifest["depths"]
        self.dtype = DTYPES[manifest["dtype"]]
        self.encoder: dict[str, Any] | None = manifest["encoder"]
        self.num_groups, self.num_candidates = len(groups), len(candidates)
        self._candidates, self._groups, self._slots = candidates, groups, Table(groups.shards, "slots")
        self.num_slots = len(self._slots)
        for name in ("offsets", "candidate", "label", "valid", "injected", "split"):
            setattr(self, name, groups.joined(name))
        for name in RESPONSES:
            setattr(self, name, groups.joined(name) if groups.has(name) else None)

    @classmethod
    def open(cls: type[S], path: str | Path, verify: bool = False) -> S:
        """Open a store; its small tensors are read and checked, its features and texts stay on disk.

        Args:
            path: The folder.
            verify: Whether to read everything and compare it with the manifest's hashes.

        Raises:
            StoreError: If it is missing, unfinished, damaged or foreign; names the file, the fault and the cure.
        """
        path = Path(path)
        manifest = GROUP_STORE.read_manifest(path)
        tables = {}
        for name in GROUP_STORE.tables:
            records = manifest["shards"][name]
            if not records and name == "groups":
                raise damaged(path / MANIFEST, "lists no shard of groups")
            if verify:
                check_hashes(path, records)
            tables[name] = GROUP_STORE.open_table(path, name, manifest)
        store = cls(path, manifest, **tables)
        store._check()
        return store

    @property
    def has_features(self) -> bool:
        """Whether it holds vectors beside the texts."""
        return self.feature_dim > 0

    def check_features(self) -> None:
        """Refuse a store of texts alone, for who needs vectors.

        Raises:
            StoreError: If it holds no vectors; names the extractors that make them.
        """
        if not self.has_features:
            cure = (
                "features: {name: embedding, source: ...} makes a store with vectors; or use a ranker that reads texts"
            )
            raise StoreError(str(self.path), "holds texts and no vectors.", cure=cure)

    def query_features(self, index: Int[Tensor, " N"], depth: int = 0) -> Float[Tensor, "N D"]:
        """The queries' vectors of these groups, in the stored dtype; `depth` counts in `depths`.

        Raises:
            StoreError: If it holds no vectors.
        """
        self.check_features()
        return self._groups.features(index, depth)

    def candidate_features(self, index: Int[Tensor, " N"], depth: int = 0) -> Float[Tensor, "N D"]:
        """The vectors of these candidates, in the stored dtype; `depth` counts in `depths`.

        Raises:
            StoreError: If it holds no vectors.
        """
        self.check_features()
        return self._candidates.features(index, depth)

    def query_text(self, group: int) -> str:
        """The text of a group's query."""
        return self._groups.text("text", group)

    def query_id(self, group: int) -> str:
        """The id of a group's query."""
        return self._groups.text("id", group)

    def candidate_text(self, row: int) -> str:
        """The text of a candidate, by its row as in `candidate`."""
        return self._candidates.text("text", row)

    @cached_property
    def beam_label(self) -> Float[Tensor, " G"] | None:
        """The label of what a beam search found for each query; None if none was made.

        nan where it found nothing, what it found has no label, or the query was not searched for.
        """
        if self.has_beams:
            return self._groups.joined("beam_label")
        # Stores of earlier versions hold it in a slot that is not valid, with this id.
        beams = [slot for slot in (~self.valid).nonzero().flatten().tolist() if self.slot_id(slot) == "beam"]
        if not beams:
            return None
        found, slots = torch.full((self.num_groups,), torch.nan), torch.tensor(beams)
        found[torch.searchsorted(self.offsets, slots, right=True) - 1] = self.label[slots]
        return found

    @property
    def has_beams(self) -> bool:
        """Whether the store holds what a beam search found, beside the candidates."""
        return self._groups.has("beam_label")

    def beam_text(self, group: int) -> str | None:
        """What a beam search found for a group's query; None if nothing, or if none was made."""
        return (self._groups.text("beam", group) or None) if self.has_beams else None

    def slot_id(self, slot: int) -> str:
        """The id that the candidate in a slot has within its group."""
        return self._slots.text("slot_id", slot)

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker process maps the files anew: a pickled map would be a copy of the features.
        return type(self).open, (self.path,)

    def __repr__(self) -> str:
        counts = f"{self.num_groups:,} groups, {self.num_candidates:,} candidates, {self.num_slots:,} slots"
        features = f"{self.feature_dim} x {self.manifest['dtype']}" if self.has_features else "no vectors"
        return f"GroupStore({str(self.path)!r}: {counts}, {features})"

    def _check(self) -> None:
        for name in ("num_groups", "num_candidates", "num_slots"):
            if self.manifest[name] != getattr(self, name):
                problem = f"{name} is {self.manifest[name]!r}, but the shards have {getattr(self, name)}"
                raise damaged(self.path / MANIFEST, problem)
        if self.feature_dim < 0 or self.has_features != bool(self.depths):
            problem = f"feature_dim is {self.feature_dim}, and depths are {self.depths}"
            raise damaged(self.path / MANIFEST, problem)
        outside = (self.candidate < 0) | (self.candidate >= self.num_candidates)
        if bool(outside.any()):
            slot = int(outside.nonzero()[0])
            problem = f"slot {slot} names candidate {int(self.candidate[slot])} of {self.num_candidates}"
            raise damaged(self._slots.at(slot)[0].path, problem)
        unknown = ~torch.isin(self.split, torch.tensor(list(SPLITS.values()), dtype=torch.uint8))
        if bool(unknown.any()):
            group = int(unknown.nonzero()[0])
            problem = f"split of group {group} is {int(self.split[group])}, not 0, 1, 2 or 255"
            raise damaged(self._groups.at(group)[0].path, problem)
