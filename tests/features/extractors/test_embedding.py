"""The store that an extraction leaves is its source's groups with the encoder's vectors, however it was interrupted."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from features.extractors.embedding import EmbeddingExtractor
from language_models.encoder import Encoder
from ranking.stores.files import StoreError
from ranking.stores.group_store import GroupStore
from registry import EXTRACTORS, ConfigError

Group = dict[str, Any]


@pytest.fixture
def groups(sentences: list[str]) -> list[Group]:
    """13 queries with 1 to 4 candidates; texts of candidates recur, each with its own id."""
    ids = {text: f"c{place}" for place, text in enumerate(dict.fromkeys(sentences))}
    made = []
    for query in range(13):
        texts = dict.fromkeys(sentences[(query * 5 + place) % 40] for place in range(1 + query % 4))
        candidates: list[Group] = [
            {"id": ids[text], "text": text, "label": place % 2} for place, text in enumerate(texts)
        ]
        made.append({"query_id": f"q{query}", "query": sentences[query], "candidates": candidates})
    made[3]["split"] = "test"
    del made[5]["candidates"][0]["label"]
    return made


@pytest.fixture
def path(groups: list[Group], tmp_path: Path) -> Path:
    return write(tmp_path / "groups.jsonl", groups)


def write(path: Path, groups: list[Group]) -> Path:
    path.write_text("".join(json.dumps(group) + "\n" for group in groups))
    return path


def extractor(path: Path, model: Path | None, store: str | None = "store", **options: Any) -> EmbeddingExtractor:
    encoder = None if model is None else {"model": str(model), "max_length": 64, "device": "cpu"}
    node = {"name": "embedding", "source": {"name": "jsonl", "path": str(path)}, "encoder": encoder}
    return EXTRACTORS.build(node | {"dtype": "float32", "path": store and str(path.parent / store), **options})


@pytest.mark.parametrize("chunk_size", [5, 1000])
def test_groups_are_stored_as_the_source_has_them(
    tiny_bert: Path, path: Path, groups: list[Group], chunk_size: int
) -> None:
    store = GroupStore.open(extractor(path, tiny_bert, chunk_size=chunk_size).run(), verify=True)
    texts = list({each["text"] for group in groups for each in group["candidates"]} | {g["query"] for g in groups})
    encoded = Encoder(model=str(tiny_bert), max_length=64).encode(texts)
    vectors = dict(zip(texts, encoded, strict=True))
    assert store.num_groups == len(groups)
    for number, group in enumerate(groups):
        start, end = store.offsets[number : number + 2].tolist()
        rows = store.candidate[start:end]
        assert (store.query_id(number), store.query_text(number)) == (group["query_id"], group["query"])
        assert [store.slot_id(slot) for slot in range(start, end)] == [each["id"] for each in group["candidates"]]
        assert [store.candidate_text(row) for row in rows.tolist()] == [each["text"] for each in group["candidates"]]
        labels = [each.get("label", math.nan) for each in group["candidates"]]
        np.testing.assert_array_equal(store.label[start:end], np.array(labels, dtype=np.float32))
        expected = torch.stack([vectors[each["text"]] for each in group["candidates"]])
        torch.testing.assert_close(store.candidate_features(rows), expected, atol=1e-5, rtol=1e-5)
        query = store.query_features(torch.tensor([number]))
        torch.testing.assert_close(query[0], vectors[group["query"]], atol=1e-5, rtol=1e-5)
    assert store.split.tolist() == [2 if number == 3 else 255 for number in range(len(groups))]
    assert not store.injected.any()
    different = {each["text"] for group in groups for each in group["candidates"]}
    assert store.num_candidates == len(different) if chunk_size == 1000 else store.num_candidates > len(different)


@pytest.mark.parametrize("chunk_size", [5, 1000])
def test_retrieved_groups_are_the_nearest_of_the_pool_by_brute_force(
    tiny_bert: Path, path: Path, groups: list[Group], chunk_size: int
) -> None:
    store = GroupStore.open(extractor(path, tiny_bert, retrieve=3, chunk_size=chunk_size).run())
    pool = {each["id"]: each["text"] for group in groups for each in group["candidates"]}
    ids, encoder = list(pool), Encoder(model=str(tiny_bert), max_length=64)
    assert store.num_candidates == len(pool)

    def unit(texts: list[str]) -> np.ndarray:
        vectors = encoder.encode(texts).double().numpy()
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    cosines = unit([group["query"] for group in groups]) @ unit(list(pool.values())).T
    injected = 0
    for number, group in enumerate(groups):
        own = {each["id"]: each.get("label", math.nan) for each in group["candidates"]}
        nearest = [ids[place] for place in np.argsort(-cosines[number])[:3]]
        missed = [name for name, label in own.items() if label > 0 and name not in nearest]
        injected += len(missed)
        slots = range(*store.offsets[number : number + 2].tolist())
        assert [store.slot_id(slot) for slot in slots] == nearest + missed
        assert [store.candidate_text(int(store.candidate[slot])) for slot in slots] == [
            pool[i] for i in nearest + missed
        ]
        expected = np.array([own.get(name, 0) for name in nearest + missed], dtype=np.float32)
        np.testing.assert_array_equal(store.label[list(slots)], expected)
        assert store.injected[list(slots)].tolist() == [False] * 3 + [True] * len(missed)
    assert injected > 0


def test_right_and_wrong_candidates_of_one_vector_are_counted(
    tiny_bert: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    same = "open file " * 40
    pairs = [
        {"prompt": "read", "chosen": f"{same} value", "rejected": f"{same} list"},
        {"prompt": "write", "chosen": "open", "rejected": "close"},
        {"prompt": "sort", "chosen": f"{same} key", "rejected": same},
    ]
    extractor(write(tmp_path / "pairs.jsonl", pairs), tiny_bert).run()
    expected = "Warning: 2 of 3 queries with labels have candidates with different labels but the same vector: their "
    expected += "texts are equal, or equal in the 64 tokens that the encoder reads. No ranker can tell them apart: "
    assert f"{expected}raise features.encoder.max_length, or leave them out." in capfd.readouterr().err


def test_equal_labels_of_one_vector_and_missing_ones_are_no_fault(
    tiny_bert: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    candidates = [{"id": "a", "text": "open", "label": 1}, {"id": "b", "text": "open", "label": 1}]
    candidates += [{"id": "c", "text": "sort", "label": 0}, {"id": "d", "text": "open"}]
    extractor(
        write(tmp_path / "g.jsonl", [{"query_id": "q", "query": "read", "candidates": candidates}]), tiny_bert
    ).run()
    assert "same vector" not in capfd.readouterr().err


def test_prompts_are_put_before_queries_and_candidates(tiny_bert: Path, path: Path, groups: list[Group]) -> None:
    prompts = {"query_prompt": "read ", "candidate_prompt": "write "}
    encoder = {"model": str(tiny_bert), "max_length": 64, **prompts}
    store = GroupStore.open(extractor(path, None, encoder=encoder).run())
    plain = Encoder(model=str(tiny_bert), max_length=64)
    expected = plain.encode(["read " + groups[0]["query"], "write " + groups[0]["candidates"][0]["text"]])
    torch.testing.assert_close(store.query_features(torch.tensor([0])), expected[:1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(store.candidate_features(torch.tensor([0])), expected[1:], atol=1e-5, rtol=1e-5)


def test_features_of_ones_own_are_stored_without_an_encoder(groups: list[Group], tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for group in groups:
        for each in [group, *group["candidates"]]:
            each["feature"] = draw.standard_normal(5).tolist()
    store = GroupStore.open(extractor(write(tmp_path / "g.jsonl", groups), None).run())
    assert (store.feature_dim, store.encoder) == (5, None)
    own = torch.tensor([group["feature"] for group in groups])
    torch.testing.assert_close(store.query_features(torch.arange(13)), own)
    own = torch.tensor([each["feature"] for group in groups for each in group["candidates"]])
    torch.testing.assert_close(store.candidate_features(store.candidate), own)


@pytest.mark.parametrize("retrieve", [None, 3])
def test_a_build_stopped_anywhere_goes_on_to_the_same_bytes(
    tiny_bert: Path, path: Path, monkeypatch: pytest.MonkeyPatch, retrieve: int | None
) -> None:
    def build(store: str) -> dict[str, bytes]:
        folder = extractor(path, tiny_bert, store, retrieve=retrieve, chunk_size=8).run()
        return {file.name: file.read_bytes() for file in folder.iterdir()}

    whole, encode = build("whole"), Encoder.encode
    calls: list[int] = []

    def stopping(self: Encoder, texts: list[str], *rest: Any) -> torch.Tensor:
        calls.append(len(texts))
        if len(calls) % 2 == 0:
            raise KeyboardInterrupt
        return encode(self, texts, *rest)

    monkeypatch.setattr(Encoder, "encode", stopping)
    for _ in range(20):
        try:
            assert build("stopped") == whole
            break
        except KeyboardInterrupt:
            assert not (path.parent / "stopped").exists()
    else:
        pytest.fail("it never came to an end")
    assert len(calls) > 6


def test_a_finished_store_is_used_without_encoding_anything(
    tiny_bert: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = extractor(path, tiny_bert).run()
    monkeypatch.setattr(Encoder, "encode", lambda *_: pytest.fail("encoded again"))
    assert extractor(path, tiny_bert).run() == built


def test_a_store_made_with_other_settings_is_not_used(tiny_bert: Path, path: Path) -> None:
    extractor(path, tiny_bert).run()
    with pytest.raises(StoreError, match="made with another retrieve: None, now 2"):
        extractor(path, tiny_bert, retrieve=2).run()
    path.write_text(path.read_text().replace("q1", "p1"))
    with pytest.raises(StoreError, match=r"made with another source.files"):
        extractor(path, tiny_bert).run()


def test_a_store_is_not_used_once_the_encoder_in_its_folder_has_other_weights(
    tiny_bert: Path, path: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(tiny_bert, tmp_path / "model")
    built = extractor(path, model).run()
    weights = load_file(model / "model.safetensors")
    save_file({name: weight + 1 for name, weight in weights.items()}, model / "model.safetensors")
    with pytest.raises(StoreError, match=r"made with another encoder\.sha256"):
        extractor(path, model).run()
    shutil.rmtree(built)
    assert extractor(path, model).run() == built


def test_the_usual_path_differs_with_the_settings(
    tiny_bert: Path, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    usual = extractor(path, tiny_bert, None)
    assert str(usual.path).startswith("data/jsonl-tiny-bert-")
    assert extractor(path, tiny_bert, None, retrieve=2).path != usual.path
    assert usual.run() == usual.path
    assert GroupStore.open(usual.path).encoder == usual.encoder.identity()  # type: ignore[union-attr]


def test_of_candidates_with_the_same_text_the_known_label_is_retrieved(tmp_path: Path) -> None:
    twins = [{"id": "a", "text": "same", "label": 1}, {"id": "b", "text": "same"}]
    groups: list[Group] = [
        {
            "query_id": name,
            "query": name,
            "feature": [1.0],
            "candidates": [{**each, "feature": [1.0]} for each in order],
        }
        for name, order in {"first": twins, "last": twins[::-1]}.items()
    ]
    store = GroupStore.open(extractor(write(tmp_path / "groups.jsonl", groups), None, retrieve=1).run())
    assert [(store.slot_id(slot), float(store.label[slot])) for slot in range(2)] == [("a", 1.0)] * 2


def test_bad_data_is_found_before_anything_is_written(tiny_bert: Path, path: Path) -> None:
    with path.open("a") as file:
        file.write('{"query_id": "last", "query": "", "candidates": [{"id": "a", "text": "a"}]}\n')
    before = set(path.parent.iterdir())
    for retrieve in (None, 2):
        with pytest.raises(ConfigError, match="line 14: query: empty"):
            extractor(path, tiny_bert, retrieve=retrieve).run()
    assert set(path.parent.iterdir()) == before


@pytest.mark.parametrize("option", [{"chunk_size": 0}, {"retrieve": 0}, {"dtype": "int8"}])
def test_impossible_options_are_refused(path: Path, option: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(option))):
        extractor(path, None, **option)


def test_a_source_without_labels_is_refused_for_training_before_anything_is_embedded(tmp_path: Path) -> None:
    lines = [
        {
            "query_id": str(n),
            "query": "q",
            "feature": [1.0],
            "candidates": [{"id": "a", "text": "t", "feature": [n + 1.0]}],
        }
        for n in range(3)
    ]
    (tmp_path / "groups.jsonl").write_text("\n".join(map(json.dumps, lines)))
    source = {"name": "jsonl", "path": str(tmp_path / "groups.jsonl")}
    extractor = EmbeddingExtractor(source, encoder=None, path=str(tmp_path / "store"))
    with pytest.raises(ConfigError, match="nothing to learn"):
        extractor.run(to_train=True)
    assert [path.name for path in tmp_path.iterdir()] == ["groups.jsonl"]
    assert GroupStore.open(extractor.run()).label.isnan().all()
