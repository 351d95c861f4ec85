"""The tables of a group store, and the names its parts are known by."""

import torch

from ranking.stores.files import StoreError, sha256_of, write_file
from ranking.stores.format import StoreFormat
from ranking.stores.shard import DTYPES, Columns, Shard, Table, pack_texts

__all__ = [
    "BEAM",
    "DTYPES",
    "GROUP_STORE",
    "RESPONSES",
    "TABLES",
    "Shard",
    "StoreError",
    "Table",
    "pack_texts",
    "sha256_of",
    "write_file",
]

TABLES: dict[str, Columns] = {
    "candidates": {
        "features": (None, ("rows", "depths", "dim")),
        "text": (torch.uint8, ("any",)),
        "text_offsets": (torch.int64, ("rows+1",)),
    },
    "groups": {
        "features": (None, ("rows", "depths", "dim")),
        "text": (torch.uint8, ("any",)),
        "text_offsets": (torch.int64, ("rows+1",)),
        "id": (torch.uint8, ("any",)),
        "id_offsets": (torch.int64, ("rows+1",)),
        "split": (torch.uint8, ("rows",)),
        "offsets": (torch.int64, ("rows+1",)),
        "candidate": (torch.int64, ("slots",)),
        "label": (torch.float32, ("slots",)),
        "valid": (torch.bool, ("slots",)),
        "injected": (torch.bool, ("slots",)),
        "slot_id": (torch.uint8, ("any",)),
        "slot_id_offsets": (torch.int64, ("slots+1",)),
    },
}

# What is known of a candidate that a language model sampled.
RESPONSES: Columns = {
    "answer": (torch.int64, ("slots",)),
    "log_probability": (torch.float32, ("slots",)),
    "num_tokens": (torch.int32, ("slots",)),
}

BEAM = "beam"
"""The id of a slot that holds what a beam search found: it is no candidate, so not valid, but stands beside them."""

GROUP_STORE = StoreFormat(
    name="group_store",
    title="group store",
    version=1,
    tables=TABLES,
    fields={"depths": list, "num_groups": int, "num_candidates": int, "num_slots": int},
    axes={"groups": ("slots",)},
    optional={"groups": RESPONSES},
)
