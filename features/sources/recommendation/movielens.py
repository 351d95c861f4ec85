"""movielens: predict a user's next film, among all films, from the films before it."""

from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from features.reading.downloads import Download, fetch
from features.reading.fields import LineError
from features.reading.lines import TextFile, find_file, number
from features.reading.recbole import AtomicFiles, AtomicItem, find_atomic_files
from features.sources.recommendation.histories import Histories, Windows
from features.texts.pools import PoolQuery, PoolText
from registry import SOURCES, ConfigError
from registry.ranges import FilePath, NonNegative

_GENRES_100K = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
_FILM_COLUMNS_100K = ("id", "title", "released", "video_released", "address", *_GENRES_100K)
_NO_GENRES = {"", "unknown", "(no genres listed)"}
_TERMS = "GroupLens's terms: for research, not for redistribution or commerce"
_SITE = "https://files.grouplens.org/datasets/movielens"
DEFAULT_WINDOWS = Windows()

DOWNLOADS = {
    "ml-1m": Download(
        f"{_SITE}/ml-1m.zip", _TERMS, 5_917_549, "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20"
    ),
    "ml-100k": Download(
        f"{_SITE}/ml-100k.zip", _TERMS, 4_924_029, "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229"
    ),
    "ml-latest-small": Download(f"{_SITE}/ml-latest-small.zip", _TERMS),
}


@SOURCES.register("movielens")
class MovieLens:
    """A query lists the films that a user rated just before the film to predict, newest first; the pool is all films.

    Read as published (ml-1m and ml-10m's `ratings.dat`, ml-100k's `u.data`, the later sets' `ratings.csv`), in a zip
    archive or unpacked. Any data set in RecBole's atomic format (`*.inter`, `*.item`) also works, with any items, with
    or without ratings: an item's text is its title and all columns of words.

    Args:
        path: The folder or zip archive; null downloads the edition to `data/downloads`.
        edition: The edition to download.
        windows: Which parts of a user's history become queries.
        min_rating: The lowest rating to use; lower ratings are left out.
    """

    def __init__(
        self,
        path: FilePath | None = None,
        edition: Literal["ml-1m", "ml-100k", "ml-latest-small"] = "ml-1m",
        windows: Windows = DEFAULT_WINDOWS,
        min_rating: NonNegative | None = None,
    ) -> None:
        self.path, self.download = path, DOWNLOADS[edition]
        self.windows, self.min_rating = windows, min_rating

    def fingerprint(self) -> dict[str, Any]:
        """The files or downloads, and the options."""
        origin = self.download.fingerprint if self.path is None else self._form.fingerprint
        return {"name": "movielens", **origin, "windows": self.windows.settings, "min_rating": self.min_rating}

    def candidates(self) -> Iterator[PoolText]:
        """Yield every film, with title, year and genres."""
        for film in self._films.values():
            yield PoolText(film.id, film.text, origin=f"film {film.id}")

    def queries(self) -> Iterator[PoolQuery]:
        """Yield one query for each window of each user.

        Raises:
            ConfigError: If no user's history is long enough.
        """
        films = self._films
        yield from self._histories.queries(self.windows, lambda item: films[item].title)

    def notes(self) -> list[str]:
        """What was left out of the ratings."""
        return self._histories.notes(self.windows)

    @cached_property
    def _histories(self) -> Histories:
        return Histories(self._ratings())

    @cached_property
    def _form(self) -> "_Form | AtomicFiles":
        folder = Path(self.path) if self.path else fetch(self.download)
        for form in _FORMS:
            if found := form(folder):
                return found
        problem = "has no MovieLens files." if folder.exists() else "no such file or folder."
        cure = (
            "set features.source.path to a folder with movies.dat and ratings.dat (ml-1m), u.item and u.data "
            f"(ml-100k), movies.csv and ratings.csv, or *.item and *.inter; {_SITE} has them"
        )
        raise ConfigError(str(folder), problem, cure=cure)

    @cached_property
    def _films(self) -> "dict[str, _Film | AtomicItem]":
        films: dict[str, _Film | AtomicItem] = {}
        for film in self._form.films():
            if (first := films.setdefault(film.id, film)) != film:
                problem = f"{film.id!r} stands for two films or items: {first.text[:60]!r} and {film.text[:60]!r}."
                raise ConfigError(str(self.path or self.download.path), problem, cure="give each a unique id")
        return films

    def _ratings(self) -> Iterator[tuple[str, str, float]]:
        for user, item, rating, time in self._form.ratings(self._films):
            if self.min_rating is not None and rating is None:
                problem = f"is set, but {self.path} has no ratings."
                raise ConfigError("features.source.min_rating", problem, cure="leave it out")
            if self.min_rating is None or (rating is not None and rating >= self.min_rating):
                yield user, item, time


