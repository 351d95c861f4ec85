"""trec makes one pool of several folders, and keeps every grade above 0."""

import gzip
import re
from pathlib import Path

import pytest

from features.sources.retrieval.trec import Trec
from registry import SOURCES, ConfigError


def write(folder: Path, passages: range, queries: range) -> str:
    """Passage q + g has the grade g for query q."""
    folder.mkdir()
    (folder / "collection.tsv").write_text("".join(f"{id}\tpassage {id}\n" for id in passages))
    (folder / "queries.tsv.gz").write_bytes(gzip.compress("".join(f"{id}\tquery {id}\n" for id in queries).encode()))
    (folder / "qrels.txt").write_text(
        "".join(f"{id} Q0 {id + grade} {grade}\n" for id in queries for grade in range(4))
    )
    return str(folder)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[str, str]:
    return write(tmp_path / "2019", range(10), range(3)), write(tmp_path / "2020", range(5, 15), range(8, 10))


def test_passages_that_two_folders_have_are_in_the_pool_once(folders: tuple[str, str]) -> None:
    source = Trec(train=folders[0], test=folders[1])
    assert [(each.id, each.text) for each in source.candidates()] == [(str(id), f"passage {id}") for id in range(15)]


def test_an_id_that_stands_for_two_texts_is_named(folders: tuple[str, str]) -> None:
    with (Path(folders[1]) / "collection.tsv").open("a") as file:
        file.write("3\tanother text\n")
    expected = rf"collection.tsv: .*\n  line 11: the id '3' stands for another text in {re.escape(folders[0])}"
    with pytest.raises(ConfigError, match=expected):
        list(Trec(train=folders[0], test=folders[1]).candidates())


@pytest.mark.parametrize("folder", [0, 1])
def test_an_id_that_comes_twice_in_a_folder_is_named(folders: tuple[str, str], folder: int) -> None:
    with (Path(folders[folder]) / "collection.tsv").open("a") as file:
        file.write("7\tpassage 7\n")
    with pytest.raises(ConfigError, match=r"line 11: the id '7' occurs twice"):
        list(Trec(train=folders[0], test=folders[1]).candidates())


def test_a_judgement_that_is_no_finite_number_is_named(folders: tuple[str, str]) -> None:
    (Path(folders[0]) / "qrels.txt").write_text("0 0 1 2\n1 0 2 nan\n1 0 3 1_0\n")
    with pytest.raises(ConfigError, match=r"line 2: label: found 'nan'(.|\n)*line 3: label: found '1_0'"):
        list(Trec(path=folders[0]).queries())


def test_each_folder_is_for_one_split_and_grades_are_kept(folders: tuple[str, str]) -> None:
    queries = list(Trec(val=[folders[1]], path=[folders[0]]).queries())
    assert [(each.id, each.split) for each in queries] == [
        ("8", "val"),
        ("9", "val"),
        ("0", None),
        ("1", None),
        ("2", None),
    ]
    assert queries[0].relevant == {"9": 1.0, "10": 2.0, "11": 3.0} and queries[0].text == "query 8"
    assert Trec(path=folders[0]).fingerprint()["min_label"] == 2


def test_a_query_that_the_qrels_do_not_name_is_not_judged(folders: tuple[str, str]) -> None:
    (Path(folders[0]) / "qrels.txt").write_text("0 Q0 4 0\n1 Q0 4 1\n")
    assert [each.relevant for each in Trec(path=folders[0]).queries()] == [{}, {"4": 1.0}, None]


def test_missing_files_and_folders_are_named(folders: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "2020" / "qrels.txt").unlink()
    with pytest.raises(ConfigError, match=r"2020: has no qrels\.txt or qrels\.txt\.gz"):
        Trec(train=folders[0], test=folders[1]).fingerprint()
    with pytest.raises(ConfigError, match="no such folder"):
        Trec(train="nowhere").fingerprint()
    with pytest.raises(ConfigError, match=r"no folder: set train, val, test or path"):
        SOURCES.build({"name": "trec"})
    with pytest.raises(ConfigError, match="min_label: expected int from 1 to 1,000, got 0"):
        SOURCES.build({"name": "trec", "path": "x", "min_label": 0})


def test_the_fingerprint_depends_on_folders_splits_and_options(folders: tuple[str, str]) -> None:
    sources = [Trec(train=folders[0]), Trec(test=folders[0]), Trec(test=folders[1]), Trec(train=list(folders))]
    fingerprints = [source.fingerprint() for source in [*sources, Trec(train=folders[0], min_label=1)]]
    assert all(one != other for place, one in enumerate(fingerprints) for other in fingerprints[:place])
