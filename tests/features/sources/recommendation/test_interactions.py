"""Interactions and s3rec: the same few events in every kind of file, and files with mistakes."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from features.sources.recommendation.histories import Histories, Windows
from features.sources.recommendation.interactions import InteractionColumns, Interactions, ItemColumns
from features.sources.recommendation.s3rec import S3Rec
from registry import ConfigError

ROWS = [  # user, item, time, rating; c of u2 and a of u2 are at the same time
    ("u1", "b", 20, 5.0),
    ("u1", "a", 10, 4.0),
    ("u2", "c", 5, 3.0),
    ("u2", "a", 5, 1.0),
    ("u1", "c", 30, 2.0),
    ("u2", "b", 7, 4.5),
    ("u1", "a", 40, 5.0),
    ("u3", "b", 1, 5.0),
]
IDS = {"u1-2": ("b", ["a"], "val"), "u1-3": ("c", ["a", "b"], "test")}
ALL = IDS | {"u2-2": ("a", ["c"], "val"), "u2-3": ("b", ["c", "a"], "test")}


def lines(separator: str, header: str = "user_id item_id timestamp rating") -> str:
    rows = [header.replace(" ", separator)] if header else []
    return "\n".join([*rows, *(separator.join(map(str, row)) for row in ROWS)]) + "\n"


def found(source: Any) -> dict[str, tuple[str, list[str], str]]:
    return {each.id: (*each.relevant, list(each.history), each.split) for each in source.queries()}


FILES = {
    "x.csv": lines(","),
    "x.tsv": lines("\t"),
    "x.inter": lines("\t", "user_id:token item_id:token timestamp:float rating:float"),
    "commas.inter": lines(",", "user_id:token item_id:token timestamp:float rating:float").replace(",", ", ", 3),
    "x.jsonl": "".join(
        json.dumps(dict(zip(("userId", "movieId", "timestamp", "rating"), row, strict=True))) + "\n" for row in ROWS
    ),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("zipped", [False, True])
def test_every_form_gives_the_same_queries(tmp_path: Path, name: str, zipped: bool) -> None:
    path = tmp_path / (f"{name}.gz" if zipped else name)
    path.write_bytes(gzip.compress(FILES[name].encode()) if zipped else FILES[name].encode())
    source = Interactions(str(path))
    assert found(source) == ALL == found(source)
    assert [(each.id, each.text) for each in source.candidates()] == [("b", "b"), ("a", "a"), ("c", "c")]
    assert source.notes() == [
        "1 of 8 interactions repeat an earlier one: only the first counts.",
        "1 interactions are at the time of the one before them: they keep the order of the file.",
        "1 of 3 users have fewer than 2 interactions: no query.",
    ]


def test_parquet_has_dates_and_ratings_below_the_lowest_are_counted(tmp_path: Path) -> None:
    parquet, table = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow").table
    from datetime import UTC, datetime

    user, item, time, rating = zip(*ROWS, strict=True)
    dates = [datetime.fromtimestamp(each, UTC) for each in time]
    columns = {"customer_id": user, "asin": item, "date": dates, "stars": rating}
    parquet.write_table(table({name: list(values) for name, values in columns.items()}), tmp_path / "x.parquet")
    source = Interactions(str(tmp_path / "x.parquet"), min_rating=2.5)
    assert found(source) == {"u1-2": ("b", ["a"], "test"), "u2-2": ("b", ["c"], "test")}
    assert source.notes()[0] == "2 interactions have a rating below 2.5."


def test_a_file_without_a_header_or_times_and_columns_by_name(tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_text("".join(f"{user}\t{item}\n" for user, item, *_ in ROWS))
    assert found(Interactions(str(tmp_path / "x.tsv"), tsv=["user", "item"]))["u1-3"] == ("c", ["b", "a"], "test")
    (tmp_path / "y.csv").write_text("who,what,when\nu,a,2023-05-02\nu,b,2023-05-01T10:00:00\nu,c,2023-05-03\n")
    columns = InteractionColumns(user="who", item="what", time="when")
    assert found(Interactions(str(tmp_path / "y.csv"), columns=columns))["u-3"] == ("c", ["b", "a"], "test")


@pytest.mark.parametrize(
    ("separator", "cure"), [(",", r"name it \*\.csv"), (";", r"name it \*\.csv"), (" ", "separate its fi")]
)
def test_a_file_named_tsv_without_tabs_says_what_to_do(tmp_path: Path, separator: str, cure: str) -> None:
    (tmp_path / "x.tsv").write_text(lines(separator))
    with pytest.raises(ConfigError, match=f"What to do:.*{cure}"):
        found(Interactions(str(tmp_path / "x.tsv")))


def test_an_empty_file_is_told_as_that(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("\n")
    with pytest.raises(ConfigError, match=r"x\.csv: is empty"):
        found(Interactions(str(tmp_path / "x.csv")))


def test_a_file_of_items_separated_by_commas_quotes_its_titles(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(FILES["x.csv"])
    (tmp_path / "x.item").write_text('item_id:token,title:token_seq\na,"A, and ""more"""\nb,B\nc,C\n')
    source = Interactions(str(tmp_path / "x.csv"), str(tmp_path / "x.item"))
    assert {each.id: each.text for each in source.candidates()} == {"a": 'A, and "more"', "b": "B", "c": "C"}