@dataclass(frozen=True)
class _Film:
    id: str
    title: str
    genres: list[str]

    @property
    def text(self) -> str:
        return ". ".join(part for part in (self.title, ", ".join(self.genres)) if part)


@dataclass(frozen=True)
class _Form:
    """The format of films and ratings in one edition."""

    film_file: TextFile
    rating_file: TextFile
    film_separator: str
    rating_separator: str
    film_columns: tuple[str, ...] | None
    rating_columns: tuple[str, ...] | None
    film_fields: tuple[str, ...]
    rating_fields: tuple[str, ...]
    parse_film: Callable[..., _Film]

    @property
    def fingerprint(self) -> dict[str, Any]:
        return {"files": [self.film_file.fingerprint, self.rating_file.fingerprint]}

    def films(self) -> Iterator[_Film]:
        return self.film_file.rows(self.film_separator, self.film_fields, self.parse_film, self.film_columns)

    def ratings(self, films: Container[str]) -> Iterator[tuple[str, str, float, float]]:
        def parse(user: str, item: str, rating: str, time: str) -> tuple[str, str, float, float]:
            if item not in films:
                raise LineError("film", f"{item!r} is not in {self.film_file.name}")
            return user, item, number("rating", rating), number("timestamp", time)

        return self.rating_file.rows(self.rating_separator, self.rating_fields, parse, self.rating_columns)


def _film(id: str, title: str, genres: str) -> _Film:
    return _Film(id, title.strip() or f"film {id}", [each for each in genres.split("|") if each not in _NO_GENRES])


def _film_100k(id: str, title: str, *flags: str) -> _Film:
    return _film(id, title, "|".join(name for name, flag in zip(_GENRES_100K, flags, strict=True) if flag == "1"))


def _form_1m(folder: Path) -> _Form | None:
    # ml-1m is in Latin-1; ml-10m has the same format in UTF-8.
    films, ratings = (find_file(folder, name, encoding="latin-1") for name in ("movies.dat", "ratings.dat"))
    columns = ("id", "title", "genres"), ("user", "film", "rating", "time")
    return _Form(films, ratings, "::", "::", *columns, *columns, _film) if films and ratings else None


def _form_100k(folder: Path) -> _Form | None:
    films, ratings = (find_file(folder, name, encoding="latin-1") for name in ("u.item", "u.data"))
    columns = _FILM_COLUMNS_100K, ("user", "film", "rating", "time")
    fields = ("id", "title", *_GENRES_100K), columns[1]
    return _Form(films, ratings, "|", "\t", *columns, *fields, _film_100k) if films and ratings else None


def _form_csv(folder: Path) -> _Form | None:
    films, ratings = find_file(folder, "movies.csv"), find_file(folder, "ratings.csv")
    fields = ("movieId", "title", "genres"), ("userId", "movieId", "rating", "timestamp")
    return _Form(films, ratings, ",", ",", None, None, *fields, _film) if films and ratings else None


_FORMS: tuple[Callable[[Path], "_Form | AtomicFiles | None"], ...] = (
    _form_1m,
    _form_100k,
    _form_csv,
    find_atomic_files,
)
