"""amazon_reviews reads the editions of 2014, 2018 and 2023, whose files name the same things differently."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from features.sources.recommendation.amazon_reviews import AmazonReviews
from features.sources.recommendation.histories import Windows
from features.texts.pools import PoolQuery
from registry import SOURCES, ConfigError

EDITIONS = ["2014", "2018", "2023", "2023 ratings"]
WINDOWS = Windows(history=2)
# Users, products, ratings, times: A reviews the products in the order P2, P3, P1 and B in the order P1, P4.
REVIEWS = [
    ("A", "P1", 5.0, 300),
    ("A", "P2", 1.0, 100),
    ("B", "P1", 4.0, 50),
    ("A", "P3", 3.0, 200),
    ("B", "P4", 5.0, 60),
]


def review(user: str, item: str, rating: float, time: int, edition: str) -> dict[str, Any]:
    if edition == "2023":
        return {"rating": rating, "title": "Ok", "asin": "V9", "parent_asin": item, "user_id": user, "timestamp": time}
    return {"reviewerID": user, "asin": item, "reviewText": "Ok", "overall": rating, "unixReviewTime": time}


def product(id: str, edition: str) -> dict[str, Any]:
    if id == "P3":
        return {"parent_asin" if edition.startswith("2023") else "asin": id}
    if edition == "2014":
        return {
            "asin": id,
            "title": f"Toy &amp; {id}'s",
            "brand": "ACME",
            "categories": [["Toys", "Puzzles"], ["Other"]],
        }
    if edition == "2018":
        return {
            "asin": id,
            "title": f"Toy & {id}'s",
            "brand": "ACME",
            "category": ["Toys", "Puzzles"],
            "description": [],
        }
    return {"parent_asin": id, "title": f"Toy & {id}'s", "store": "ACME", "categories": ["Toys", "Puzzles"]}


def write(folder: Path, edition: str, *, zipped: bool = False) -> Path:
    """The reviews above; the metadata has P1 to P3 and P5, of which P1 twice, and nothing of P4."""
    folder.mkdir()
    names = {
        "2014": ("reviews_Toys_5.json", "meta_Toys.json"),
        "2018": ("Toys_5.json", "meta_Toys.json"),
        "2023": ("Toys.jsonl", "meta_Toys.jsonl"),
        "2023 ratings": ("Toys.csv", "meta_Toys.jsonl"),
    }[edition]
    products = [product(id, edition) for id in ("P1", "P2", "P1", "P5", "P3")]
    if edition == "2023 ratings":
        rows = [f"{user},{item},{rating},{time}" for user, item, rating, time in REVIEWS]
        reviews = ["user_id,parent_asin,rating,timestamp", *rows]
    else:
        reviews = [json.dumps(review(*each, edition)) for each in REVIEWS]
    metadata = [repr(each) if edition == "2014" else json.dumps(each) for each in products]
    for name, lines in zip(names, (reviews, metadata), strict=True):
        content = "".join(f"{line}\n" for line in lines).encode()
        (folder / (f"{name}.gz" if zipped else name)).write_bytes(gzip.compress(content) if zipped else content)
    return folder


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("edition", EDITIONS)
def test_every_edition_gives_the_same_products_and_queries(tmp_path: Path, edition: str, zipped: bool) -> None:
    folder = write(tmp_path / "data", edition, zipped=zipped)
    source = AmazonReviews(str(folder), "Toys", windows=WINDOWS)
    found = [(each.id, each.text) for each in source.candidates()]
    assert found == [
        ("P1", "Toy & P1's. Brand: ACME. Categories: Toys > Puzzles"),
        ("P2", "Toy & P2's. Brand: ACME. Categories: Toys > Puzzles"),
        ("P3", "P3"),
        ("P4", "P4"),
    ]
    expected = PoolQuery(
        "A-3", "Newest to oldest: P3; Toy & P2's", {"P1": 1.0}, "test", history=["P2", "P3"], user="A", origin="user A"
    )
    assert list(source.queries()) == [expected] == list(source.queries())


def test_all_products_of_the_metadata_can_be_the_pool(tmp_path: Path) -> None:
    source = AmazonReviews(str(write(tmp_path / "data", "2018")), "Toys", pool="all")
    assert [each.id for each in source.candidates()] == ["P1", "P2", "P5", "P3", "P4"]


def test_short_histories_and_low_ratings(tmp_path: Path) -> None:
    windows = Windows(history=20, min_history=1)
    source = AmazonReviews(str(write(tmp_path / "data", "2023")), "Toys", windows=windows, min_rating=2.0)
    assert [(each.id, list(each.relevant), each.split) for each in source.queries()] == [
        ("A-2", ["P1"], "test"),
        ("B-2", ["P4"], "test"),
    ]


def test_a_products_text_is_made_of_the_wanted_fields(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    write(folder, "2018")
    lines = [
        {
            "asin": "P1",
            "title": "var x = new Date().getTime();",
            "description": ["Soft,", "&lt;b&gt;round&lt;/b&gt;", ""],
        },
        {"asin": "P2", "title": " One\n line ", "brand": None, "description": "None"},
    ]
    (folder / "meta_Toys.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    node = {"name": "amazon_reviews", "path": str(folder), "category": "Toys", "fields": ["description", "title"]}
    source = SOURCES.build(node)
    texts = {each.id: each.text for each in source.candidates()}  # type: ignore[attr-defined]
    assert texts == {"P1": "Soft, <b>round</b>", "P2": "None. One line", "P3": "P3", "P4": "P4"}


def test_bad_lines_are_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", "2014")
    with (folder / "reviews_Toys_5.json").open("a") as file:
        file.write('{"asin": "P1"\n{"asin": "P1", "overall": 1, "unixReviewTime": 1}\n[1]\n__import__("os")\n')
    with pytest.raises(ConfigError) as error:
        list(AmazonReviews(str(folder), "Toys").queries())
    for problem in (
        "lines 6 and 9: neither JSON nor a Python literal",
        "line 7: reviewerID: missing; expected user_id or reviewerID",
        "line 8: found a list, expected an object {...}",
    ):
        assert problem in str(error.value)


def test_missing_files_are_named_with_where_to_get_them(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", "2014")
    with pytest.raises(ConfigError) as error:
        AmazonReviews(str(folder)).fingerprint()
    assert "has no reviews_Toys_and_Games_5.json or Toys_and_Games_5.json" in str(error.value)
    assert "snap.stanford.edu" in str(error.value)
    (folder / "meta_Toys.json").unlink()
    with pytest.raises(ConfigError, match=r"has no meta_Toys\.json or meta_Toys\.jsonl, gzipped or not"):
        AmazonReviews(str(folder), "Toys").fingerprint()
    with pytest.raises(ConfigError, match="no such folder"):
        AmazonReviews(str(tmp_path / "nowhere"), "Toys").fingerprint()


def test_the_fingerprint_depends_on_files_and_options(tmp_path: Path) -> None:
    folder = str(write(tmp_path / "data", "2023"))
    sources = [AmazonReviews(), AmazonReviews(edition=2023), AmazonReviews(folder, "Toys")]
    sources += [AmazonReviews(folder, "Toys", pool="all"), AmazonReviews(folder, "Toys", windows=WINDOWS)]
    fingerprints = [source.fingerprint() for source in sources]
    assert AmazonReviews(folder, "Toys").fingerprint() == fingerprints[2]
    assert all(one != other for place, one in enumerate(fingerprints) for other in fingerprints[:place])


def test_an_edition_is_a_year() -> None:
    source = SOURCES.build({"name": "amazon_reviews", "edition": 2023, "category": "Video_Games"})
    assert [each.path.as_posix() for each in source.downloads] == [  # type: ignore[attr-defined]
        "data/downloads/amazon_2023/Video_Games.csv.gz",
        "data/downloads/amazon_2023/meta_Video_Games.jsonl.gz",
    ]


def test_products_of_other_categories_are_candidates_too(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", "2023")
    others = [{"parent_asin": id, "title": f"Other {id}"} for id in ("P1", "P4", "X1", "X1")]
    (folder / "meta_Books.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in others))
    source = AmazonReviews(str(folder), "Toys", edition=2023, windows=WINDOWS, more=["Books"])
    texts = [each.text for each in source.candidates()]
    assert [text.split(".")[0] for text in texts] == ["Toy & P1's", "Toy & P2's", "P3", "Other P4", "Other X1"]
    alone = AmazonReviews(str(folder), "Toys", edition=2023, windows=WINDOWS)
    assert list(source.queries()) == list(alone.queries())
    assert source.fingerprint() != alone.fingerprint()
    assert [Path(each.url).name for each in source.downloads] == [
        "Toys.csv.gz",
        "meta_Toys.jsonl.gz",
        "meta_Books.jsonl.gz",
    ]
    node = {"name": "amazon_reviews", "path": str(folder), "category": "Toys", "more": ["Toys"]}
    with pytest.raises(ConfigError, match="more: Toys is there twice"):
        SOURCES.build(node, path="source")
    with pytest.raises(ConfigError, match=r"has no meta_Games.json or meta_Games.jsonl"):
        list(AmazonReviews(str(folder), "Toys", more=["Games"]).candidates())
