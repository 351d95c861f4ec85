"""msmarco reads the passage collection and the form with passages for each query, and draws pools from them."""

import gzip
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from features.sources.retrieval.msmarco import MsMarco
from features.texts.pools import PoolQuery
from registry import ConfigError

NUM_QUERIES = 40


def passages(query: int) -> list[str]:
    """Ten passages, of which the first is that of all queries."""
    return ["about nothing", *(f"passage {place} of query {query}" for place in range(1, 10))]


def row(query: int) -> dict[str, Any]:
    """A query as on the hub: the passages 3 and 4 were selected, for every fifth query none, and the last is blank."""
    selected = [int(place in (3, 4) and query % 5 != 0) for place in range(11)]
    texts = [*passages(query), "  "]
    return {
        "answers": ["yes"],
        "passages": {"is_selected": selected, "passage_text": texts, "url": ["http://x"] * 11},
        "query": f" query {query}",
        "query_id": query,
        "query_type": "entity",
        "wellFormedAnswers": [],
    }


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """The form on the hub, its training queries in two files."""
    (tmp_path / "v1.1").mkdir()
    files = {"train-00000-of-00002": range(1, 21), "train-00001-of-00002": range(21, 41)}
    for name, queries in {**files, "validation-00000-of-00001": range(101, 111)}.items():
        table = pyarrow.Table.from_pylist([row(query) for query in queries])
        parquet.write_table(table, tmp_path / "v1.1" / f"{name}.parquet")
    return tmp_path


def collection_files() -> Mapping[str, str]:
    """The collection's files: passages 100 + q and 200 + q are right for query q; query 30 has no judgement."""
    queries = {"train": range(1, 31), "dev.small": range(51, 61)}
    judged = {part: [query for query in each if query != 30] for part, each in queries.items()}
    return {
        "collection.tsv": "".join(f"{passage}\tpassage {passage} é\n" for passage in range(400)),
        **{f"queries.{part}.tsv": "".join(f"{id}\tquery {id}\n" for id in each) for part, each in queries.items()},
        **{
            f"qrels.{part}.tsv": "".join(
                f"{id}\t0\t{100 + id}\t1\n{id}\t0\t{200 + id}\t1\n{id}\t0\t7\t0\n" for id in each
            )
            for part, each in judged.items()
        },
    }


def write_collection(folder: Path, form: str) -> Path:
    folder.mkdir(exist_ok=True)
    if form == "tar":
        with tarfile.open(folder / "collectionandqueries.tar.gz", "w:gz") as archive:
            for name, text in collection_files().items():
                member = tarfile.TarInfo(name)
                member.size = len(text.encode())
                archive.addfile(member, io.BytesIO(text.encode()))
        return folder
    for name, text in collection_files().items():
        ending, content = (".gz", gzip.compress(text.encode())) if form == "gz" else ("", text.encode())
        (folder / f"{name}{ending}").write_bytes(content)
    return folder


def texts_of(source: MsMarco) -> dict[str, str]:
    found = list(source.candidates())
    assert len({each.id for each in found}) == len(found) and list(source.candidates()) == found
    return {each.id: each.text for each in found}


def test_the_pool_is_the_passages_of_the_drawn_queries_each_once(hub: Path) -> None:
    source = MsMarco(str(hub), num_queries=10)
    queries = list(source.queries())
    assert list(source.queries()) == queries and len(queries) == 10
    numbers = [int(query.id) for query in queries]
    assert numbers == sorted(numbers) and all(number % 5 for number in numbers)
    texts = texts_of(source)
    assert sorted(texts.values()) == sorted({text for number in numbers for text in passages(number)})
    for query in queries:
        [(relevant, label)] = query.relevant.items()
        assert texts[relevant] in (passages(int(query.id))[3], passages(int(query.id))[4]) and label == 1
        assert (query.text, query.split) == (f"query {query.id}", None)
    assert len({texts[next(iter(query.relevant))][8] for query in queries}) == 2


def test_another_seed_draws_other_queries(hub: Path) -> None:
    first, second = (MsMarco(str(hub), num_queries=10, seed=seed).queries() for seed in (0, 1))
    assert {query.id for query in first} != {query.id for query in second}


def test_all_relevant_passages_can_count(hub: Path) -> None:
    source = MsMarco(str(hub), relevance="all")
    queries, texts = list(source.queries()), texts_of(source)
    assert len(queries) == NUM_QUERIES * 4 // 5
    for query in queries:
        assert sorted(texts[each] for each in query.relevant) == passages(int(query.id))[3:5]


