"""A damaged, foreign or unfinished store gives one clear error that names the file and what is wrong."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ranking.stores.files import StoreError
from ranking.stores.group_store import GroupStore
from ranking.stores.group_tables import GROUP_STORE

GROUPS, CANDIDATES, MANIFEST = "groups-00000.safetensors", "candidates-00001.safetensors", "manifest.json"


@pytest.fixture
def path(store: Path, tmp_path: Path) -> Path:
    """A copy of the small store, to be damaged."""
    return shutil.copytree(store, tmp_path / "store")


Harm = Callable[[Path], Any]


def write(file: str, content: bytes) -> Harm:
    return lambda path: (path / file).write_bytes(content)


def cut(file: str, size: int) -> Harm:
    return lambda path: (path / file).write_bytes((path / file).read_bytes()[:size])


def overwrite(file: str, start: int, content: bytes) -> Harm:
    def harm(path: Path) -> None:
        whole = bytearray((path / file).read_bytes())
        whole[start : start + len(content)] = content
        (path / file).write_bytes(whole)

    return harm


def manifest(change: Callable[[dict[str, Any]], Any]) -> Harm:
    def harm(path: Path) -> None:
        content = json.loads((path / MANIFEST).read_text())
        del content["sha256"]  # as if it had been written so, by an older version
        change(content)
        (path / MANIFEST).write_text(json.dumps(content))

    return harm


def record(file: str, /, **fields: object) -> Harm:
    """Change what the manifest says of a shard."""

    def change(content: dict[str, Any]) -> None:
        records = [each for records in content["shards"].values() for each in records]
        next(each for each in records if each["file"] == file).update(fields)

    return manifest(change)


def tensor(file: str, name: str, change: Callable[[Tensor], Tensor]) -> Harm:
    """Put another tensor into a shard; the manifest's size follows, so that the tensor itself has to be looked at."""

    def harm(path: Path) -> None:
        tensors = load_file(path / file)
        save_file(tensors | {name: change(tensors[name]).contiguous()}, path / file)
        record(file, bytes=(path / file).stat().st_size)(path)

    return harm


def element(file: str, name: str, place: int, value: int) -> Harm:
    return tensor(file, name, lambda whole: whole.index_fill(0, torch.tensor([place % len(whole)]), value))


