"""Group tables: the tables of a group store and the names of their columns."""

import torch

from ranking.stores.format import StoreFormat
from ranking.stores.shard import Columns

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

# Data on a candidate that a language model sampled.
RESPONSES: Columns = {
    "answer": (torch.int64, ("slots",)),
    "log_probability": (torch.float32, ("slots",)),
    "num_tokens": (torch.int32, ("slots",)),
    "self_certainty": (torch.float32, ("slots",)),
}

# Data on a candidate that is a model to send a query to; nan where it is unknown.
ROUTES: Columns = {
    "performance": (torch.float32, ("slots",)),
    "cost": (torch.float32, ("slots",)),
}

# Data on a candidate that not every store has.
KNOWN: Columns = {**RESPONSES, **ROUTES}

# What a beam search found for each query: it is none of its candidates.
BEAMS: Columns = {
    "beam": (torch.uint8, ("any",)),
    "beam_offsets": (torch.int64, ("rows+1",)),
    "beam_label": (torch.float32, ("rows",)),
}

GROUP_STORE = StoreFormat(
    name="group_store",
    title="group store",
    version=1,
    tables=TABLES,
    fields={"depths": list, "num_groups": int, "num_candidates": int, "num_slots": int},
    axes={"groups": ("slots",)},
    optional={"groups": {**KNOWN, **BEAMS}},
)
