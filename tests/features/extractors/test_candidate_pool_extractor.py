"""The pool that an extraction leaves is its source with the encoder's vectors, however it was interrupted."""

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from features.extractors.candidate_pool import CandidatePoolExtractor
from features.texts.pools import PoolQuery, PoolText
from language_models.encoder import Encoder
from ranking.stores.candidate_pool import CandidatePool
from ranking.stores.files import StoreError
from registry import EXTRACTORS, SOURCES, ConfigError


@pytest.fixture
def files(sentences: list[str], tmp_path: Path) -> dict[str, Any]:
    """40 candidates, and 11 queries with 0 to 3 relevant ones; histories, splits and own lists."""
    lines(tmp_path / "c.jsonl", [{"id": f"d{place}", "text": text} for place, text in enumerate(sentences)])
    queries = [
        {
            "id": f"q{query}",
            "text": f"sort {sentences[query * 3]}",
            "rel": {f"d{(query * 7 + place) % 40}": place + 1 for place in range(query % 4)},
            "seen": [f"d{place}" for place in range(query % 3)],
            "own": [f"d{(query * 7 + place) % 40}" for place in range(6)] if query == 5 else None,
            "part": ("train", "val", None)[query % 3],
        }
        for query in range(11)
    ]
    lines(tmp_path / "q.jsonl", queries)
    columns = {"relevant": "rel", "history": "seen", "candidates": "own", "split": "part"}
    paths = {"candidates": str(tmp_path / "c.jsonl"), "queries": str(tmp_path / "q.jsonl")}
    return {"name": "pool_files", **paths, "query_columns": columns}


def lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def extractor(source: Any, model: Path | None, path: Path | None, **options: Any) -> CandidatePoolExtractor:
    encoder = None if model is None else {"model": str(model), "max_length": 32, "device": "cpu"}
    node = {"name": "candidate_pool", "source": source, "encoder": encoder, "path": path and str(path)}
    return EXTRACTORS.build({**node, "dtype": "float32", **options})


@pytest.mark.parametrize("chunk_size", [6, 1000])
def test_a_pool_holds_what_the_source_has_and_the_encoders_vectors(
    tiny_bert: Path, files: dict[str, Any], tmp_path: Path, sentences: list[str], chunk_size: int
) -> None:
    prompts = {"model": str(tiny_bert), "max_length": 32, "query_prompt": "read ", "candidate_prompt": "write "}
    path = extractor(files, None, tmp_path / "pool", encoder=prompts, chunk_size=chunk_size).run()
    pool = CandidatePool.open(path, verify=True)
    plain = Encoder(model=str(tiny_bert), max_length=32)
    assert (pool.num_candidates, pool.queries.num_queries) == (40, 11)
    assert [pool.text(row) for row in range(40)] == sentences
    assert [pool.id(row) for row in range(40)] == [f"d{row}" for row in range(40)]
    expected = plain.encode([f"write {text}" for text in sentences])
    torch.testing.assert_close(pool.features(torch.arange(40)), expected, atol=1e-5, rtol=1e-5)
    queries = pool.queries
    expected = plain.encode([f"read {queries.text(query)}" for query in range(11)])
    torch.testing.assert_close(queries.features(torch.arange(11)), expected, atol=1e-5, rtol=1e-5)
    for number, line in enumerate((tmp_path / "q.jsonl").read_text().splitlines()):
        query = json.loads(line)
        assert (queries.id(number), queries.text(number)) == (query["id"], query["text"])
        assert queries.split[number] == {"train": 0, "val": 1, None: 255}[query["part"]]
        start, end = queries.relevant_offsets[number : number + 2].tolist()
        found = zip(queries.relevant[start:end].tolist(), queries.label[start:end].tolist(), strict=True)
        assert {f"d{row}": label for row, label in found} == query["rel"]
        for name, field in (("history", "seen"), ("own", "own")):
            start, end = getattr(queries, f"{name}_offsets")[number : number + 2].tolist()
            assert [f"d{row}" for row in getattr(queries, name)[start:end].tolist()] == (query[field] or [])