def replace_by_file(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("a file")


def swap_tables(path: Path) -> None:
    shutil.copy(path / CANDIDATES, path / GROUPS)
    record(GROUPS, bytes=(path / GROUPS).stat().st_size)(path)


STORE = ""
DAMAGES: dict[str, tuple[Harm, str, str]] = {
    "the folder is missing": (shutil.rmtree, STORE, "no such group store"),
    "the path is a file": (replace_by_file, STORE, "not a group store"),
    "it is unfinished": (lambda path: path.rename(f"{path}.partial"), STORE, "unfinished: only store.partial is there"),
    "the manifest is missing": (lambda path: (path / MANIFEST).unlink(), STORE, "has no manifest.json"),
    "the manifest is empty": (write(MANIFEST, b""), MANIFEST, "not valid JSON"),
    "the manifest is cut": (cut(MANIFEST, 300), MANIFEST, "not valid JSON"),
    "the manifest is binary": (write(MANIFEST, b"\xff\xfe\x00"), MANIFEST, "not valid JSON"),
    "the manifest is a list": (write(MANIFEST, b"[]"), MANIFEST, "not the manifest of a group store"),
    "the manifest is foreign": (write(MANIFEST, b"{}"), MANIFEST, "not the manifest of a group store"),
    "the version is a later one": (manifest(lambda m: m.update(version=9)), MANIFEST, "version 9 .* version 1"),
    "a field is missing": (manifest(lambda m: m.pop("depths")), MANIFEST, "depths"),
    "a field has another type": (manifest(lambda m: m.update(feature_dim="16")), MANIFEST, "feature_dim is '16'"),
    "a field is unknown": (manifest(lambda m: m.update(sha25v="")), MANIFEST, "unknown field 'sha25v'"),
    "a field is null": (manifest(lambda m: m.update(shards=None)), MANIFEST, "a field is missing or wrong"),
    "the dtype is unknown": (manifest(lambda m: m.update(dtype="int4")), MANIFEST, "dtype is 'int4'"),
    "no shard is listed": (manifest(lambda m: m["shards"].update(groups=[])), MANIFEST, "lists no shard of groups"),
    "a count is wrong": (manifest(lambda m: m.update(num_groups=7)), MANIFEST, "num_groups is 7, but .* 120"),
    "a shard lies elsewhere": (record(GROUPS, file="../groups"), MANIFEST, "is called '../groups'"),
    "a record is damaged": (record(GROUPS, rows=-1), MANIFEST, "the record of groups-00000"),
    "a shard is missing": (lambda path: (path / CANDIDATES).unlink(), CANDIDATES, "missing"),
    "a shard is empty": (write(CANDIDATES, b""), CANDIDATES, "truncated: 0 bytes instead of"),
    "a shard is truncated": (cut(GROUPS, 5000), GROUPS, "truncated: 5,000 bytes instead of"),
    "a shard is too long": (write(GROUPS, bytes(10**6)), GROUPS, "too long: 1,000,000 bytes instead of"),
    "a header's length is damaged": (overwrite(GROUPS, 0, b"\xff" * 8), GROUPS, "not a readable safetensors file"),
    "a header is damaged": (overwrite(GROUPS, 8, b"?????"), GROUPS, "not a readable safetensors file"),
    "a shard is the other table's": (swap_tables, GROUPS, "holds .* instead of .*injected"),
    "features have another size": (
        tensor(CANDIDATES, "features", lambda t: t[..., :8]),
        CANDIDATES,
        r"1, 8\) .* 1, 16\)",
    ),
    "features have another dtype": (
        tensor(CANDIDATES, "features", Tensor.half),
        CANDIDATES,
        "float16 .* torch.float32",
    ),
    "a label is missing": (tensor(GROUPS, "label", lambda t: t[1:]), GROUPS, "label is"),
    "offsets fall": (element(GROUPS, "offsets", 3, 0), GROUPS, "offsets must rise from 0"),
    "offsets end early": (element(GROUPS, "offsets", -1, 1), GROUPS, "offsets must rise from 0"),
    "a text is cut": (tensor(GROUPS, "text", lambda t: t[:-3]), GROUPS, "text_offsets must rise from 0"),
    "a candidate does not exist": (element(GROUPS, "candidate", 5, 700), GROUPS, "slot 5 names candidate 700 of 700"),
    "a candidate is negative": (element(GROUPS, "candidate", 0, -1), GROUPS, "slot 0 names candidate -1"),
    "a split is unknown": (element(GROUPS, "split", 2, 9), GROUPS, "split of group 2 is 9"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_store_is_refused_by_file_and_fault(damage: str, path: Path) -> None:
    harm, file, fault = DAMAGES[damage]
    harm(path)
    before = contents(path.parent)
    with pytest.raises(StoreError, match=fault) as caught:
        GroupStore.open(path)
    first, *rest = str(caught.value).splitlines()
    assert first.startswith(str(path / file))
    assert len(rest) == 1
    assert "What to do:" in rest[0]
    assert contents(path.parent) == before


def test_a_manifest_with_any_byte_changed_is_refused_or_says_the_same(path: Path) -> None:
    said, content = GROUP_STORE.read_manifest(path), (path / MANIFEST).read_bytes()
    for place, byte in enumerate(content):
        (path / MANIFEST).write_bytes(content[:place] + bytes([byte ^ 1 << place % 8]) + content[place + 1 :])
        try:
            assert GROUP_STORE.read_manifest(path) == said
        except StoreError as error:
            assert str(error).startswith(f"{path / MANIFEST}: ") and error.cure


def test_a_changed_manifest_is_refused_with_words(path: Path) -> None:
    (path / MANIFEST).write_text((path / MANIFEST).read_text().replace('"dtype": "float32"', '"dtype": "float16"'))
    with pytest.raises(StoreError) as raised:
        GroupStore.open(path)
    assert str(raised.value) == (
        f"{path / MANIFEST}: its content has changed: it does not match the sha256 in it.\n"
        f"  What to do:   delete {path} and build it again, or copy it again from an undamaged copy"
    )


def test_a_manifest_of_an_older_version_has_no_hash_and_is_opened(path: Path) -> None:
    before = GroupStore.open(path).manifest
    manifest(lambda m: None)(path)
    assert GroupStore.open(path).manifest == before


def test_a_changed_byte_is_found_by_its_hash_when_asked(path: Path) -> None:
    overwrite(CANDIDATES, 5000, b"X")(path)
    GroupStore.open(path)
    with pytest.raises(StoreError, match=f"{path / CANDIDATES}: its content has changed"):
        GroupStore.open(path, verify=True)


def test_a_text_that_is_no_utf8_is_refused_when_it_is_read(path: Path) -> None:
    place = (path / GROUPS).read_bytes().index(b"query 0query 1")
    overwrite(GROUPS, place + 8, b"\xe9")(path)
    store = GroupStore.open(path)
    assert store.query_text(0) == "query 0"
    with pytest.raises(
        StoreError, match=rf"{path / GROUPS}: text 1 is not UTF-8 \(invalid continuation byte at byte 1\)"
    ):
        store.query_text(1)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
