"""GroupStoreWriter: builds a group store shard by shard; a killed build resumes and ends with the same bytes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ranking.stores.files import StoreError
from ranking.stores.format import SPLITS
from ranking.stores.group_tables import GROUP_STORE, KNOWN
from ranking.stores.shard import Table, pack_texts
from ranking.stores.writer import StoreWriter, check_settings

__all__ = ["GroupStoreWriter", "check_settings"]


class GroupStoreWriter(StoreWriter):
    """Writes candidates, then groups of them; each `add_` call takes effect on disk as a whole or not at all.

    Args:
        path: The folder of the finished store.
        feature_dim: Size D of each vector; 0 for a store without vectors.
        depths: The depth of each of the L vectors of a row, as a fraction of all layers; `[None]` for an embedding,
            empty for a store without vectors.
        dtype: float16, bfloat16 or float32; has no meaning in a store without vectors.
        settings: All settings that the content depends on; an unfinished build continues only with equal settings.
        encoder: The description of the encoder, to embed new texts in the same way.
        source: The description of where the texts came from.

    Raises:
        StoreError: If the store is already finished, another process is building it, or the unfinished store was made
            with other settings or has changed.
        ValueError: If there are depths without vectors, or vectors without depths.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        feature_dim: int = 0,
        depths: Sequence[float | None] = (),
        dtype: str = "float32",
        settings: Mapping[str, Any],
        encoder: Mapping[str, Any] | None = None,
        source: Mapping[str, Any] | None = None,
    ) -> None:
        if bool(feature_dim) != bool(depths):
            raise ValueError(f"feature_dim {feature_dim} does not fit depths {list(depths)}")
        super().__init__(
            path,
            GROUP_STORE,
            dtype=dtype,
            settings=settings,
            encoder=encoder,
            source=source,
            fixed={"feature_dim": feature_dim, "depths": list(depths)},
            counted={"num_groups": 0, "num_candidates": 0, "num_slots": 0},
        )

    @property
    def feature_dim(self) -> int:
        """Size D of each vector; 0 if the store has no vectors."""
        return self._manifest["feature_dim"]

    @property
    def num_groups(self) -> int:
        """Number of groups that are safely on disk."""
        return self._manifest["num_groups"]

    @property
    def num_candidates(self) -> int:
        """Number of candidates that are safely on disk."""
        return self._manifest["num_candidates"]

    def candidates(self) -> Table:
        """The candidates written so far, memory-mapped, for a search before groups are made."""
        return self._format.open_table(self.partial, "candidates", self._manifest)

    def add_candidates(self, features: Float[Tensor, "N L D"] | None, texts: Sequence[str]) -> int:
        """Write one shard of candidates; `features` is None in a store without vectors.

        Returns:
            The row of the first candidate.
        """
        tensors = {**self._features(features, len(texts), "candidate"), **pack_texts("text", texts)}
        first = self.num_candidates
        self._write("candidates", tensors, rows=len(texts))
        return first

    def add_groups(
        self,
        *,
        ids: Sequence[str],
        texts: Sequence[str],
        features: Float[Tensor, "G L D"] | None = None,
        offsets: Int[Tensor, " starts"],
        candidate: Int[Tensor, " S"],
        label: Float[Tensor, " S"],
        slot_ids: Sequence[str],
        valid: Bool[Tensor, " S"] | None = None,
        injected: Bool[Tensor, " S"] | None = None,
        split: Sequence[str | None] | None = None,
        known: Mapping[str, Tensor] | None = None,
        beams: Sequence[tuple[str, float]] | None = None,
    ) -> None:
        """Write one shard of groups; add their candidates before.

        Args:
            ids: Ids of the queries.
            texts: Texts of the queries.
            features: Vectors of the queries; None in a store without vectors.
            offsets: Where each group's slots begin, from 0.
            candidate: The row of each slot's candidate, as `add_candidates` counts them.
            label: Relevance of each slot, higher is better; nan for unlabelled slots.
            slot_ids: Id of each slot's candidate within its group.
            valid: Whether each slot's candidate may be used; all by default.
            injected: Whether each slot has a relevant candidate that retrieval missed; none by default.
            split: `train`, `val`, `test` or None for each group.
            known: Further data on candidates, with the names in `KNOWN`: one value per slot.
            beams: What a beam search found for each query, with its label, nan where it is not known; an empty text
                where it found nothing.

        Raises:
            ValueError: If the sizes do not agree, a vector is not finite, a label is infinite or a row does not exist.
        """
        num_groups, num_slots = len(ids), len(slot_ids)
        valid = torch.ones(num_slots, dtype=torch.bool) if valid is None else valid
        injected = torch.zeros(num_slots, dtype=torch.bool) if injected is None else injected
        split = [None] * num_groups if split is None else split
        group_sizes = {len(texts), len(split), len(offsets) - 1, num_groups if beams is None else len(beams)}
        slot_sizes = {len(candidate), len(label), len(valid), len(injected), int(offsets[-1])}
        if group_sizes != {num_groups} or slot_sizes != {num_slots}:
            raise ValueError(f"{num_groups} groups with {num_slots} slots do not fit the other sizes")
        if int(offsets[0]) != 0 or bool((offsets.diff() < 0).any()):
            raise ValueError(f"offsets do not fit: they must rise from 0, got {offsets.tolist()[:8]} ...")
        if bool(((candidate < 0) | (candidate >= self.num_candidates)).any()):
            raise ValueError(f"a slot names a candidate outside the {self.num_candidates} that were added")
        if bool(label.isinf().any()):
            raise ValueError(f"an infinite label, in slot {int(label.isinf().nonzero()[0])}")
        if unknown := set(split).difference(SPLITS):
            raise ValueError(f"no such split: {unknown}; there are train, val, test and None")
        further = {name: values.to(KNOWN[name][0]).contiguous() for name, values in (known or {}).items()}
        if any(len(values) != num_slots for values in further.values()):
            raise ValueError(f"the further columns do not fit {num_slots} slots")
        found = {}
        if beams is not None:
            labels = torch.tensor([value for _, value in beams], dtype=torch.float32)
            found = {**pack_texts("beam", [text for text, _ in beams]), "beam_label": labels}
        tensors = {
            **further,
            **found,
            **self._features(features, num_groups, "query"),
            "split": torch.tensor([SPLITS[name] for name in split], dtype=torch.uint8),
            "offsets": offsets.to(torch.int64).contiguous(),
            "candidate": candidate.to(torch.int64).contiguous(),
            "label": label.to(torch.float32).contiguous(),
            "valid": valid.contiguous(),
            "injected": injected.contiguous(),
            **pack_texts("text", texts),
            **pack_texts("id", ids),
            **pack_texts("slot_id", slot_ids),
        }
        self._write("groups", tensors, rows=num_groups, slots=num_slots)

    def finish(self) -> Path:
        """Finish the store and rename it to its path; nothing can be added after that.

        Raises:
            StoreError: If the store has no groups, or the path exists by now.
        """
        if not self.num_groups:
            raise StoreError(str(self.partial), "no group was written.", cure="use a source that has groups")
        return super().finish()

    def _features(self, features: Tensor | None, rows: int, what: str) -> dict[str, Tensor]:
        """The column of vectors, if the store has one."""
        shape = (rows, len(self._manifest["depths"]), self.feature_dim)
        if not self.feature_dim and features is None:
            return {}
        if not self.feature_dim or features is None:
            given = "none" if features is None else tuple(features.shape)
            raise ValueError(f"{what} features are {given}, expected {shape if self.feature_dim else 'none'}")
        return {"features": self._stored(features, shape, what)}
