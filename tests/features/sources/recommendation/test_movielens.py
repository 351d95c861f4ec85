"""movielens reads every form in which the ratings are published, and tells films and histories alike."""

import zipfile
from pathlib import Path

import pytest

from features.sources.recommendation.histories import Windows
from features.sources.recommendation.movielens import MovieLens
from features.texts.pools import PoolQuery
from registry import SOURCES, ConfigError

WINDOWS = Windows(history=2)
FILMS = [("1", "Misérables, Les", "1995", ["Drama", "Musical"]), ("2", "Heat", "1995", ["Action", "Crime"])]
FILMS += [("3", "Postino, Il", "1994", ["Romance"]), ("4", "Unseen", "", [])]
# Users, films, ratings, times: 7 rates the films in the order 2, 3, 1 and 8 in the order 1, 3.
RATINGS = [("7", "1", 5, 300), ("7", "2", 3, 100), ("8", "1", 4, 50), ("7", "3", 1, 200), ("8", "3", 4, 60)]
GENRES_100K = [
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
]  # fmt: skip


def titled(title: str, year: str) -> str:
    return f"{title} ({year})" if year else title


def write(folder: Path, edition: str) -> Path:
    """The films and ratings above, as the publishers write them."""
    folder.mkdir()
    if edition == "ml-1m":
        films = [f"{id}::{titled(title, year)}::{'|'.join(genres)}" for id, title, year, genres in FILMS]
        files = {"movies.dat": films, "ratings.dat": ["::".join(map(str, rating)) for rating in RATINGS]}
    elif edition == "ml-100k":
        films = [
            f"{id}|{titled(title, year)}|01-Jan-{year}||http://x/?{id}|"
            + "|".join(str(int(genre in genres)) for genre in GENRES_100K)
            for id, title, year, genres in FILMS
        ]
        files = {"u.item": films, "u.data": ["\t".join(map(str, rating)) for rating in RATINGS]}
    elif edition == "latest":
        films = [
            f'{id},"{titled(title, year)}",{"|".join(genres) or "(no genres listed)"}'
            for id, title, year, genres in FILMS
        ]
        header = "userId,movieId,rating,timestamp"
        files = {
            "movies.csv": ["movieId,title,genres", *films],
            "ratings.csv": [header, *(",".join(map(str, rating)) for rating in RATINGS)],
        }
    else:
        header = "item_id:token\tmovie_title:token_seq\trelease_year:token\tgenre:token_seq"
        films = ["\t".join([id, title, year, " ".join(genres)]) for id, title, year, genres in FILMS]
        ratings = ["\t".join(map(str, rating)) for rating in RATINGS]
        header_of_ratings = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
        files = {"ml-1m.item": [header, *films], "ml-1m.inter": [header_of_ratings, *ratings]}
    encoding = "latin-1" if edition in ("ml-1m", "ml-100k") else "utf-8"
    for name, lines in files.items():
        (folder / name).write_bytes("".join(f"{line}\n" for line in lines).encode(encoding))
    return folder


@pytest.mark.parametrize("edition", ["ml-1m", "ml-100k", "latest", "recbole"])
def test_every_form_gives_the_same_films_and_queries(tmp_path: Path, edition: str) -> None:
    source = MovieLens(str(write(tmp_path / "data", edition)), windows=WINDOWS)
    assert [(film.id, film.text) for film in source.candidates()] == [
        ("1", "Misérables, Les (1995). Drama, Musical"),
        ("2", "Heat (1995). Action, Crime"),
        ("3", "Postino, Il (1994). Romance"),
        ("4", "Unseen"),
    ]
    text = "Newest to oldest: Postino, Il (1994); Heat (1995)"
    expected = PoolQuery("7-3", text, {"1": 1.0}, "test", history=["2", "3"], user="7", origin="user 7")
    assert list(source.queries()) == [expected] == list(source.queries())


