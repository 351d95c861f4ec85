"""Store merging: merges group stores, or splits them, by query; copies features as they are stored."""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from features.commands.verify import verify
from features.texts.subsets import draw_key
from ranking.stores.format import SPLITS
from ranking.stores.group_store import GroupStore
from ranking.stores.group_store_writer import GroupStoreWriter
from ranking.stores.group_tables import GROUP_STORE, KNOWN
from registry import ConfigError

_CHUNK = 256
_ALIKE = ("feature_dim", "depths", "dtype", "encoder")
_SPLIT_NAMES = {code: name for name, code in SPLITS.items()}


class _Part(NamedTuple):
    """A group of one of the stores."""

    store: int
    group: int


def merge(paths: Sequence[str | Path], into: str | Path) -> Path:
    """Merge verified stores into one; the candidates of the same query come together in one group.

    Args:
        paths: Finished stores with the same kind of features, or without features.
        into: The folder of the new store; a merge that was stopped continues.

    Raises:
        ConfigError: If the stores have different kinds of features, or a query has the same slot id twice.
        StoreError: If a store is damaged, or cannot be read or written.
    """
    stores = [_open(path) for path in paths]
    for store in stores[1:]:
        if store.has_features != stores[0].has_features:
            kinds = {True: "texts and vectors", False: "only texts"}
            problem = f"has {kinds[store.has_features]}, but {stores[0].path} has {kinds[not store.has_features]}."
            raise ConfigError(str(store.path), problem, cure="merge stores with vectors, or stores without")
    for store, name in itertools.product(stores[1:], _ALIKE):
        if store.manifest[name] != stores[0].manifest[name]:
            problem = f"its {name} is {store.manifest[name]!r}, but {stores[0].manifest[name]!r} in {stores[0].path}."
            raise ConfigError(str(store.path), problem, cure="merge stores of the same features")
    queries: dict[str, list[_Part]] = {}
    for number, store in enumerate(stores):
        for group in range(store.num_groups):
            queries.setdefault(store.query_id(group), []).append(_Part(number, group))
    for query, parts in queries.items():
        _check_query(stores, query, parts)
    return _write(stores, list(queries.values()), into, {"merge": [_content(store) for store in stores]})


def split(path: str | Path, into: Mapping[str | Path, float], seed: int = 0) -> list[Path]:
    """Split a verified store into several; each query goes to one of them.

    Args:
        path: A finished store.
        into: The folder of each new store, and its share of the queries.
        seed: Seed of the split, which depends only on the seed and the ids of the queries.

    Raises:
        ConfigError: If the shares do not add up to 1, or a store would have no query.
        StoreError: If a store is damaged, or cannot be read or written.
    """
    shares = list(into.values())
    if min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6:
        raise ConfigError("shares", f"they must be above 0 and add up to 1, got {shares}.")
    store = _open(path)
    order = sorted(range(store.num_groups), key=lambda group: draw_key(seed, store.query_id(group)))
    ends = [round(share * store.num_groups) for share in itertools.accumulate(shares)]
    taken = [sorted(order[start:end]) for start, end in itertools.pairwise([0, *ends])]
    for folder, groups in zip(into, taken, strict=True):
        if not groups:
            raise ConfigError(str(folder), f"its share of {store.num_groups} queries is 0.", cure="set a larger share")
    described = {"split": _content(store), "shares": shares, "seed": seed}
    return [
        _write([store], [[_Part(0, group)] for group in groups], folder, {**described, "part": place})
        for place, (folder, groups) in enumerate(zip(into, taken, strict=True))
    ]


def _open(path: str | Path) -> GroupStore:
    """Open a store and verify all its bytes, because the new store will have new hashes."""
    verify(path, GROUP_STORE)
    return GroupStore.open(path)


def _check_query(stores: Sequence[GroupStore], query: str, parts: Sequence[_Part]) -> None:
    if len({stores[part.store].query_text(part.group) for part in parts}) > 1:
        names = " and ".join(str(stores[part.store].path) for part in parts)
        problem = f"query {query!r} has different texts in these stores."
        raise ConfigError(names, problem, cure="give each query its own id")
    if len(parts) == 1:
        return
    ids = [
        stores[part.store].slot_id(slot) for part in parts for slot in _slots(stores[part.store], part.group).tolist()
    ]
    if len(set(ids)) < len(ids):
        names = " and ".join(str(stores[part.store].path) for part in parts)
        twice = max(ids, key=ids.count)
        raise ConfigError(names, f"query {query!r} has two responses {twice!r}.", cure="merge different responses")


