"""GroupStore: queries with their candidates, features, labels and texts, memory-mapped from disk.

A store is a folder with two tables in shards and a manifest. `candidates` holds each candidate's vectors and text once,
however many groups share it. `groups` holds each query's vectors, text, id and split, and its slots: which candidate,
its label, whether it may be used, whether it was injected, and its id. A store of texts has no vectors: its
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
from ranking.stores.group_tables import GROUP_STORE, KNOWN
from ranking.stores.shard import DTYPES, Table

S = TypeVar("S", bound="GroupStore")


class GroupStore:
    """A finished store, open for reading. G groups have S slots in total; a read returns n vectors of size D.

    Args:
        path: The folder of the store.
        manifest: The checked manifest of the store.
        candidates: The table of candidates.
        groups: The table of groups.

    Attributes:
        offsets: Where each group's slots begin; group g has slots offsets[g] to offsets[g + 1].
        candidate: Row of the candidate in each slot.
        label: Relevance of each slot; nan for unlabelled slots.
        valid: Whether a slot's candidate may be used.
        injected: Whether a slot has a relevant candidate that retrieval missed: used in training, not in evaluation.
        split: 0 train, 1 val, 2 test, 255 where the source names no split.
        answer: Hash of the answer in a slot's response: equal numbers are equal answers, 0 is no answer. None if
            answers were not compared.
        log_probability: Total log-probability of a slot's response, in nats; nan where it is unknown, None if it is
            unknown for all slots.
        num_tokens: Number of tokens of a slot's response; -1 where it is unknown, None if it is unknown for all slots.
        self_certainty: Mean over a response's tokens of KL(uniform || model), in nats (Kang et al. 2025); nan where it
            is unknown, None if it is unknown for all slots.
        performance: How well each slot's model answered the query; None in a store that is not for routing.
        cost: What the answer of each slot's model cost; nan where it is unknown, None in a store that is not for
            routing.
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
    self_certainty: Float[Tensor, " S"] | None
    performance: Float[Tensor, " S"] | None
    cost: Float[Tensor, " S"] | None

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
        for name in KNOWN:
            setattr(self, name, groups.joined(name) if groups.has(name) else None)

    @classmethod
    def open(cls: type[S], path: str | Path, verify: bool = False) -> S:
        """Open a store; read and check its small tensors, and leave features and texts on disk.

        Args:
            path: The folder of the store.
            verify: Whether to read all files and compare them with the manifest's hashes.

        Raises:
            StoreError: If the store is missing, unfinished, damaged or not a group store; names the file, the fault and
                the cure.
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
        """Whether the store has vectors in addition to texts."""
        return self.feature_dim > 0

    def check_features(self) -> None:
        """Check that the store has vectors.

        Raises:
            StoreError: If it has none; names the extractors that make them.
        """
        if not self.has_features:
            cure = (
                "features: {name: embedding, source: ...} makes a store with vectors; or use a ranker that reads texts"
            )
            raise StoreError(str(self.path), "has texts, but no vectors.", cure=cure)

    def query_features(self, index: Int[Tensor, " N"], depth: int = 0) -> Float[Tensor, "N D"]:
        """The vectors of these groups' queries, in the stored dtype; `depth` is an index into `depths`.

        Raises:
            StoreError: If the store has no vectors.
        """
        self.check_features()
        return self._groups.features(index, depth)

    def candidate_features(self, index: Int[Tensor, " N"], depth: int = 0) -> Float[Tensor, "N D"]:
        """The vectors of these candidates, in the stored dtype; `depth` is an index into `depths`.

        Raises:
            StoreError: If the store has no vectors.
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
        """The text of the candidate in this row; `candidate` has the rows."""
        return self._candidates.text("text", row)

    @cached_property
    def beam_label(self) -> Float[Tensor, " G"] | None:
        """The label of each query's beam search result; None if the store has no beam search.

        It is nan where the search found nothing, the result has no label, or the query was not searched.
        """
        if self.has_beams:
            return self._groups.joined("beam_label")
        if not self.beam_slots:
            return None
        found, slots = torch.full((self.num_groups,), torch.nan), torch.tensor(list(self.beam_slots.values()))
        found[list(self.beam_slots)] = self.label[slots]
        return found

    @cached_property
    def beam_slots(self) -> dict[int, int]:
        """The slot of each group's beam search result in a store of an earlier version; it is not a candidate."""
        if self.has_beams:
            return {}
        slots = [slot for slot in (~self.valid).nonzero().flatten().tolist() if self.slot_id(slot) == "beam"]
        groups = torch.searchsorted(self.offsets, torch.tensor(slots), right=True) - 1
        return dict(zip(groups.tolist(), slots, strict=True))

    @property
    def has_beams(self) -> bool:
        """Whether the store holds what a beam search found, beside the candidates."""
        return self._groups.has("beam_label")

    def beam_text(self, group: int) -> str | None:
        """What a beam search found for a group's query; None if nothing, or if none was made."""
        if self.has_beams:
            return self._groups.text("beam", group) or None
        slot = self.beam_slots.get(group)
        return None if slot is None else self.candidate_text(int(self.candidate[slot]))

    def slot_id(self, slot: int) -> str:
        """The id of the candidate in a slot, within its group."""
        return self._slots.text("slot_id", slot)

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker process opens the files again, because a pickled memory map would be a copy of the features.
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
