"""GroupStoreWriter: builds a group store shard by shard; killed anywhere, it goes on and ends with the same bytes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ranking.stores.files import StoreError
from ranking.stores.format import SPLITS
from ranking.stores.group_tables import GROUP_STORE, RESPONSES
from ranking.stores.shard import Table, pack_texts
from ranking.stores.writer import StoreWriter, check_settings

__all__ = ["GroupStoreWriter", "check_settings"]


class GroupStoreWriter(StoreWriter):
    """Writes candidates, then groups of them; the state on disk is the one after some whole number of `add_` calls.

    Args:
        path: The folder of the finished store.
        feature_dim: Size D of each vector; 0 for a store of texts alone.
        depths: The fraction of layers each of the L vectors of a row was taken at; `[None]` for a plain embedding, none
            for a store of texts alone.
        dtype: float16, bfloat16 or float32; of no meaning in a store of texts alone.
        settings: All that the content depends on; a build goes on only with the same ones.
        encoder: What is needed to embed new texts in the same way.
        source: Where the texts came from.

    Raises:
        StoreError: If the store is finished already, another process is building it, or what is there was made with
            other settings or has been changed since.
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
        """Size D of each vector; 0 if the store holds texts alone."""
        return self._manifest["feature_dim"]

    @property
    def num_groups(self) -> int:
        """Groups that are safely on disk."""
        return self._manifest["num_groups"]

    @property
    def num_candidates(self) -> int:
        """Candidates that are safely on disk."""
        return self._manifest["num_candidates"]

    def candidates(self) -> Table:
        """The candidates written so far, mapped: to search among them before groups are made."""
        return self._format.open_table(self.partial, "candidates", self._manifest)

    def add_candidates(self, features: Float[Tensor, "N L D"] | None, texts: Sequence[str]) -> int:
        """Write one shard of candidates; `features` is None in a store of texts alone.

        Returns:
            The row of the first one.
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
        responses: Mapping[str, Tensor] | None = None,
        beams: Sequence[tuple[str, float]] | None = None,
    ) -> None:
        """Write one shard of groups; their candidates must have been added before.

        Args:
            ids: Of the queries.
            texts: Of the queries.
            features: Of the queries; None in a store of texts alone.
            offsets: Where each group's slots begin, from 0.
            candidate: Each slot's row, as counted by `add_candidates`.
            label: Relevance, higher is better; nan where unlabelled.
            slot_ids: Each candidate's id in its group.
            valid: Whether each may be used; all by default.
            injected: Whether each is a relevant one that retrieval missed; none by default.
            split: `train`, `val`, `test` or None for each group.
            responses: What is known of sampled candidates, by name as in `RESPONSES`: one value a slot.
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
        known = {name: values.to(RESPONSES[name][0]).contiguous() for name, values in (responses or {}).items()}
        if any(len(values) != num_slots for values in known.values()):
            raise ValueError(f"{num_slots} slots do not fit what is known of responses")
        found = {}
        if beams is not None:
            labels = torch.tensor([value for _, value in beams], dtype=torch.float32)
            found = {**pack_texts("beam", [text for text, _ in beams]), "beam_label": labels}
        tensors = {
            **known,
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
        """Give the store its name; nothing can be added after that.

        Raises:
            StoreError: If there is no group in it, or the name has been taken meanwhile.
        """
        if not self.num_groups:
            raise StoreError(str(self.partial), "no group was written.", cure="give a source that has some")
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