def test_items_have_titles_and_texts_and_those_without_a_title_are_counted(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(FILES["x.csv"])
    (tmp_path / "x.item").write_text(
        "item_id:token\tmovie_title:token_seq\tclass:token_seq\na\tAn  A\tx y\nb\t\tz\nd\tD\t\n"
    )
    path, items = str(tmp_path / "x.csv"), str(tmp_path / "x.item")
    source = Interactions(path, items, item_columns=ItemColumns(more=["class"]))
    assert [(each.id, each.text) for each in source.candidates()] == [("a", "An A. x y"), ("b", "z"), ("c", "c")]
    assert "2 of 3 items have no title: their text is their id." in source.notes()
    assert next(each.text for each in source.queries() if each.id == "u1-3") == "Newest to oldest: b; An A"
    assert [each.id for each in Interactions(path, items, pool="all").candidates()] == ["a", "b", "d", "c"]
    with pytest.raises(ValueError, match="pool: all needs files of items"):
        Interactions(path, pool="all")


BAD = {
    "no number": ("user,item,time\nu,a,1\nu,b,x\n", 'line 3: time: found "x", expected a number or a date'),
    "not finite": ("user,item,time\nu,a,nan\n", 'line 2: time: found "nan", expected a number or a date'),
    "no user": ("user,item,time\n,a,1\n", "line 2: user: "),
    "a field too few": ("user,item,time\nu,a\n", "line 2: has 2 fields, expected 3: user, item, time"),
    "no column": ("person,item\nu,a\n", "no column is known as that of the user."),
    "split into sequences": ("user,item_id_list,item\nu,a b,c\n", "its column 'item_id_list' has the history"),
    "nobody with two": ("user,item\nu,a\nv,a\n", "no user has 2 interactions"),
}


@pytest.mark.parametrize("case", BAD)
def test_mistakes_are_named_with_their_places(tmp_path: Path, case: str) -> None:
    text, message = BAD[case]
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(ConfigError) as error:
        list(Interactions(str(tmp_path / "x.csv")).queries())
    assert message in str(error.value)


def test_options_that_do_not_fit_the_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("user,item\nu,a\nu,b\n")
    path = str(tmp_path / "x.csv")
    with pytest.raises(ConfigError, match=r"(?s)no column is known as that of the rating.*columns.rating"):
        list(Interactions(path, min_rating=3.0).queries())
    with pytest.raises(ConfigError, match=r"has no column 'usr'"):
        list(Interactions(path, columns=InteractionColumns(user="usr")).queries())
    (tmp_path / "items.csv").write_text("id,title\na,A\na,B\n")
    with pytest.raises(ConfigError, match="found 'a' a second time, expected each item once"):
        list(Interactions(path, str(tmp_path / "items.csv")).candidates())
    with pytest.raises(ConfigError, match="no such file"):
        Interactions(str(tmp_path / "none.csv")).fingerprint()


@pytest.mark.parametrize("timed", ["x", "y"])
def test_files_with_times_and_without_are_not_mixed(tmp_path: Path, timed: str) -> None:
    for name in ("x", "y"):
        has = name == timed
        text = "user,item,time\nu,a,7\nu,b,9\n" if has else "user,item\nu,c\nu,d\n"
        (tmp_path / f"{name}.csv").write_text(text)
    paths = [str(tmp_path / f"{name}.csv") for name in ("x", "y")]
    with pytest.raises(ConfigError, match=r"y\.csv: has (a|no) column of the time, and \S+x\.csv has (none|one)"):
        list(Interactions(paths, tsv=["user", "item"]).queries())


def test_a_file_with_too_few_interactions_does_not_ask_for_fewer_than_one(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("user,item\nu,a\nv,a\n")
    with pytest.raises(ConfigError) as error:
        list(Interactions(str(tmp_path / "x.csv")).queries())
    assert "no user has 2 interactions" in str(error.value) and "min_history" not in str(error.value)


def test_s3rec_has_one_line_per_user(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("1 5 6 7 8\n2 6 5\n3 9\n")
    source = S3Rec(str(tmp_path / "x.txt"))
    assert found(source) == {
        "1-2": ("6", ["5"], "train"),
        "1-3": ("7", ["5", "6"], "val"),
        "1-4": ("8", ["5", "6", "7"], "test"),
        "2-2": ("5", ["6"], "test"),
    }
    assert [each.id for each in source.candidates()] == ["5", "6", "7", "8", "9"]
    assert source.notes() == ["1 of 3 users have fewer than 2 interactions: no query."]


def test_mistakes_in_s3rec_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("1 5 6\n1 7 8\n2\n")
    with pytest.raises(ConfigError) as error:
        list(S3Rec(str(tmp_path / "x.txt")).queries())
    assert "line 2: found user '1' a second time, expected one line per user" in str(error.value)
    assert "line 3: user '2' has no item; expected: user item item ..." in str(error.value)
    with pytest.raises(ConfigError, match="no such file"):
        S3Rec(str(tmp_path / "none.txt"))


def test_rare_users_and_items_are_left_out_until_none_is_left() -> None:
    pairs = ["a1", "a2", "a3", "b1", "b2", "c1", "c3", "c4", "d4"]
    histories = Histories([(user, item, float(time)) for time, (user, item) in enumerate(pairs)], 2)

    def loop(left: list[str]) -> list[str]:
        kept = [p for p in left if sum(o[0] == p[0] for o in left) > 1 and sum(o[1] == p[1] for o in left) > 1]
        return kept if kept == left else loop(kept)

    assert [user + item for code, user in enumerate(histories.users) for item in histories.of(code)] == loop(pairs)
    assert any("2 interactions are left out" in line for line in histories.notes(Windows(min_history=1)))
