"""Group inspection: prints what a group store contains."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from jaxtyping import UInt8
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text
from torch import Tensor

from console.decimals import decimal, short
from ranking.response_analysis import Analysis
from ranking.stores.format import SPLITS
from ranking.stores.group_store import GroupStore

_SHOWN_LABELS = 10
_ID_WIDTH = 24
# Numbers of characters of a text: the most to read, the most to print, and the fewest that justify a line.
_MOST_READ, _MOST_SHOWN, _LEAST_ROOM = 2000, 300, 24


def show(store: GroupStore, console: Console, num_groups: int = 3) -> None:
    """Print a store's counts, labels and origin, and its first groups."""
    print_facts(console, f"Group store {store.path}", summary(store))
    for group in range(min(num_groups, store.num_groups)):
        for line in _group(store, group):
            print_line(console, *line)


def summary(store: GroupStore) -> dict[str, str]:
    """The facts about a store, by name."""
    sizes = store.offsets.diff()
    source = ", ".join(f"{name} {shorten(value)}" for name, value in store.manifest["source"].items())
    depths = ", ".join("embedding" if depth is None else f"{depth:g}" for depth in store.depths)
    size = sum(record["bytes"] for records in store.manifest["shards"].values() for record in records)
    return {
        "queries": f"{store.num_groups:,}",
        "candidates": f"{store.num_candidates:,} stored once, in {store.num_slots:,} slots",
        "per query": f"{int(sizes.min())} to {int(sizes.max())}, {store.num_slots / store.num_groups:.2f} on average",
        "features": f"{store.feature_dim} x {store.manifest['dtype']}, {depths}"
        if store.has_features
        else "none, only texts",
        "size": f"{size / 1e6:,.1f} MB in {sum(map(len, store.manifest['shards'].values()))} shards",
        "splits": splits_line(store.split),
        "labels": _labels(store),
        "right and wrong": _right_and_wrong(store),
        **_responses(store),
        **({"beams": f"{_num_beams(store):,} queries"} if store.has_beams else {}),
        "injected": f"{int(store.injected.sum()):,} relevant candidates that retrieval missed",
        "not valid": f"{int((~store.valid).sum()):,} slots",
        "encoder": encoder_line(store.encoder) if store.has_features else "none",
        "source": source or "not given",
    }


def _num_beams(store: GroupStore) -> int:
    return sum(store.beam_text(group) is not None for group in range(store.num_groups))


def print_facts(console: Console, title: str, facts: Mapping[str, str]) -> None:
    """Print a title and facts by name."""
    console.print(Text(title, style="bold"), soft_wrap=True)
    widest = max(map(len, facts))
    room = console.width - widest - 2
    for name, value in facts.items():
        label = Text(f"{name:{widest}}  " if room >= _LEAST_ROOM else f"{name}: ", style="cyan")
        parts = Text(value).wrap(console, room, overflow="fold") if room >= _LEAST_ROOM else [Text(value)]
        for place, part in enumerate(parts):
            part.rstrip()
            console.print(label if not place else Text(" " * len(label)), part, sep="", end="\n", soft_wrap=True)


def print_line(console: Console, head: str, text: str, style: str = "") -> None:
    """Print a head, and as much of a text as fits in the line; without a terminal the whole text."""
    text = " ".join(text[:_MOST_READ].split())[:_MOST_SHOWN]
    room = max(console.width - cell_len(head), _LEAST_ROOM)
    if console.is_terminal and cell_len(text) > room:
        text = set_cell_size(text, room - 3).rstrip() + "..."
    console.print(Text(f"{head}{text}".rstrip(), style=style), soft_wrap=True)


def padded(id: str) -> str:
    """An id padded to the usual width, so that the texts after ids are aligned."""
    return id + " " * (_ID_WIDTH - cell_len(id))


def splits_line(split: UInt8[Tensor, " Q"]) -> str:
    """The number of queries of each split, in words."""
    counts = {name: int((split == code).sum()) for name, code in SPLITS.items()}
    return ", ".join(f"{name or 'not given'} {count:,}" for name, count in counts.items() if count) or "none"


def _labels(store: GroupStore) -> str:
    known = store.label[store.valid & ~store.label.isnan()]
    values, counts = torch.unique(known, return_counts=True)
    unknown = int(store.valid.sum()) - len(known)
    if len(values) <= _SHOWN_LABELS:
        parts = [f"{short(value)}: {count:,}" for value, count in zip(values.tolist(), counts.tolist(), strict=True)]
    else:
        cuts = torch.quantile(known.double(), torch.tensor([0, 0.25, 0.5, 0.75, 1]).double()).tolist()
        parts = [f"{len(known):,} with quartiles " + " ".join(short(cut, 4) for cut in cuts)]
    return ", ".join(parts + [f"none: {unknown:,}"] * (unknown > 0))


def _right_and_wrong(store: GroupStore) -> str:
    right, wrong = (_groups_with(store, some & store.valid) for some in (store.label > 0, store.label <= 0))
    counts = {"both": right & wrong, "only right": right & ~wrong, "only wrong": wrong & ~right}
    counts["neither"] = ~right & ~wrong
    return ", ".join(f"{name}: {int(groups.sum()):,}" for name, groups in counts.items()) + " queries"


def _responses(store: GroupStore) -> dict[str, str]:
    """Facts about candidates that a language model sampled."""
    if store.num_tokens is None:
        return {}
    found = Analysis.of(store)
    passes = ", ".join(f"pass@{k} {decimal(found.pass_at(k))}" for k in found.ks)
    lengths = f"{int(found.lengths.min())} to {int(found.lengths.max())} {found.unit}"
    return {
        "pass@k": passes or "no labels",
        "responses": f"{lengths}, {found.lengths.double().mean():,.1f} on average; {found.repeated:,} repeated, "
        f"{found.empty:,} empty",
    }


def _groups_with(store: GroupStore, slots: Tensor) -> Tensor:
    """The groups that have one of these slots."""
    group = torch.arange(store.num_groups).repeat_interleave(store.offsets.diff())
    return torch.zeros(store.num_groups, dtype=torch.int64).index_add_(0, group, slots.long()) > 0


def _group(store: GroupStore, group: int) -> Iterator[tuple[str, str, str]]:
    """A line for the query and one for each candidate: the head, the text, and the style."""
    yield f"\n{store.query_id(group)}: ", store.query_text(group), "bold"
    for slot in range(int(store.offsets[group]), int(store.offsets[group + 1])):
        label = float(store.label[slot])
        shown = "?" if math.isnan(label) else f"{short(label)}{' injected' if store.injected[slot] else ''}"
        text = store.candidate_text(int(store.candidate[slot]))
        yield f"{shown:12}{padded(store.slot_id(slot))}  ", text, "green" if label > 0 else ""


def encoder_line(encoder: dict[str, Any] | None) -> str:
    """The encoder of the texts, in one line."""
    if encoder is None:
        return "none: the features came with the source"
    known = (f"{name} {encoder[name]}" for name in ("pooling", "max_length", "dtype", "template") if name in encoder)
    return ", ".join((str(encoder.get("model", "without a name")), *known))


def shorten(value: object) -> str:
    """A value of a manifest, shortened if it is long."""
    text = str(value)
    return text if len(text) <= 200 else text[:197] + "..."