def test_published_splits_test_on_the_validation_file(hub: Path) -> None:
    source = MsMarco(str(hub), splits="published")
    by_split: dict[str | None, list[PoolQuery]] = {}
    for query in source.queries():
        by_split.setdefault(query.split, []).append(query)
    assert {split: len(queries) for split, queries in by_split.items()} == {"train": 29, "val": 3, "test": 8}
    assert {int(query.id) for query in by_split["test"]} == {101, 102, 103, 104, 106, 107, 108, 109}
    relevant = {id for queries in by_split.values() for query in queries for id in query.relevant}
    assert relevant <= set(texts_of(source))


def test_the_collection_is_all_passages_and_a_size_cuts_it(hub: Path) -> None:
    everything = texts_of(MsMarco(str(hub), pool="collection", num_queries=5))
    assert len(everything) == 1 + 9 * NUM_QUERIES
    source = MsMarco(str(hub), pool="collection", num_queries=5, num_candidates=60)
    pool, relevant = set(texts_of(source)), {id for query in source.queries() for id in query.relevant}
    assert len(pool) == 60 and relevant < pool < set(everything)
    with pytest.raises(ConfigError, match="4 is less than the 5 relevant"):
        list(MsMarco(str(hub), num_queries=5, num_candidates=4).candidates())


@pytest.mark.parametrize("form", ["plain", "gz", "tar"])
def test_the_passage_collection_is_read_in_every_form(tmp_path: Path, form: str) -> None:
    folder = write_collection(tmp_path / "data", form)
    source = MsMarco(str(folder), pool="collection", relevance="all", splits="published")
    assert texts_of(source) == {str(passage): f"passage {passage} é" for passage in range(400)}
    queries = {query.id: query for query in source.queries()}
    assert list(queries) == [str(id) for id in [*range(1, 30), *range(51, 61)]]
    assert queries["9"].relevant == {"109": 1.0, "209": 1.0} and queries["55"].split == "test"
    assert [query.split for query in queries.values()].count("val") == 2


def test_the_passage_collection_can_be_cut_and_its_queries_drawn(tmp_path: Path) -> None:
    folder = write_collection(tmp_path / "data", "plain")
    (folder / "queries.dev.small.tsv").unlink()
    source = MsMarco(str(folder), pool="collection", num_queries=12, num_candidates=50)
    pool, queries = texts_of(source), list(source.queries())
    assert len(pool) == 50 and len(queries) == 12
    for query in queries:
        [relevant] = query.relevant
        assert relevant in pool and relevant in (str(100 + int(query.id)), str(200 + int(query.id)))
        assert query.split is None


def test_the_passage_collection_lists_no_passages_by_query(tmp_path: Path) -> None:
    folder = write_collection(tmp_path / "data", "plain")
    with pytest.raises(ConfigError, match=r"(?s)does not list passages by query.*pool=collection"):
        list(MsMarco(str(folder)).candidates())


def test_a_missing_file_and_bad_lines_are_named(tmp_path: Path) -> None:
    folder = write_collection(tmp_path / "data", "plain")
    (folder / "queries.train.tsv").write_text("1\tone\n2 two\n")
    with pytest.raises(
        ConfigError, match=r"queries\.train\.tsv: one line .*\n  line 2: expected an id, a tab and a text"
    ):
        list(MsMarco(str(folder), pool="collection").queries())
    (folder / "qrels.train.tsv").write_text("1 101\n1 0 101 yes\n")
    with pytest.raises(ConfigError, match=r"(?s)line 1: has 2 fields.*line 2: label: found 'yes'"):
        list(MsMarco(str(folder), pool="collection").queries())
    (folder / "qrels.train.tsv").unlink()
    with pytest.raises(ConfigError, match=r"(?s)has no qrels\.train\.tsv.*collectionandqueries"):
        list(MsMarco(str(folder), pool="collection").queries())


@pytest.mark.parametrize("made", [True, False])
def test_a_folder_without_the_files_says_what_to_put_where(tmp_path: Path, made: bool) -> None:
    with pytest.raises(ConfigError) as error:
        MsMarco(str(tmp_path if made else tmp_path / "nowhere")).fingerprint()
    assert ("has no files of MS MARCO" if made else "no such folder") in str(error.value)
    assert "collection.tsv, queries.train.tsv" in str(error.value) and "*.parquet" in str(error.value)


def test_the_fingerprint_depends_on_files_and_options(hub: Path) -> None:
    sources = [MsMarco(), MsMarco(edition="passages"), MsMarco(str(hub)), MsMarco(str(hub), splits="published")]
    sources += [MsMarco(str(hub), num_queries=5), MsMarco(str(hub), seed=1), MsMarco(str(hub), pool="collection")]
    fingerprints = [source.fingerprint() for source in sources]
    assert MsMarco(str(hub)).fingerprint() == fingerprints[2]
    assert all(one != other for place, one in enumerate(fingerprints) for other in fingerprints[:place])
