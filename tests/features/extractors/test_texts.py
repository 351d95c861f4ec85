"""A store of texts alone has the queries, candidates, labels and splits of the source, and no vectors."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from features.__main__ import main
from features.commands.merge import merge, split
from ranking.stores.files import StoreError
from ranking.stores.group_store import GroupStore
from ranking.stores.group_store_writer import GroupStoreWriter
from registry import EXTRACTORS, ConfigError


@pytest.fixture
def source(tmp_path: Path) -> dict[str, Any]:
    """13 queries with 1 to 4 candidates, of which some recur, one has no label, and all have vectors."""
    lines = []
    for query in range(13):
        candidates: list[dict[str, Any]] = [
            {"id": f"c{place}", "text": f"text {(query * 2 + place) % 9}", "label": place % 2, "feature": [1.0, place]}
            for place in range(1 + query % 4)
        ]
        lines.append({"query_id": f"q{query}", "query": f"query {query}", "feature": [0.5, query]})
        lines[-1] |= {"candidates": candidates, "split": ("train", "val", "test")[query % 3]}
    del lines[5]["candidates"][0]["label"]
    path = tmp_path / "groups.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {"name": "jsonl", "path": str(path)}


def build(source: dict[str, Any], path: Path, name: str = "texts", **options: Any) -> GroupStore:
    node = {"name": name, "source": source, "path": str(path), **options}
    return GroupStore.open(EXTRACTORS.build(node, path="features").run(), verify=True)


def texts(store: GroupStore) -> dict[str, Any]:
    """What a store says of each query, without vectors."""
    found = {}
    for group in range(store.num_groups):
        slots = range(*store.offsets[group : group + 2].tolist())
        candidates = [(store.slot_id(slot), store.candidate_text(int(store.candidate[slot]))) for slot in slots]
        labels = [repr(float(store.label[slot])) for slot in slots]
        found[store.query_id(group)] = store.query_text(group), candidates, labels, int(store.split[group])
    return found


@pytest.mark.parametrize("chunk_size", [5, 1000])
def test_it_has_the_texts_labels_and_splits_of_a_store_with_vectors(
    source: dict[str, Any], tmp_path: Path, chunk_size: int
) -> None:
    store = build(source, tmp_path / "texts", chunk_size=chunk_size)
    other = build(source, tmp_path / "vectors", "embedding", encoder=None, chunk_size=chunk_size)
    assert texts(store) == texts(other) and len(texts(store)) == 13
    assert torch.equal(store.candidate, other.candidate)
    np.testing.assert_array_equal(store.label, other.label)
    assert (store.has_features, store.feature_dim, store.depths, store.encoder) == (False, 0, [], None)
    assert other.has_features


@pytest.mark.parametrize("read", ["candidate_features", "query_features"])
def test_asking_for_vectors_gives_an_error_that_says_how_to_make_them(
    source: dict[str, Any], tmp_path: Path, read: str
) -> None:
    store = build(source, tmp_path / "texts")
    with pytest.raises(StoreError, match=r"(?s)texts: has texts, but no vectors.*features: \{name: embedding"):
        getattr(store, read)(torch.tensor([0]))


def test_a_build_stopped_anywhere_goes_on_to_the_same_bytes(
    source: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bytes_of(name: str) -> dict[str, bytes]:
        build(source, tmp_path / name, chunk_size=8)
        return {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()}

    whole, write = bytes_of("whole"), GroupStoreWriter._write
    calls: list[str] = []

    def stopping(self: GroupStoreWriter, table: str, *rest: Any, **counts: int) -> None:
        calls.append(table)
        if len(calls) % 2 == 0:
            raise KeyboardInterrupt
        write(self, table, *rest, **counts)

    monkeypatch.setattr(GroupStoreWriter, "_write", stopping)
    for _ in range(40):
        try:
            assert bytes_of("stopped") == whole
            break
        except KeyboardInterrupt:
            assert not (tmp_path / "stopped").exists()
    else:
        pytest.fail("it never came to an end")
    assert len(calls) > 6


def test_it_is_found_under_its_usual_path_and_refused_with_other_settings(
    source: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = EXTRACTORS.build({"name": "texts", "source": source}).run()
    assert str(path).startswith("data/jsonl-texts-")
    assert EXTRACTORS.build({"name": "texts", "source": source}).run() == path
    with pytest.raises(StoreError, match="made with another chunk_size: 16384, now 5"):
        build(source, path, chunk_size=5)


def test_a_source_without_groups_or_labels_is_refused(source: dict[str, Any], tmp_path: Path) -> None:
    for name in ("texts", "embedding"):
        with pytest.raises(ConfigError, match=r"(?s)features.source: gives no groups.*jsonl"):
            EXTRACTORS.build({"name": name, "source": "gsm8k"}, path="features")
    with pytest.raises(ConfigError, match=r"(?s)features.source: gives no candidates or groups.*pool_files"):
        EXTRACTORS.build({"name": "candidate_pool", "source": "gsm8k"}, path="features")
    line = {"query_id": "q", "query": "q", "candidates": [{"id": "a", "text": "a"}]}
    Path(source["path"]).write_text(json.dumps(line))
    extractor = EXTRACTORS.build({"name": "texts", "source": source, "path": str(tmp_path / "store")})
    with pytest.raises(ConfigError, match="nothing to learn"):
        extractor.run(to_train=True)
    assert not (tmp_path / "store.partial").exists()
    assert GroupStore.open(extractor.run()).label.isnan().all()


def test_stores_of_texts_are_merged_and_split_but_not_with_stores_of_vectors(
    source: dict[str, Any], tmp_path: Path
) -> None:
    store = build(source, tmp_path / "texts")
    parts = split(store.path, {tmp_path / "first": 0.5, tmp_path / "second": 0.5})
    again = GroupStore.open(merge(parts, tmp_path / "again"), verify=True)
    assert not again.has_features and texts(again) == texts(store)
    build(source, tmp_path / "vectors", "embedding", encoder=None)
    with pytest.raises(ConfigError, match=r"vectors: has texts and vectors, but .*texts has only texts") as caught:
        merge([store.path, tmp_path / "vectors"], tmp_path / "both")
    assert "stores with vectors, or stores without" in str(caught.value)


def test_the_command_builds_and_shows_it(
    source: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [f"{name}={value}" for name, value in source.items()]
    path = str(tmp_path / "store")
    arguments = ["features.name=texts", f"features.path={path}", *(f"features.source.{each}" for each in options)]
    assert main(arguments) == 0
    assert f"{path} is ready" in capsys.readouterr().out
    assert main(["inspect", path, "--verify"]) == 0
    shown = capsys.readouterr().out
    facts = [" ".join(line.split()) for line in shown.splitlines()]
    assert "features none, only texts" in facts and "encoder none" in facts and "query 12" not in shown
    assert "q0: query 0" in shown and "c0" in shown and "train 5, val 4, test 4" in shown


@pytest.mark.parametrize("change", [{"feature_dim": 2}, {"depths": [None]}, {"feature_dim": -1}])
def test_a_manifest_that_says_otherwise_is_refused(
    source: dict[str, Any], tmp_path: Path, change: dict[str, Any]
) -> None:
    path = build(source, tmp_path / "texts").path / "manifest.json"
    manifest = json.loads(path.read_text()) | change
    del manifest["sha256"]
    path.write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match=r"instead of|feature_dim is"):
        GroupStore.open(path.parent)


def test_vectors_and_depths_come_together(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="feature_dim 4 does not fit depths"):
        GroupStoreWriter(tmp_path / "store", feature_dim=4, settings={})
    expected = r"candidate features are \(1, 1, 4\), expected none"
    with GroupStoreWriter(tmp_path / "store", settings={}) as writer, pytest.raises(ValueError, match=expected):
        writer.add_candidates(torch.zeros(1, 1, 4), ["a"])
    layout: dict[str, Any] = {"feature_dim": 4, "depths": [None], "settings": {}}
    expected = r"candidate features are none, expected \(1, 1, 4\)"
    with GroupStoreWriter(tmp_path / "other", **layout) as writer, pytest.raises(ValueError, match=expected):
        writer.add_candidates(None, ["a"])
