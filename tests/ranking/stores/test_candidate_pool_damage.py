"""A damaged, foreign or unfinished pool gives one clear error that names the file and what is wrong."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ranking.stores.candidate_pool import POOL, CandidatePool
from ranking.stores.files import StoreError
from ranking.stores.group_store import GroupStore

CANDIDATES, QUERIES, INDEX, MANIFEST = (
    "candidates-00001.safetensors",
    "queries-00000.safetensors",
    "index-00000.safetensors",
    "manifest.json",
)
Harm = Callable[[Path], Any]


@pytest.fixture
def path(pool: CandidatePool, tmp_path: Path) -> Path:
    """A copy of the small pool, to be damaged."""
    return shutil.copytree(pool.path, tmp_path / "pool")


def manifest(change: Callable[[dict[str, Any]], Any]) -> Harm:
    def harm(path: Path) -> None:
        content = json.loads((path / MANIFEST).read_text())
        del content["sha256"]  # as if it had been written so, by an older version
        change(content)
        (path / MANIFEST).write_text(json.dumps(content))

    return harm


def tensor(file: str, name: str, change: Callable[[Tensor], Tensor]) -> Harm:
    """Put another tensor into a shard; the manifest's size follows, so that the tensor itself has to be looked at."""

    def harm(path: Path) -> None:
        tensors = load_file(path / file)
        save_file(tensors | {name: change(tensors[name]).contiguous()}, path / file)

        def follow(content: dict[str, Any]) -> None:
            records = [each for records in content["shards"].values() for each in records]
            next(each for each in records if each["file"] == file)["bytes"] = (path / file).stat().st_size

        manifest(follow)(path)

    return harm


def element(file: str, name: str, place: int, value: float) -> Harm:
    return tensor(file, name, lambda whole: whole.index_fill(0, torch.tensor([place % len(whole)]), value))


FOLDER = ""
DAMAGES: dict[str, tuple[Harm, str, str]] = {
    "the folder is missing": (shutil.rmtree, FOLDER, "no such candidate pool"),
    "it is unfinished": (
        lambda path: path.rename(f"{path}.partial"),
        FOLDER,
        r"unfinished: only pool.partial is there",
    ),
    "the manifest is missing": (lambda path: (path / MANIFEST).unlink(), FOLDER, r"has no manifest.json"),
    "the manifest is a store's": (manifest(lambda m: m.update(format="group_store")), MANIFEST, "of a candidate pool"),
    "the version is a later one": (manifest(lambda m: m.update(version=9)), MANIFEST, "version 9 .* version 1"),
    "a field is missing": (manifest(lambda m: m.pop("normalized")), MANIFEST, "normalized"),
    "no shard is listed": (manifest(lambda m: m["shards"].update(index=[])), MANIFEST, "lists no shard of index"),
    "a count is wrong": (manifest(lambda m: m.update(num_relevant=7)), MANIFEST, "num_relevant is 7, but .* 120"),
    "a shard is not listed": (
        manifest(lambda m: m["shards"]["candidates"].pop()),
        MANIFEST,
        "num_candidates is 200, but .* 180",
    ),
    "a shard is missing": (lambda path: (path / CANDIDATES).unlink(), CANDIDATES, "missing"),
    "a shard is truncated": (
        lambda path: (path / INDEX).write_bytes((path / INDEX).read_bytes()[:500]),
        INDEX,
        "truncated: 500 bytes instead of",
    ),
    "a shard is another table's": (
        lambda path: shutil.copy(path / QUERIES, path / CANDIDATES),
        CANDIDATES,
        "too long|truncated",
    ),
    "vectors have another size": (
        tensor(CANDIDATES, "features", lambda t: t[..., :8]),
        CANDIDATES,
        r"\(60, 8\) .* \(60, 16\)",
    ),
    "a label is missing": (tensor(QUERIES, "label", lambda t: t[1:]), QUERIES, "label is"),
    "a label is not above 0": (element(QUERIES, "label", 3, 0), QUERIES, r"label 3 is 0\.0"),
    "offsets fall": (element(QUERIES, "history_offsets", 3, 90), QUERIES, "history_offsets must rise from 0"),
    "a candidate does not exist": (element(QUERIES, "relevant", 5, 200), QUERIES, "relevant 5 is 200; there are 200"),
    "a candidate is negative": (element(QUERIES, "history", 2, -1), QUERIES, "history 2 is -1"),
    "a split is unknown": (element(QUERIES, "split", 2, 9), QUERIES, "split 2 is 9"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_pool_is_refused_by_file_and_fault(damage: str, path: Path) -> None:
    harm, file, fault = DAMAGES[damage]
    harm(path)
    with pytest.raises(StoreError, match=f"{path / file if file else path}: (.|\n)*{fault}") as raised:
        CandidatePool.open(path)
    assert raised.value.cure


def test_texts_whose_offsets_are_damaged_are_refused_when_they_are_read(path: Path) -> None:
    element(CANDIDATES, "text_offsets", 3, 10**9)(path)
    pool = CandidatePool.open(path)
    for row in (62, 63):
        with pytest.raises(StoreError, match=f"{CANDIDATES}: text [23] goes from byte"):
            pool.text(row)
    assert pool.text(61)


def test_a_manifest_with_any_byte_changed_is_refused_or_says_the_same(path: Path) -> None:
    said, content = POOL.read_manifest(path), (path / MANIFEST).read_bytes()
    for place, byte in enumerate(content):
        (path / MANIFEST).write_bytes(content[:place] + bytes([byte ^ 1 << place % 8]) + content[place + 1 :])
        try:
            assert POOL.read_manifest(path) == said
        except StoreError as error:
            assert str(error).startswith(f"{path / MANIFEST}: ") and error.cure


def test_a_changed_manifest_is_refused_with_words(path: Path) -> None:
    (path / MANIFEST).write_text((path / MANIFEST).read_text().replace('"dtype": "float32"', '"dtype": "float16"'))
    with pytest.raises(StoreError) as raised:
        CandidatePool.open(path)
    assert str(raised.value) == (
        f"{path / MANIFEST}: its content has changed: it does not match the sha256 in it.\n"
        f"  What to do:   delete {path} and build it again, or copy it again from an undamaged copy"
    )


def test_a_manifest_of_an_older_version_has_no_hash_and_is_opened(path: Path) -> None:
    before = CandidatePool.open(path).manifest
    manifest(lambda m: None)(path)
    assert CandidatePool.open(path).manifest == before


def test_a_changed_byte_is_found_by_its_hash_when_asked(path: Path) -> None:
    content = bytearray((path / CANDIDATES).read_bytes())
    content[-40] ^= 1
    (path / CANDIDATES).write_bytes(content)
    CandidatePool.open(path)
    with pytest.raises(StoreError, match=f"{path / CANDIDATES}: its content has changed"):
        CandidatePool.open(path, verify=True)


def test_a_pool_is_not_a_group_store_nor_the_other_way_round(path: Path, store: Path) -> None:
    with pytest.raises(StoreError, match="not the manifest of a group store"):
        GroupStore.open(path)
    with pytest.raises(StoreError, match="not the manifest of a candidate pool"):
        CandidatePool.open(store)
