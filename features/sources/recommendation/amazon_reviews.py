"""amazon_reviews: predict a user's next product in a category from the products that the user reviewed before."""

import ast
import html
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import MinLen

from features.reading.downloads import Download, fetch_all
from features.reading.fields import LineError
from features.reading.lines import TextFile, find_file, number
from features.sources.recommendation.histories import Histories, Windows
from features.texts.pools import PoolQuery, PoolText
from features.texts.subsets import draw_key
from registry import SOURCES, ConfigError
from registry.ranges import FilePath, NonNegative, Text

_TERMS = "no licence is stated; McAuley Lab, UCSD, asks to be cited"
_SNAP = "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles"
_LAB = "https://mcauleylab.ucsd.edu/public_datasets/data"
_ADDRESSES = {
    2014: (f"{_SNAP}/reviews_{{}}_5.json.gz", f"{_SNAP}/meta_{{}}.json.gz"),
    2018: (f"{_LAB}/amazon_v2/categoryFilesSmall/{{}}_5.json.gz", f"{_LAB}/amazon_v2/metaFiles2/meta_{{}}.json.gz"),
    2023: (
        f"{_LAB}/amazon_2023/benchmark/5core/rating_only/{{}}.csv.gz",
        f"{_LAB}/amazon_2023/raw/meta_categories/meta_{{}}.jsonl.gz",
    ),
}
_REVIEW_FILES = ("reviews_{}_5.json", "{}_5.json", "reviews_{}.json", "{}.json", "{}.csv", "{}.jsonl")
_PRODUCT_FILES = ("meta_{}.json", "meta_{}.jsonl")
_USER, _TIME, _RATING = ("user_id", "reviewerID"), ("timestamp", "unixReviewTime"), ("rating", "overall")
# In 2023 the variants of a product share a parent, and the metadata lists only parents.
_ITEM = ("parent_asin", "asin")

DEFAULT_WINDOWS = Windows()
Field = Literal["title", "brand", "categories", "description"]


