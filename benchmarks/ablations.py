"""Ablations: what each part of LRanker adds on the quickstart's pool (LRanker, figure 4)."""

from collections.abc import Callable

from benchmarks.cells import Cells, Column, Finding
from console.decimals import decimal, interval


def _metric(scorer: str | None, metric: str) -> Column:
    def value(cell: Finding) -> float | None:
        return cell["scorers"].get(scorer or "lranker", {}).get(metric)

    return value


def _gain(cell: Finding) -> str:
    difference = cell["differences"]["encoder"]["mrr"]
    bounds = interval(difference["low"], difference["high"], signed=True)
    return f"{decimal(difference['mean'], signed=True)} [{bounds}]"


def _scaling(cell: Finding) -> str | None:
    chosen = cell["scaling"]
    return f"{chosen['width']} x {chosen['depth']}" if chosen else None


COLUMNS: dict[str, Callable[[Finding], float | str | None]] = {
    "mrr": _metric(None, "mrr"),
    "w/o scaling: mrr": _metric("depth 0", "mrr"),
    "ndcg@10": _metric(None, "ndcg@10"),
    "recall@10": _metric(None, "recall@10"),
    "mrr over the encoder [95 %]": _gain,
    "width x depth": _scaling,
}

TABLE = Cells(
    name="ablations",
    question="What does each part of LRanker add? Test, lranker_quickstart.yaml",
    config="lranker_quickstart.yaml",
    variants={
        "LRanker": [],
        "w/o global info": ["ranker.aggregator=null"],
        "w/o LoRA": ["ranker.lora=null"],
    },
    columns=COLUMNS,
    seeds=(0, 1, 2),
)
