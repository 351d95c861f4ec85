"""Comparison page: several runs side by side, in one HTML file."""

import shlex
from collections.abc import Iterator
from pathlib import Path

from ranking.figures import as_svg
from ranking.stores.files import as_json, write_file
from registry import ConfigError
from training.pages.comparison import Comparison
from training.pages.figures import by_k_figure, curve_figure
from training.pages.rendering import Numbers, Picture, picture, render
from training.pages.run_page import main_metric, sign_of

_NUM_QUERIES = 100
_CURE = "make room, or choose another place: --into FILE.html"


def write_comparison(comparison: Comparison, into: Path, metric: str | None = None) -> None:
    """Write a comparison as a page, and its numbers beside it as json.

    Args:
        comparison: The runs.
        into: The page, a name that ends in `.html`.
        metric: By which curves and queries are compared; None for the one that the first run was watched by.

    Raises:
        ConfigError: If the runs do not have the metric, or the name does not end in `.html`.
    """
    if into.suffix != ".html":
        raise ConfigError("--into", f"{into} does not end in .html.", cure="a name such as comparison.html")
    watched = main_metric(next(iter(comparison.runs.values())))
    usual = watched if watched in comparison.metrics else comparison.metrics[0]
    if metric is not None and metric not in comparison.metrics:
        raise ConfigError("--metric", f"not all runs have {metric}.", given=metric, known=comparison.metrics)
    write_file(into, comparison_page(comparison, metric or usual), cure=_CURE)
    write_file(into.with_suffix(".json"), as_json(comparison.results()), cure=_CURE)


def comparison_page(comparison: Comparison, metric: str) -> bytes:
    """The page of a comparison."""
    runs = comparison.runs
    documents = {f"{letter}/metrics.json": run.metrics for letter, run in runs.items()}
    per_query = {f"{letter}/per_query.csv": run.per_query for letter, run in runs.items()}
    return render(
        "comparison.html.jinja",
        Numbers({**documents, **per_query, "comparison.json": comparison.results()}),
        comparison=comparison,
        runs=runs,
        metric=metric,
        sign=sign_of,
        same=all(len(run.per_query) == len(comparison.queries) for run in runs.values()),
        best={each: _best(comparison, each) for each in comparison.metrics},
        pictures=list(_pictures(comparison, metric)),
        settings=comparison.differing_settings(),
        queries=comparison.most_different(metric, _NUM_QUERIES),
        texts=_texts(comparison),
        again=shlex.join(["python", "-m", "training", "compare", *(str(run.path) for run in runs.values())]),
    )


def _best(comparison: Comparison, metric: str) -> float:
    return max(run.metrics["test"]["scorers"][run.ranker][metric]["mean"] for run in comparison.runs.values())


def _pictures(comparison: Comparison, metric: str) -> Iterator[Picture]:
    runs = comparison.runs
    for name, words in (("train/loss", "Loss in training"), (f"val/{metric}", f"{metric} on validation")):
        curves = {letter: curve for letter, run in runs.items() if (curve := run.curves.get(name))}
        if curves:
            alt = f"{words} over the steps, one line a run: {', '.join(curves)}."
            yield picture(as_svg(curve_figure(curves, name), name), alt, f"{words}, one line a run.")
    found = [run.metrics.get("by_k") for run in runs.values()]
    first = found[0]
    if first and all(each and each["ks"] == first["ks"] and each["metric"] == first["metric"] for each in found):
        scorers = {letter: run.metrics["by_k"]["scorers"][run.ranker] for letter, run in runs.items()}
        svg = as_svg(by_k_figure({**first, "scorers": scorers}, (4.5, 3.4)), "by_k")
        words = f"{first['metric']} on test by the number of responses, one line a run"
        yield picture(svg, f"{words}.", f"{words}; the band is the 95 % interval of A.")


def _texts(comparison: Comparison) -> dict[str, str]:
    """The texts of queries that the runs' own reports show, by id."""
    return {
        query["id"]: query["text"]["start"] for run in comparison.runs.values() for query in run.shown.get("shown", ())
    }