def test_texts_that_were_cut_are_counted_and_queries_without_relevant_ones_reported(
    tiny_bert: Path, files: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    build = extractor(files, tiny_bert, tmp_path / "pool", chunk_size=16)
    shards = CandidatePool.open(build.run()).manifest["shards"]
    assert build.encoder
    tokens = [
        len(ids) for ids in build.encoder._tokenizer([each.text for each in build.source.candidates()])["input_ids"]
    ]
    long = [length > 32 for length in tokens]
    assert [record["cut"] for record in shards["candidates"]] == [sum(long[at : at + 16]) for at in (0, 16, 32)]
    shown = capfd.readouterr().err
    assert "3 of 11 queries have no relevant candidate in the pool." in shown
    total = sum(record["cut"] for table in ("candidates", "queries") for record in shards[table])
    assert total > 0
    assert f"; {total} were too long and were cut." in shown


@pytest.fixture
def repeated(tmp_path: Path) -> dict[str, Any]:
    """Five candidates, of which c and e repeat a, and d repeats b."""
    texts = {"a": "open file", "b": "sort list", "c": "open file", "d": "sort list", "e": "open file"}
    lines(tmp_path / "c.jsonl", [{"id": id, "text": text} for id, text in texts.items()])
    queries = [
        {"id": "1", "text": "read", "rel": {"a": 1, "c": 3, "e": 2}, "seen": ["d", "c"], "own": ["e", "a", "d", "c"]},
        {"id": "2", "text": "write", "rel": {"d": 1}, "seen": [], "own": None},
    ]
    lines(tmp_path / "q.jsonl", queries)
    columns = {"relevant": "rel", "history": "seen", "candidates": "own"}
    paths = {"candidates": f"{tmp_path}/c.jsonl", "queries": f"{tmp_path}/q.jsonl"}
    return {"name": "pool_files", **paths, "query_columns": columns}


def rows_of(pool: CandidatePool, name: str, query: int) -> list[str]:
    start, end = getattr(pool.queries, f"{name}_offsets")[query : query + 2].tolist()
    return [pool.id(row) for row in getattr(pool.queries, name)[start:end].tolist()]


def test_equal_texts_are_counted_and_kept(
    tiny_bert: Path, repeated: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pool = CandidatePool.open(extractor(repeated, tiny_bert, tmp_path / "pool").run())
    assert [pool.id(row) for row in range(pool.num_candidates)] == ["a", "b", "c", "d", "e"]
    assert "duplicates" not in pool.manifest["settings"]
    expected = "3 of 5 candidates have the text of another one ('c' that of 'a', 'd' that of 'b', 'e' that of 'a');"
    assert f"{expected} features.duplicates=drop keeps the first of each." in capfd.readouterr().err


@pytest.mark.parametrize("chunk_size", [1, 100])
def test_equal_texts_can_be_dropped_and_their_judgements_count_for_the_first(
    tiny_bert: Path, repeated: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str], chunk_size: int
) -> None:
    build = extractor(repeated, tiny_bert, tmp_path / "pool", duplicates="drop", chunk_size=chunk_size)
    pool = CandidatePool.open(build.run(), verify=True)
    assert [(pool.id(row), pool.text(row)) for row in range(pool.num_candidates)] == [
        ("a", "open file"),
        ("b", "sort list"),
    ]
    assert [rows_of(pool, "relevant", query) for query in range(2)] == [["a"], ["b"]]
    assert pool.queries.label.tolist() == [3.0, 1.0]
    assert [rows_of(pool, name, 0) for name in ("history", "own")] == [["b", "a"], ["a", "b"]]
    shown = capfd.readouterr().err
    assert "3 of 5 candidates have the text of another one and were dropped ('c' that of 'a'" in shown
    assert "Encoded 4 texts" in shown or "4 texts" in shown
    with pytest.raises(StoreError, match="made with another duplicates: 'drop', now 'keep'"):
        extractor(repeated, tiny_bert, tmp_path / "pool", chunk_size=chunk_size).run()


def test_a_pool_with_all_texts_is_not_taken_for_one_without_the_equal_ones(
    tiny_bert: Path, repeated: dict[str, Any], tmp_path: Path
) -> None:
    extractor(repeated, tiny_bert, tmp_path / "pool").run()
    with pytest.raises(StoreError, match="made with another duplicates: 'keep', now 'drop'"):
        extractor(repeated, tiny_bert, tmp_path / "pool", duplicates="drop").run()


def test_equal_texts_with_vectors_of_their_own_are_equal_only_with_the_same_vector(tmp_path: Path) -> None:
    lines(tmp_path / "c.jsonl", [{"id": str(n), "text": "t", "v": [max(1, n), 0.5]} for n in range(4)])
    source = {"name": "pool_files", "candidates": f"{tmp_path}/c.jsonl", "candidate_columns": {"feature": "v"}}
    pool = CandidatePool.open(extractor(source, None, tmp_path / "pool", duplicates="drop").run())
    assert [pool.id(row) for row in range(pool.num_candidates)] == ["0", "2", "3"]


def test_vectors_of_ones_own_are_stored_without_an_encoder(tmp_path: Path) -> None:
    lines(tmp_path / "c.jsonl", [{"id": str(n), "text": "t", "v": [n, 0.5]} for n in range(5)])
    lines(tmp_path / "q.jsonl", [{"id": str(n), "text": "t", "rel": str(n), "v": [0.25, n]} for n in range(3)])
    source = {"name": "pool_files", "candidates": f"{tmp_path}/c.jsonl", "queries": f"{tmp_path}/q.jsonl"}
    columns = {"candidate_columns": {"feature": "v"}, "query_columns": {"feature": "v", "relevant": "rel"}}
    pool = CandidatePool.open(extractor({**source, **columns}, None, tmp_path / "pool", chunk_size=2).run())
    assert (pool.feature_dim, pool.encoder) == (2, None)
    assert pool.features(torch.arange(5)).tolist() == [[n, 0.5] for n in range(5)]
    assert pool.queries.features(torch.arange(3)).tolist() == [[0.25, n] for n in range(3)]


def test_the_candidates_of_groups_are_one_pool(tiny_bert: Path, tmp_path: Path) -> None:
    groups = [
        {"query_id": "1", "query": "read", "candidates": [["a", "open", 1], ["b", "close", 0]], "split": "test"},
        {"query_id": "2", "query": "write", "candidates": [["a", "open", None], ["c", "sort", 2], ["d", "close", 1]]},
    ]
    for group in groups:
        rows: Any = group["candidates"]
        group["candidates"] = [dict(zip(("id", "text", "label"), row, strict=True)) for row in rows]
    lines(tmp_path / "g.jsonl", groups)
    source = {"name": "jsonl", "path": f"{tmp_path}/g.jsonl"}
    pool = CandidatePool.open(extractor(source, tiny_bert, tmp_path / "pool").run())
    assert [pool.id(row) for row in range(pool.num_candidates)] == ["a", "b", "c"]
    assert [pool.text(row) for row in range(pool.num_candidates)] == ["open", "close", "sort"]
    assert pool.queries.relevant.tolist() == [0, 2, 1]
    assert pool.queries.label.tolist() == [1, 2, 1]
    assert pool.queries.relevant_offsets.tolist() == [0, 1, 3]
    assert pool.queries.split.tolist() == [2, 255]
    assert not len(pool.queries.own)
    listed = CandidatePool.open(extractor(source, tiny_bert, tmp_path / "listed", own_lists=True).run())
    assert listed.queries.own.tolist() == [0, 1, 0, 2, 1]
    assert listed.queries.own_offsets.tolist() == [0, 2, 5]
    groups[1]["candidates"][0]["text"] = "another"
    lines(tmp_path / "g.jsonl", groups)
    with pytest.raises(ConfigError, match="line 2: the candidate id 'a' stands for two texts"):
        extractor(source, tiny_bert, tmp_path / "other").run()


def test_a_pool_source_says_itself_what_queries_rank(tiny_bert: Path, files: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="own_lists: the source has no groups"):
        extractor(files, tiny_bert, tmp_path / "pool", own_lists=True)


def test_a_build_stopped_anywhere_goes_on_to_the_same_bytes(
    tiny_bert: Path, files: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(name: str) -> dict[str, bytes]:
        return contents(extractor(files, tiny_bert, tmp_path / name, chunk_size=6).run())

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
            assert not (tmp_path / "stopped").exists()
    else:
        pytest.fail("it never came to an end")
    assert len(calls) > 6


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_finished_pool_is_used_without_encoding_anything(
    tiny_bert: Path, files: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = extractor(files, tiny_bert, tmp_path / "pool").run()
    monkeypatch.setattr(Encoder, "encode", lambda *_: pytest.fail("encoded again"))
    assert extractor(files, tiny_bert, tmp_path / "pool", devices=2).run() == built


def test_a_pool_made_with_other_settings_or_weights_is_not_used(
    tiny_bert: Path, files: dict[str, Any], tmp_path: Path
) -> None:
    model = shutil.copytree(tiny_bert, tmp_path / "model")
    extractor(files, model, tmp_path / "pool").run()
    with pytest.raises(StoreError, match="made with another chunk_size: 16384, now 7"):
        extractor(files, model, tmp_path / "pool", chunk_size=7).run()
    with pytest.raises(StoreError, match=r"made with another encoder\.model"):
        extractor(files, tiny_bert, tmp_path / "pool").run()
    weights = model / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(StoreError, match=r"made with another encoder\.sha256"):
        extractor(files, model, tmp_path / "pool").run()


def test_the_usual_path_differs_with_the_settings_and_says_pool(
    tiny_bert: Path, files: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    usual = extractor(files, tiny_bert, None)
    assert str(usual.path).startswith("data/pool_files-tiny-bert-pool-")
    assert extractor(files, tiny_bert, None, unknown_ids="drop").path != usual.path
    assert extractor(files, tiny_bert, None, devices=2).path == usual.path
    assert usual.run() == usual.path
    assert usual.encoder
    assert CandidatePool.open(usual.path).encoder == usual.encoder.identity()


@pytest.mark.parametrize("option", [{"chunk_size": 0}, {"devices": 0}, {"dtype": "int8"}, {"unknown_ids": "keep"}])
def test_impossible_options_are_refused(files: dict[str, Any], tmp_path: Path, option: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(option))):
        extractor(files, None, tmp_path / "pool", **option)


class _Given:
    """A source of what a test gives it."""

    texts: list[PoolText]
    asked: list[PoolQuery]

    def fingerprint(self) -> dict[str, Any]:
        return {"name": "given"}

    def candidates(self) -> Iterator[PoolText]:
        yield from self.texts

    def queries(self) -> Iterator[PoolQuery]:
        yield from self.asked


def candidate(id: str = "c", text: str = "t", feature: Any = (1.0, 2.0), origin: str = "") -> PoolText:
    return PoolText(id, text, feature and [float(each) for each in feature], origin)


def query(id: str = "q", text: str = "t", feature: Any = (1.0, 2.0), **others: Any) -> PoolQuery:
    return PoolQuery(
        id, text, **{"relevant": {"a": 1.0}, "feature": feature and [float(each) for each in feature], **others}
    )


FAULTS: dict[str, tuple[list[PoolText], list[PoolQuery], str]] = {
    "an empty text": (
        [candidate("d", " ", origin="file, line 3")],
        [],
        "file, line 3: the text of candidate 'd' is empty",
    ),
    "an empty id": ([candidate("", origin="file, line 3")], [], "file, line 3: a candidate has an empty id"),
    "an id twice": (
        [candidate("d", origin="line 1"), candidate("e"), candidate("d", "other", origin="line 3")],
        [],
        "line 3: another candidate has the id 'd': the other is line 1",
    ),
    "no vector": ([candidate("d", feature=None)], [], "candidate 'd' has no feature, and there is no encoder"),
    "a longer vector": ([candidate("d", feature=(1, 2, 3))], [], "'d' has 3 numbers, those before it 2"),
    "a vector that is nan": ([candidate("d", feature=(1, math.nan))], [], "'d' has a number that is not finite"),
    "an empty query": ([], [query(text="")], "q: the text of query 'q' is empty"),
    "a query twice": ([], [query("1"), query("2"), query("1")], "1: another query has the id '1'"),
    "a query without a vector": ([], [query(feature=None)], "query 'q' has no feature"),
    "a label of 0": ([], [query(relevant={"a": 0.0})], "the label of 'a' is 0.0"),
    "an unknown relevant id": (
        [],
        [query(), query("2", relevant={"a": 1.0, "x": 1.0})],
        "'x', judged for query '2'",
    ),
    "an unknown id in a history": ([], [query(history=["a", "y"])], "one id is not .*\n.*'y' in `history`"),
    "an unknown id in a list": ([], [query(candidates=["a", "z"])], "'z' in `candidates`"),
    "many unknown ids": ([], [query(str(n), history=[f"x{n}"]) for n in range(15)], "15 ids are (.|\n)*and 5 more"),
    "an id twice in a list": ([], [query(candidates=["a", "b", "a"])], "'a' twice among its own candidates"),
    "an empty list": ([], [query(candidates=[])], "'q' has an empty list of candidates"),
    "a list without the relevant one": ([], [query(candidates=["b"])], "'a' is relevant to query 'q', but not among"),
    "no relevant one at all": (
        [],
        [query(relevant={}), query("2", relevant={})],
        "none of its 2 queries has a relevant",
    ),
}


@pytest.mark.usefixtures("outside")
@pytest.mark.parametrize("fault", FAULTS)
def test_bad_data_is_one_error_before_anything_is_written(tmp_path: Path, fault: str) -> None:
    candidates, queries, message = FAULTS[fault]
    build = given([candidate("a"), candidate("b"), *candidates], [*queries], tmp_path)
    with pytest.raises(ConfigError, match=message):
        build.run()
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("outside")
def test_unknown_ids_are_left_out_when_that_is_wished_except_from_lists_of_candidates(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    queries = [
        query("1", relevant={"x": 2.0, "b": 3.0, "a": 1.0}, history=["y", "a", "x", "b"]),
        query("2", relevant={"x": 1.0}),
        query("3", relevant={"b": 4.0}, history=["b"]),
    ]
    pool = CandidatePool.open(given([candidate("a"), candidate("b")], queries, tmp_path, unknown_ids="drop").run())
    assert pool.queries.relevant.tolist() == [1, 0, 1]
    assert pool.queries.label.tolist() == [3, 1, 4]
    assert pool.queries.relevant_offsets.tolist() == [0, 2, 2, 3]
    assert pool.queries.history.tolist() == [0, 1, 1]
    shown = capfd.readouterr().err
    assert pool.queries.missing.tolist() == [2, 1]
    assert pool.queries.missing_offsets.tolist() == [0, 1, 2, 2]
    assert "2 judged candidates are not in the pool: they count as never found." in shown
    assert "2 ids in histories are not in the pool and were left out." in shown
    assert "1 of 3 queries have no relevant candidate in the pool." in shown
    with pytest.raises(ConfigError, match="`candidates`"):
        given([candidate("a")], [query(candidates=["a", "z"])], tmp_path / "other", unknown_ids="drop").run()


@pytest.mark.usefixtures("outside")
def test_a_pool_without_queries_is_made_but_not_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no query: there is nothing to learn"):
        given([candidate("a")], [], tmp_path).run(to_train=True)
    with pytest.raises(ConfigError, match="no candidate"):
        given([], [], tmp_path).run()
    assert CandidatePool.open(given([candidate("a")], [], tmp_path).run()).queries.num_queries == 0


@pytest.mark.usefixtures("outside")
def test_a_source_that_changes_while_it_is_read_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = given([candidate(str(n)) for n in range(5)], [], tmp_path)
    survey = CandidatePoolExtractor._survey

    def change_after(self: CandidatePoolExtractor, to_train: bool) -> Any:
        found = survey(self, to_train)
        _Given.texts = _Given.texts[:3]
        return found

    monkeypatch.setattr(CandidatePoolExtractor, "_survey", change_after)
    with pytest.raises(StoreError, match="the source had 5 candidates, but 3 when read again"):
        build.run()


def given(texts: list[PoolText], queries: list[PoolQuery], folder: Path, **options: Any) -> CandidatePoolExtractor:
    SOURCES.register("given")(_Given)
    _Given.texts, _Given.asked = texts, queries
    return extractor("given", None, folder / "pool", **options)


@pytest.mark.slow
def test_two_processes_make_the_same_bytes_as_one_and_go_on_after_either(
    tiny_bert: Path, files: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    whole = contents(extractor(files, tiny_bert, tmp_path / "one", chunk_size=6).run())
    one_line = capfd.readouterr().err.splitlines()[-1]
    assert contents(extractor(files, tiny_bert, tmp_path / "two", chunk_size=6, devices=2).run()) == whole
    two_line = capfd.readouterr().err.splitlines()[-1]
    assert one_line.partition(" in ")[0] == two_line.partition(" in ")[0]
    assert one_line.rpartition(";")[2] == two_line.rpartition(";")[2]


@pytest.mark.slow
def test_an_error_in_a_process_is_shown_as_it_is(
    tiny_bert: Path, files: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = extractor(files, tiny_bert, tmp_path / "pool", chunk_size=10, devices=2)
    survey = CandidatePoolExtractor._survey

    def remove_after(self: CandidatePoolExtractor, to_train: bool) -> Any:
        found = survey(self, to_train)
        (tmp_path / "c.jsonl").unlink()
        return found

    monkeypatch.setattr(CandidatePoolExtractor, "_survey", remove_after)
    with pytest.raises(ConfigError, match="is damaged"):
        build.run()


@pytest.mark.usefixtures("outside")
def test_a_pool_needs_no_vectors_but_some_without_vectors_are_refused(tmp_path: Path) -> None:
    bare = [candidate("a", feature=None), candidate("b", feature=None)]
    pool = CandidatePool.open(given(bare, [query(feature=None)], tmp_path).run())
    assert pool.feature_dim == 0 and pool.num_candidates == 2
    with pytest.raises(ConfigError, match="'c' has 2 numbers, those before it have none"):
        given([*bare, candidate("c")], [], tmp_path / "other").run()