ATOMIC = {
    "no ratings": (
        "user_id:token\titem_id:token\ttimestamp:float\nu\ta\t2\nu\tb\t1\nu\tc\t3\n",
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tgenre:token_seq\n"
        "a\tA\t1960\tDrama War\nb\tB\t1961\tWar\nc\tC\t\t\n",
        {"a": "A (1960). Drama, War", "b": "B (1961). War", "c": "C"},
        "Newest to oldest: A (1960); B (1961)",
        ["b", "a"],
    ),
    "no times": (
        "user_id:token\titem_id:token\nu\ta\nu\tb\nu\tc\n",
        "item_id:token\ttitle:token\na\tA\nb\tB\nc\tC\n",
        {"a": "A", "b": "B", "c": "C"},
        "Newest to oldest: B; A",
        ["a", "b"],
    ),
    "products, separated by commas": (
        "user_id:token,item_id:token,rating:float,timestamp:float\nu,a,5,1\nu,b,5,2\nu,c,5,3\n",
        "item_id:token,title:token,price:float,categories:token_seq,brand:token\n"
        'a,"Ball, red",1.5,Toys Balls,Bob\nb,Kite,,,\nc,,1,,\n',
        {"a": "Ball, red. Categories: Toys Balls. Brand: Bob", "b": "Kite", "c": "item c"},
        "Newest to oldest: Kite; Ball, red",
        ["a", "b"],
    ),
    "other names of columns": (
        "listener:token\tartist_id:token\tweight:float\nu\ta\t9\nu\tb\t8\nu\tc\t7\n",
        "artist_id:token\tname:token_seq\turl:token\na\tA\tx\nb\tB\ty\nc\tC\tz\n",
        {"a": "A. Url: x", "b": "B. Url: y", "c": "C. Url: z"},
        "Newest to oldest: B; A",
        ["a", "b"],
    ),
}


@pytest.mark.parametrize("form", ATOMIC)
def test_any_set_in_recboles_form_is_read(tmp_path: Path, form: str) -> None:
    interactions, items, texts, query, history = ATOMIC[form]
    (tmp_path / "set.inter").write_text(interactions)
    (tmp_path / "set.item").write_text(items)
    source = MovieLens(str(tmp_path), windows=WINDOWS)
    assert {item.id: item.text for item in source.candidates()} == texts
    [found] = source.queries()
    assert (found.text, found.history, found.relevant, found.split) == (query, history, {"c": 1.0}, "test")


def test_a_set_in_several_parts_is_one(tmp_path: Path) -> None:
    for part, item in (("train", "a"), ("valid", "b"), ("test", "c")):
        (tmp_path / f"set.{part}.inter").write_text(f"user_id:token\titem_id:token\nu\t{item}\n")
    (tmp_path / "set.item").write_text("item_id:token\ttitle:token\na\tA\nb\tB\nc\tC\n")
    [found] = MovieLens(str(tmp_path), windows=WINDOWS).queries()
    assert (found.history, found.relevant) == (["a", "b"], {"c": 1.0})
    (tmp_path / "other.inter").write_text("user_id:token\titem_id:token\nu\ta\n")
    with pytest.raises(ConfigError, match=r"several data sets: set.item, other.inter, set.train.inter"):
        list(MovieLens(str(tmp_path), windows=WINDOWS).queries())


