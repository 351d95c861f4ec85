"""Result figures: pictures of results that only some runs have: length control, costs of asking, before and after."""

from collections.abc import Iterator, Mapping
from typing import Any

from ranking.figures import as_svg
from training.pages.figures import Value, rows_figure
from training.pages.rendering import Picture, picture


def result_figures(metrics: Mapping[str, Any]) -> dict[str, list[Picture]]:
    """The pictures of results, by the result's name in `metrics.json`.

    Args:
        metrics: The content of a run's `metrics.json`.
    """
    drawn = {"length_control": _length_control, "asked": _asked, "before_and_after": _before_and_after}
    return {name: list(draw(metrics[name])) for name, draw in drawn.items() if metrics.get(name)}


def _length_control(found: Mapping[str, Any]) -> Iterator[Picture]:
    """Win rates of each scorer, with and without the length of its choices."""
    rows: dict[str, dict[str, Value]] = {
        scorer: {"at equal length": each["controlled"], "as it is": each["win_rate"]}
        for scorer, each in found["scorers"].items()
    }
    svg = as_svg(rows_figure(rows, "win rate", kind="means"), "length_control")
    words = "How often each scorer's first choice wins against the reference's output"
    yield picture(
        svg,
        f"{words}, one row a scorer, at equal length and as it is; the numbers are in the table below.",
        f"{words}: as it is, and as if both were equally long, with 95 % intervals.",
    )


def _asked(found: Mapping[str, Any]) -> Iterator[Picture]:
    """What the answers of a language model cost a query, and how many of them had faults."""
    splits = sorted(found)  # the test first
    tokens = {
        words: {split: found[split]["a_query"][name] for split in splits}
        for words, name in (("read", "prompt_tokens"), ("written", "new_tokens"))
    }
    if any(value for row in tokens.values() for value in row.values()):
        svg = as_svg(rows_figure(tokens, "tokens a query", kind="amounts"), "tokens")
        alt = "Tokens that the language model read and wrote for each query; the numbers are in the table below."
        yield picture(svg, alt, "Tokens that the language model read and wrote, the mean over queries.")
    counts = {split: {"from the cache": each["cached"], **each["faults"]} for split, each in found.items()}
    shares = {
        row: {split: counts[split].get(row, 0) / max(1, found[split]["calls"]) for split in splits}
        for row in dict.fromkeys(row for split in splits for row, count in counts[split].items() if count)
    }
    if shares:
        svg = as_svg(rows_figure(shares, "share of the answers", kind="amounts"), "answers")
        alt = "Shares of the answers that are from the cache or have a fault; their numbers are in the table below."
        yield picture(svg, alt, "Answers from the cache, and those with each fault; an answer can have several.")


def _before_and_after(found: Mapping[str, Any]) -> Iterator[Picture]:
    """What training changed on the test queries of the new data, and of the old ones where the run has them."""
    rows: dict[str, dict[str, Value]] = {
        metric: {f"{data} data": splits["test"]["change"][metric] for data, splits in found.items()}
        for metric in found["new"]["test"]["change"]
    }
    svg = as_svg(rows_figure(rows, "change by training", kind="changes"), "change")
    words = f"What training changed on the test queries of the {' and the '.join(found)} data"
    yield picture(
        svg, f"{words}, one row a metric; the numbers are in the table below.", f"{words}, with 95 % intervals."
    )
