"""Run page: `report.html` of a run, made from the files of its folder alone."""

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from ranking.figures import as_svg
from ranking.stores.files import write_file
from training.pages.figures import by_k_figure, curve_figure, histogram_figure
from training.pages.rendering import Numbers, Picture, picture, render
from training.pages.result_figures import result_figures
from training.pages.run_folder import RunFolder

PAGE = "report.html"

# The parts of `metrics.json` that the page shows in a place of their own.
_ABOUT_THE_RUN = ("config", "seed", "monitor", "num_parameters", "steps", "out_of_time", "seconds", "made_with")
_WITH_A_PLACE = (*_ABOUT_THE_RUN, "test", "val", "by_k", "scaling", "routing")
_LEVEL = 0.05
# References whose lines would press all others together.
_FAR_AWAY = ("oracle", "random")


def write_page(folder: Path) -> Path:
    """Write `report.html` of a run, whether it is finished or was stopped.

    Args:
        folder: The run's folder.

    Raises:
        ConfigError: If the folder holds no run.
    """
    write_file(folder / PAGE, run_page(RunFolder.read(folder)), cure="make room, then: python -m training report RUN")
    return folder / PAGE


def run_page(run: RunFolder) -> bytes:
    """The page of a run."""
    metrics, shown = run.metrics, run.shown
    test: Mapping[str, Any] = metrics.get("test", {})
    names = list(test["scorers"][run.ranker]) if test else []
    metric = main_metric(run)
    best = test.get("best_baseline", {}).get(metric)
    numbers = Numbers({"metrics.json": metrics, "report.json": shown})
    return render(
        "run.html.jinja",
        numbers,
        run=run,
        finished=bool(test),
        metrics=metrics,
        metric=metric,
        names=names,
        best=best,
        verdict=_verdict(test, best, metric) if best else "",
        p_values="p_values" in test,
        notes=_notes(test, run.ranker),
        sign=sign_of,
        scaling=metrics.get("scaling"),
        shade=_shade(metrics.get("scaling")),
        by_k=metrics.get("by_k"),
        by_k_picture=_by_k_picture(metrics["by_k"], run.ranker) if "by_k" in metrics else None,
        routing=metrics.get("routing"),
        others=_others(metrics),
        result_figures=result_figures(metrics),
        is_interval=is_interval,
        pictures=list(_pictures(run, metric)),
        no_curves=_why_no_curves(run),
        shown=shown,
        kind=_kind,
        facts=_facts(run, numbers),
        how_to_go_on=_how_to_go_on(run),
        instructions=list(_instructions(run)),
    )


def main_metric(run: RunFolder) -> str:
    """The metric that the run was watched by, or the first one if that was the loss."""
    watched = run.config["monitor"].removeprefix("val/")
    if not run.metrics:
        return watched
    names = run.metrics["test"]["scorers"][run.ranker]
    return watched if watched in names else next(iter(names))


def sign_of(found: Mapping[str, float | None]) -> str:
    """Whether an interval lies above or below zero."""
    low, high = found["low"], found["high"]
    if low is None or high is None:
        return ""
    return "better" if low > 0 else "worse" if high < 0 else ""


def _verdict(test: Mapping[str, Any], best: str, metric: str) -> str:
    """Whether a gain or a loss is significant at 5 %, by its p-value, in runs without one by its interval."""
    gain = test["differences"][best][metric]
    if "p_values" not in test:
        return sign_of(gain) or "open"
    p = test["p_values"][best][metric]
    if p is None or p >= _LEVEL:
        return "open"
    return "better" if gain["mean"] > 0 else "worse"


def _notes(test: Mapping[str, Any], ranker: str) -> str:
    notes = [f"{scorer} leaves out {number:,} of them." for scorer, number in test.get("left_out", {}).items()]
    if missing := test.get("judged_but_not_in_the_pool"):
        notes.append(
            f"{missing:,} judged candidates are not in the pool and count as never found; "
            f"“within the pool” is {ranker} without them."
        )
    return " ".join(notes)