def test_what_recboles_files_lack_is_named(tmp_path: Path) -> None:
    (tmp_path / "set.inter").write_text("user_id:token\titem_id:token\nu\ta\nu\tz\n")
    (tmp_path / "set.item").write_text("item_id:token\ttitle:token\na\tA\n")
    with pytest.raises(ConfigError, match=r"line 3: item: 'z' is not in set.item"):
        list(MovieLens(str(tmp_path)).queries())
    (tmp_path / "set.item").write_text("item_id:token\ttitle:token\na\tA\na\tB\n")
    with pytest.raises(ConfigError, match=r"'a' stands for two films or items: 'A' and 'B'"):
        list(MovieLens(str(tmp_path)).candidates())
    (tmp_path / "set.item").write_text("item_id:token\ttitle:token\na\tA\n")
    with pytest.raises(ConfigError, match=r"min_rating: is set, but .* has no ratings"):
        list(MovieLens(str(tmp_path), min_rating=3.0).queries())
    (tmp_path / "set.inter").write_text("user_id:token\titem_id_list:token_seq\titem_id:token\nu\ta a\ta\n")
    with pytest.raises(ConfigError, match=r"set.inter: is already split into sequences: its column 'item_id_list'"):
        list(MovieLens(str(tmp_path)).queries())
    (tmp_path / "set.item").write_text("product:token\ttitle:token\na\tA\n")
    with pytest.raises(ConfigError, match=r"set.inter: has no column of set.item"):
        list(MovieLens(str(tmp_path)).queries())


def test_a_zip_archive_is_read_as_it_is(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", "ml-1m")
    with zipfile.ZipFile(tmp_path / "ml-1m.zip", "w") as archive:
        for file in folder.iterdir():
            archive.write(file, f"ml-1m/{file.name}")
    zipped, unpacked = MovieLens(str(tmp_path / "ml-1m.zip"), windows=WINDOWS), MovieLens(str(folder), windows=WINDOWS)
    assert list(zipped.candidates()) == list(unpacked.candidates())
    assert list(zipped.queries()) == list(unpacked.queries())


def test_low_ratings_can_be_left_out(tmp_path: Path) -> None:
    source = MovieLens(str(write(tmp_path / "data", "ml-1m")), windows=Windows(2, min_history=1), min_rating=3.0)
    assert [(each.id, each.history, list(each.relevant)) for each in source.queries()] == [
        ("7-2", ["2"], ["1"]),
        ("8-2", ["1"], ["3"]),
    ]


def test_a_rating_of_no_film_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", "ml-100k")
    with (folder / "u.data").open("a") as file:
        file.write("9\t99\t5\t1\n9\t1\tgood\t1\n")
    with pytest.raises(ConfigError) as error:
        list(MovieLens(str(folder), windows=WINDOWS).queries())
    assert "line 6: film: '99' is not in u.item" in str(error.value)
    assert "line 7: rating: found 'good', expected a number" in str(error.value)


@pytest.mark.parametrize("made", [True, False])
def test_a_folder_without_the_files_says_what_to_put_where(tmp_path: Path, made: bool) -> None:
    folder = tmp_path if made else tmp_path / "nowhere"
    with pytest.raises(ConfigError) as error:
        MovieLens(str(folder)).fingerprint()
    assert ("has no MovieLens files" if made else "no such file or folder") in str(error.value)
    assert "movies.dat and ratings.dat" in str(error.value) and "files.grouplens.org" in str(error.value)


def test_the_fingerprint_depends_on_files_and_options(tmp_path: Path) -> None:
    folder = str(write(tmp_path / "data", "latest"))
    fingerprint = MovieLens(folder).fingerprint()
    assert fingerprint == MovieLens(folder, windows=Windows(min_history=20)).fingerprint()
    others = [
        MovieLens(folder, windows=WINDOWS),
        MovieLens(folder, min_rating=4.0),
        MovieLens(),
        MovieLens(None, "ml-100k"),
    ]
    fingerprints = [fingerprint, *(other.fingerprint() for other in others)]
    assert all(one != other for place, one in enumerate(fingerprints) for other in fingerprints[:place])


def test_a_yaml_sets_the_windows() -> None:
    source = SOURCES.build({"name": "movielens", "path": "x", "windows": {"history": 5, "max_windows": 1}})
    assert isinstance(source, MovieLens) and source.windows == Windows(history=5, max_windows=1)
    with pytest.raises(ConfigError, match=r"min_history \(9\) must be from 1 to history \(5\)"):
        SOURCES.build({"name": "movielens", "windows": {"history": 5, "min_history": 9}}, path="features.source")