def _write(stores: list[GroupStore], queries: list[list[_Part]], into: str | Path, settings: dict[str, Any]) -> Path:
    first = stores[0].manifest
    known = [name for name in KNOWN if all(getattr(store, name) is not None for store in stores)]
    writer = GroupStoreWriter(
        into,
        feature_dim=first["feature_dim"],
        depths=first["depths"],
        dtype=first["dtype"],
        settings=settings,
        encoder=first["encoder"],
        source=first["source"] if len(stores) == 1 else {"merged": [store.manifest["source"] for store in stores]},
    )
    rows: dict[tuple[int, int], int] = {}
    num_groups = 0
    with writer:
        for start in range(0, len(queries), _CHUNK):
            chunk = queries[start : start + _CHUNK]
            new = _new_candidates(stores, chunk, rows)
            if new and len(rows) > writer.num_candidates:
                writer.add_candidates(*_candidates(stores, new))
            num_groups += len(chunk)
            if num_groups > writer.num_groups:
                _add_groups(writer, stores, chunk, rows, known)
        return writer.finish()


def _new_candidates(
    stores: Sequence[GroupStore], chunk: Sequence[Sequence[_Part]], rows: dict[tuple[int, int], int]
) -> list[tuple[int, int]]:
    """Candidates that no earlier chunk had, as store and row; they get the next rows of the new store."""
    new = []
    for part in itertools.chain.from_iterable(chunk):
        store = stores[part.store]
        for row in store.candidate[_slots(store, part.group)].tolist():
            if (part.store, row) not in rows:
                rows[part.store, row] = len(rows)
                new.append((part.store, row))
    return new


def _candidates(stores: Sequence[GroupStore], wanted: Sequence[tuple[int, int]]) -> tuple[Tensor | None, list[str]]:
    texts = [stores[store].candidate_text(row) for store, row in wanted]
    if not stores[0].has_features:
        return None, texts
    found = torch.empty(len(wanted), len(stores[0].depths), stores[0].feature_dim, dtype=stores[0].dtype)
    for number, store in enumerate(stores):
        places = torch.tensor([place for place, (of, _) in enumerate(wanted) if of == number], dtype=torch.int64)
        index = torch.tensor([row for of, row in wanted if of == number], dtype=torch.int64)
        for depth in range(len(store.depths)):
            found[places, depth] = store.candidate_features(index, depth)
    return found, texts


def _add_groups(
    writer: GroupStoreWriter,
    stores: Sequence[GroupStore],
    chunk: Sequence[Sequence[_Part]],
    rows: Mapping[tuple[int, int], int],
    known: Sequence[str],
) -> None:
    parts = list(itertools.chain.from_iterable(chunk))
    slots = [(stores[part.store], _slots(stores[part.store], part.group)) for part in parts]
    first = [stores[group[0].store] for group in chunk]
    index = [torch.tensor([group[0].group]) for group in chunk]
    sizes = [sum(len(_slots(stores[part.store], part.group)) for part in group) for group in chunk]
    writer.add_groups(
        ids=[store.query_id(int(at)) for store, at in zip(first, index, strict=True)],
        texts=[store.query_text(int(at)) for store, at in zip(first, index, strict=True)],
        features=torch.cat([_query(store, at) for store, at in zip(first, index, strict=True)])
        if stores[0].has_features
        else None,
        offsets=torch.tensor([0, *itertools.accumulate(sizes)]),
        candidate=torch.tensor(
            [
                rows[part.store, row]
                for part in parts
                for row in stores[part.store].candidate[_slots(stores[part.store], part.group)].tolist()
            ]
        ),
        label=torch.cat([store.label[some] for store, some in slots]),
        valid=torch.cat([store.valid[some] for store, some in slots]),
        injected=torch.cat([store.injected[some] for store, some in slots]),
        slot_ids=[store.slot_id(slot) for store, some in slots for slot in some.tolist()],
        split=[_SPLIT_NAMES[int(store.split[at])] for store, at in zip(first, index, strict=True)],
        known={name: torch.cat([getattr(store, name)[some] for store, some in slots]) for name in known},
        beams=[_beam(stores, group) for group in chunk]
        if any(store.beam_label is not None for store in stores)
        else None,
    )


def _beam(stores: Sequence[GroupStore], parts: Sequence[_Part]) -> tuple[str, float]:
    """What a beam search found for a query, in the first of its stores where it found something."""
    for store, group in ((stores[part.store], part.group) for part in parts):
        if store.beam_label is not None and (text := store.beam_text(group)) is not None:
            return text, float(store.beam_label[group])
    return "", math.nan


def _query(store: GroupStore, group: Int[Tensor, " N"]) -> Tensor:
    return torch.stack([store.query_features(group, depth) for depth in range(len(store.depths))], dim=1)


def _slots(store: GroupStore, group: int) -> Int[Tensor, " S"]:
    """The slots of a group's candidates, without the slot in which older stores hold a beam search result."""
    slots = torch.arange(int(store.offsets[group]), int(store.offsets[group + 1]))
    return slots[slots != store.beam_slots.get(group, -1)]


def _content(store: GroupStore) -> list[str]:
    """The hashes of all shards of a store."""
    return [record["sha256"] for records in store.manifest["shards"].values() for record in records]