def _kind(query: Mapping[str, Any]) -> str:
    gain = query["ours"] - query["theirs"]
    return "won" if gain > 0 else "lost" if gain < 0 else "level"


def _shade(scaling: Mapping[str, Any] | None) -> Any:
    values = [value for row in scaling["values"] for value in row] if scaling else []

    def shade(value: float) -> float:
        spread = max(values) - min(values)
        return (value - min(values)) / spread if spread else 0.0

    return shade


def _by_k_picture(found: Mapping[str, Any], ranker: str) -> Picture:
    metric = found["metric"]
    alt = f"Lines of {metric} against the number of responses, one a scorer; the numbers are in the table below."
    caption = f"{metric} on test; the band is the 95 % interval of {ranker}."
    return picture(as_svg(by_k_figure(found, (4.5, 3.6)), "by_k"), alt, caption)


def _pictures(run: RunFolder, metric: str) -> Iterator[Picture]:
    curves = run.curves
    if loss := curves.get("train/loss"):
        last = list(loss.values())[-1]
        alt = f"The training loss over {len(loss)} logged steps; the last one is {last:.4g}."
        yield picture(as_svg(curve_figure({"train/loss": loss}, "train/loss"), "loss"), alt, "Loss in training.")
    if values := curves.get(f"val/{metric}"):
        across = {
            name.split("/")[1]: list(curve.values())[-1]
            for name, curve in curves.items()
            if name.startswith("baselines/") and name.endswith(f"/{metric}")
        }
        beside = {name: value for name, value in across.items() if name not in _FAR_AWAY}
        left_out = " and ".join(name for name in _FAR_AWAY if name in across)
        step = max(values, key=lambda step: values[step])
        alt = f"{metric} on validation over the steps of training, highest at step {step} with {values[step]:.4g}; "
        alt += "references as lines across." if beside else "no references."
        caption = f"{metric} on validation; references as lines across{f', without {left_out}' if left_out else ''}."
        yield picture(as_svg(curve_figure({run.ranker: values}, metric, beside), "metric"), alt, caption)
    if scores := run.shown.get("scores"):
        right, wrong = (sum(scores[name]) for name in ("right", "wrong"))
        alt = f"Histograms of the test scores of {right} right and {wrong} wrong candidates."
        caption = f"Scores on test: {right:,} right and {wrong:,} wrong candidates, each as shares of their number."
        yield picture(as_svg(histogram_figure(scores), "scores"), alt, caption)


def _why_no_curves(run: RunFolder) -> str:
    if run.curves.get("train/loss") or run.curves.get(f"val/{main_metric(run)}"):
        return ""
    if not any(logger["name"] == "csv" for logger in run.config["logger"]):
        return "There are no curves of training here, since the config has no csv logger: logger=[csv, ...]."
    return "Nothing was logged in training: there was nothing to train, or the run was stopped at once."