@SOURCES.register("amazon_reviews")
class AmazonReviews:
    """A query lists the products that a user reviewed just before the product to predict, newest first.

    Read as published, gzipped or not: the 5-core reviews of 2014 and 2018 (`reviews_Toys_and_Games_5.json`,
    `Toys_and_Games_5.json`), the reviews of 2023 (`Toys_and_Games.jsonl`) or their ratings (`Toys_and_Games.csv`), and
    the products' `meta_Toys_and_Games.json` or `.jsonl`.

    Args:
        path: The folder with the files; null downloads the edition to `data/downloads`.
        category: The category as in the names of the files.
        edition: The year of the edition to download: 5-core reviews and all products.
        pool: The candidates: only `reviewed` products, or `all` products of the metadata.
        more: Other categories, all of whose products are candidates too, as in LRanker's pools of up to 48M products.
        windows: Which parts of a user's reviews become queries.
        min_rating: The lowest rating to use; reviews with lower ratings are left out.
        fields: The fields that form a product's text.
    """

    def __init__(
        self,
        path: FilePath | None = None,
        category: Text = "Toys_and_Games",
        edition: Literal[2014, 2018, 2023] = 2014,
        pool: Literal["reviewed", "all"] = "reviewed",
        windows: Windows = DEFAULT_WINDOWS,
        min_rating: NonNegative | None = None,
        fields: Annotated[list[Field], MinLen(1)] = ["title", "brand", "categories"],  # noqa: B006
        more: list[Text] = [],  # noqa: B006
    ) -> None:
        if category in more or len(set(more)) < len(more):
            raise ValueError(f"more: {max([category, *more], key=[category, *more].count)} is there twice")
        self.path, self.category, self.edition, self.pool = path, category, edition, pool
        self.windows, self.min_rating, self.fields, self.more = windows, min_rating, fields, more

    @property
    def downloads(self) -> list[Download]:
        """The downloads of reviews and products of the category, and of the products of other ones."""
        reviews, products = _ADDRESSES[self.edition]
        addresses = [reviews.format(self.category), *(products.format(each) for each in (self.category, *self.more))]
        return [Download(url, _TERMS, file=f"amazon_{self.edition}/{Path(url).name}") for url in addresses]

    def fingerprint(self) -> dict[str, Any]:
        """The files or downloads, and the options."""
        if self.path is None:
            files = [download.fingerprint for download in self.downloads]
        else:
            files = [file.fingerprint for file in self._files]
        options = {"pool": self.pool, "min_rating": self.min_rating, "fields": self.fields}
        return {"name": "amazon_reviews", "files": files, "windows": self.windows.settings, **options}

    def candidates(self) -> Iterator[PoolText]:
        """Yield the products in the order of the metadata, of other categories, then those without metadata."""
        reviewed = set(self._histories.items)
        for id, product, is_other in self._products(self._files[1:]):
            if is_other or self.pool == "all" or id in reviewed:
                reviewed.discard(id)
                yield PoolText(id, self._text(product) or id, origin=f"product {id}")
        for id in self._histories.items:
            if id in reviewed:
                yield PoolText(id, id, origin=f"product {id}")

    def queries(self) -> Iterator[PoolQuery]:
        """Yield one query for each window of each user.

        Raises:
            ConfigError: If no user has enough reviews.
        """
        reviewed, titles = set(self._histories.items), {}
        for id, product, _ in self._products(self._files[1:2]):
            if id in reviewed:
                titles[id] = _line(product.get("title")) or id
        yield from self._histories.queries(self.windows, lambda item: titles.get(item, item))

    def notes(self) -> list[str]:
        """What was left out of the reviews."""
        return self._histories.notes(self.windows)

    @cached_property
    def _histories(self) -> Histories:
        return Histories(self._reviews())

    @cached_property
    def _files(self) -> list[TextFile]:
        """The file of reviews, that of the products, and those of other categories' products."""
        folder = Path(self.path) if self.path is not None else fetch_all(self.downloads)
        found = []
        products = [(each, _PRODUCT_FILES) for each in (self.category, *self.more)]
        for category, patterns in ((self.category, _REVIEW_FILES), *products):
            names = [pattern.format(category) for pattern in patterns]
            file = next(filter(None, (find_file(folder, name) for name in names)), None)
            if file is None:
                problem = f"has no {' or '.join(names)}, gzipped or not." if folder.is_dir() else "no such folder."
                cure = (
                    "set features.source.path to a folder that has them, and features.source.category to the name in "
                    f"theirs; download: {' and '.join(each.url for each in self.downloads)}"
                )
                raise ConfigError(str(folder), problem, cure=cure)
            found.append(file)
        return found

    def _reviews(self) -> Iterator[tuple[str, str, float]]:
        file = self._files[0]
        if ".csv" in file.path.suffixes:
            rows = file.rows(",", ("user_id", "parent_asin", "timestamp", "rating"), _csv_review)
        else:
            rows = file.parsed(_json_review)
        for user, item, time, rating in rows:
            if self.min_rating is None or rating >= self.min_rating:
                yield user, item, time

    def _products(self, files: Sequence[TextFile]) -> Iterator[tuple[str, dict[str, Any], bool]]:
        """Yield every product once, and whether it is of another category; many occur twice in some editions."""
        seen: set[bytes] = set()
        for place, file in enumerate(files):
            for id, product in file.parsed(_product):
                key = draw_key("", id)
                if key not in seen:
                    seen.add(key)
                    yield id, product, place > 0

    def _text(self, product: Mapping[str, Any]) -> str:
        values = {
            "title": _line(product.get("title")),
            "brand": _named("Brand", product.get("brand") or product.get("store")),
            "categories": _named("Categories", product.get("categories") or product.get("category")),
            "description": _line(product.get("description")),
        }
        return ". ".join(values[field] for field in self.fields if values[field])


def _record(line: str) -> dict[str, Any]:
    """A line of JSON, or a Python literal as in the metadata of 2014."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        try:
            record = ast.literal_eval(line)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise LineError("", "neither JSON nor a Python literal") from None
    if not isinstance(record, dict):
        raise LineError("", f"found a {type(record).__name__}, expected an object {{...}}")
    return record


def _product(line: str) -> tuple[str, dict[str, Any]]:
    record = _record(line)
    return str(_first(record, _ITEM)), record


def _json_review(line: str) -> tuple[str, str, float, float]:
    record = _record(line)
    user, item, time, rating = (str(_first(record, names)) for names in (_USER, _ITEM, _TIME, _RATING))
    return user, item, number("timestamp", time), number("rating", rating)


def _csv_review(user: str, item: str, time: str, rating: str) -> tuple[str, str, float, float]:
    return user, item, number("timestamp", time), number("rating", rating)


def _first(record: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    for name in names:
        if record.get(name) is not None:
            return record[name]
    raise LineError(names[-1], f"missing; expected {' or '.join(names)}")


def _named(name: str, value: Any) -> str:
    line = _line(value, " > ")
    return f"{name}: {line}" if line else ""


def _line(value: Any, separator: str = " ") -> str:
    """A value as one line of text: all items of a list, or all items of the first list in a list of lists."""
    if isinstance(value, list):
        parts = value[0] if value and isinstance(value[0], list) else value
        return separator.join(filter(None, map(_line, parts)))
    text = " ".join(html.unescape(value).split()) if isinstance(value, str) else ""
    # Some titles of 2018 are scripts of the web page.
    return "" if "getTime()" in text else text
