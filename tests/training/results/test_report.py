"""A report's table says what is known: no negative zero, no interval of one query, nan where a value is no number."""

import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor

from console.tables import print_table
from training.results.report import Report, write_per_query


def printed(report: Report, width: int = 80) -> str:
    file = io.StringIO()
    print_table(Console(file=file, width=width), report.table("test"))
    return file.getvalue()


def report(**scorers: Tensor) -> Report:
    ours = next(iter(scorers.values()))
    return Report("ranker", {name: {"mrr": values} for name, values in scorers.items()}, range(len(ours)))


def test_a_ranker_that_does_as_its_baseline_differs_by_nothing_rather_than_by_less_than_nothing() -> None:
    values = torch.linspace(0, 1, 40, dtype=torch.float64)
    text = printed(report(first=values + 1e-9, ranker=values))
    assert "-0.000" not in text and "0.000..0.000" in text and "over first" in text


def test_one_query_has_no_interval() -> None:
    text = printed(report(first=torch.tensor([0.5]), ranker=torch.tensor([0.25])))
    assert text.startswith("test: 1 query, which has no interval\n") and "inf" not in text
    assert "-0.250" in text


def test_a_value_that_is_no_number_is_shown_as_such_and_spoils_no_other() -> None:
    values = torch.linspace(0, 1, 40, dtype=torch.float64)
    spoilt = values.clone()
    spoilt[3] = torch.nan
    found = report(first=values / 2, odd=spoilt, ranker=values)
    text = printed(found)
    assert text.count("nan") == 1 and "over first" in text
    assert found.best_baseline("mrr") == "first"
    assert json.loads(json.dumps(found.results()))["scorers"]["odd"]["mrr"] == {"mean": None, "low": None, "high": None}


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120])
def test_the_whole_of_a_report_is_printed_at_any_width(width: int) -> None:
    values = torch.linspace(0, 1, 40, dtype=torch.float64)
    metrics = {f"metric_{place}": values * 10.0**place for place in range(-9, 10, 2)}
    found = Report(
        "ranker", {"first": {name: 0.9 * each for name, each in metrics.items()}, "ranker": metrics}, range(40)
    )
    text = printed(found, width)
    assert "…" not in text and all(name in text for name in metrics)
    assert "5.000e+08" in text and "+5.000e+07" in text


def test_a_scorer_that_leaves_out_queries_is_compared_on_the_others_and_the_report_says_how_many(
    tmp_path: Path,
) -> None:
    ours, lacking = torch.tensor([1.0, 0.0, 0.5, 1.0]), torch.tensor([False, True, False, True])
    beam = {"mrr": torch.tensor([0.5, torch.nan, 1.0, torch.nan])}
    values = {"first": {"mrr": ours / 2}, "beam": beam, "ranker": {"mrr": ours}}
    found = Report("ranker", values, range(4), left_out={"beam": lacking})
    assert found.means["beam"]["mrr"].mean == 0.75 and found.differences["beam"]["mrr"].mean == 0
    assert found.best_baseline("mrr") == "beam" and found.results()["left_out"] == {"beam": 2}
    assert "4 queries, 95 % bootstrap intervals; beam leaves out 2" in printed(found)
    write_per_query(tmp_path / "per_query.csv", found, str)
    rows = (tmp_path / "per_query.csv").read_text().splitlines()
    assert [row for row in rows if "beam" in row] == ["0,beam,0.5", "2,beam,1.0"] and len(rows) == 1 + 4 + 2 + 4
    nowhere = Report("ranker", values, range(4), left_out={"beam": torch.ones(4, dtype=torch.bool)})
    assert nowhere.best_baseline("mrr") == "first" and "nan" in printed(nowhere)


def test_votes_weighted_by_the_ranker_itself_are_shown_but_are_no_rival() -> None:
    values = torch.linspace(0, 1, 40, dtype=torch.float64)
    found = report(first=values / 2, weighted_majority=2 * values, ranker=values)
    assert found.best_baseline("mrr") == "first" and "weighted_majority" in found.differences
    assert report(weighted_majority=2 * values, ranker=values).best_baseline("mrr") is None