def _others(metrics: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Results of other kinds by name: tables of columns and rows, where a row is its name and its cells' paths."""
    found = {}
    for name in metrics.keys() - {*_WITH_A_PLACE}:
        tables: dict[tuple[str, ...], list[Any]] = {}
        for path, columns in _rows(metrics[name], ("metrics.json", name)):
            row = " › ".join(path[2:]), [(*path, column) for column in columns]
            tables.setdefault(columns, []).append(row)
        found[name] = [*tables.items()]
    return dict(sorted(found.items()))


def _rows(found: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """The mappings within a result that hold values: the path of each, and the keys of its values."""
    if not isinstance(found, Mapping):
        yield path[:-1], path[-1:]
        return
    inner = [key for key, value in found.items() if isinstance(value, Mapping) and not is_interval(value)]
    if values := tuple(key for key in found if key not in inner):
        yield path, values
    for key in inner:
        yield from _rows(found[key], (*path, key))


def is_interval(value: Any) -> bool:
    """Whether a result is a mean with its interval."""
    return isinstance(value, Mapping) and value.keys() == {"mean", "low", "high"}


def _facts(run: RunFolder, numbers: Numbers) -> Iterator[tuple[str, Any]]:
    config, metrics = run.config, run.metrics
    source = (config.get("features") or {}).get("source") or {}
    yield "Ranker", run.ranker
    yield "Data", source.get("name") or config["datamodule"].get("path") or config["datamodule"]["name"]
    yield "Read by", config["datamodule"]["name"]
    yield "Seed", config["seed"]
    yield "Watched on validation", config["monitor"]
    if not metrics:
        return
    at = "metrics.json"
    yield "Weights that were trained", numbers.number(at, "num_parameters")
    yield "Steps", numbers.number(at, "steps")
    if metrics.get("out_of_time"):
        yield "Stopped by", "trainer.max_time"
    queries = (numbers.number(at, split, "queries") for split in ("val", "test"))
    yield "Queries", Markup("{} to validate, {} to test").format(*queries)
    seconds = [
        Markup("{} {} s").format(part, numbers.number(at, "seconds", part, places=1)) for part in metrics["seconds"]
    ]
    yield "Time", Markup(", ").join(seconds)
    made = metrics["made_with"]
    yield "Commit", made.get("commit") or "unknown: not run from a git checkout"
    yield "Versions", f"Python {made['python']}, torch {made['torch']}, lightning {made['lightning']}"
    yield "Machine", made.get("gpu") or f"{made['cores']} cores; threads of torch: {made['threads']}"
    yield "Started in", made.get("folder", "unknown")


def _how_to_go_on(run: RunFolder) -> str:
    if "last.ckpt" in run.files:
        return "What it had learnt is kept; the command to go on is below."
    return "Nothing was saved before that; the command to run it again is below."


def _instructions(run: RunFolder) -> Iterator[tuple[str, str]]:
    """What to do with the run: words, and the lines to type."""
    folder = shlex.quote(str(run.path))
    if not run.metrics and "last.ckpt" in run.files:
        yield "Go on with it:", f"python train.py --resume {folder}"
    if "best.ckpt" in run.files and run.metrics:
        yield "Use it in Python:", _use(run)
    commit = run.metrics.get("made_with", {}).get("commit")
    before = f"git checkout {commit.removesuffix('+changes')}\n" if commit else ""
    words = "Run it again, with the same code and settings"
    if commit and commit.endswith("+changes"):
        words += " (the code had changes that were not committed)"
    yield f"{words}:", f"{before}python train.py --config {folder}/config.yaml"
    if run.metrics:
        yield "Judge its rankings again by ir-measures:", f"python -m training verify {folder}"
    yield (
        "Write this page again, or compare runs:",
        (f"python -m training report {folder}\npython -m training compare {folder} OTHER_RUN"),
    )


def _use(run: RunFolder) -> str:
    path = str(run.path)
    if run.ranker == "lranker":
        return (
            "from serving.searcher import Searcher\n\n"
            f'searcher = Searcher.from_pretrained({path!r}, pool="data/my_pool")\n'
            'for found in searcher.rank(["a query"], top_k=10)[0]:\n'
            "    print(found.score, found.id, found.text)"
        )
    features, extra = run.config.get("features") or {}, run.config["ranker"].get("extra") or []
    if extra or (features.get("name") == "embedding" and not features.get("encoder")):
        known = "".join(f", {name}={name}" for name in ("answer" if each == "agreement" else each for each in extra))
        return (
            "from rankers.checkpoint import load_ranker\nfrom ranking.batch import FeatureBatch\n\n"
            f"ranker = load_ranker({path!r})\n"
            "# Vectors and values as in its features, for one query and its K candidates.\n"
            f"batch = FeatureBatch.of_group(query, candidates{known})\nprint(ranker(batch)[0].tolist())"
        )
    if run.config["datamodule"]["name"] in ("grouped_features", "text_groups"):
        return (
            "from serving.reranker import Reranker\n\n"
            f"reranker = Reranker.from_pretrained({path!r})\n"
            'for document in reranker.rank("a query", ["a document", "another one"]):\n'
            "    print(document.score, document.text)"
        )
    return f"from rankers.checkpoint import load_ranker\n\nranker = load_ranker({path!r})"
