"""A comparison's numbers are those of the runs, and its tests are paired by query."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import permutation_test
from test_run_page import Page, check_numbers

from registry import ConfigError
from registry.config import to_yaml
from training import __main__ as command
from training.pages.comparison import Comparison
from training.pages.run_folder import RunFolder

pytestmark = pytest.mark.pictures


@pytest.fixture
def write_run(tmp_path: Path) -> Callable[..., Path]:
    """Write what a finished run leaves, with given values of mrr for each query."""

    def write(name: str, values: dict[str, float], **options: Any) -> Path:
        run = tmp_path / "runs" / name
        (run / "csv" / "version_0").mkdir(parents=True)
        config = {"ranker": {"name": "list_ranker"}, "monitor": "val/mrr", "logger": [], **options}
        (run / "config.yaml").write_text(to_yaml(config))
        mean = {"mean": float(np.mean([*values.values()])), "low": 0.1, "high": 0.9}
        test = {"queries": len(values), "scorers": {"list_ranker": {"mrr": mean}}}
        by_k = {"metric": "mrr", "ks": [1, 3], "draws": 10, "scorers": {"list_ranker": [mean, mean]}}
        (run / "metrics.json").write_text(json.dumps({"test": test, "by_k": by_k}))
        (run / "csv" / "version_0" / "metrics.csv").write_text("step,train/loss,val/mrr\n0,1.0,\n1,,0.5\n")
        with (run / "per_query.csv").open("w") as file:
            rows = [(query, scorer, value) for scorer in ("first", "list_ranker") for query, value in values.items()]
            csv.writer(file).writerows([("query_id", "scorer", "mrr"), *rows])
        return run

    return write


def test_pairs_are_tested_on_common_queries_and_every_number_is_that_of_a_file(
    write_run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw = np.random.default_rng(0)
    names = ["<b>q</b>", *(f"q{place}" for place in range(29))]
    first, second, third = draw.random((3, 30)).round(3)
    runs = [
        write_run("one/1", dict(zip(names, first.tolist(), strict=True)), seed=0),
        write_run("one/2", dict(zip(reversed(names), (second + 0.2).tolist()[::-1], strict=True)), seed=1),
        write_run("two/1", {**dict(zip(names[:29], third.tolist(), strict=False)), "other": 0.5}, seed=0, extra=None),
    ]
    into = tmp_path / "three.html"
    assert command.main(["compare", *map(str, runs), "--into", str(into)]) == 0
    printed = capsys.readouterr().out
    assert "29 common test queries" in printed and "B over A" in printed and str(into) in printed
    found, page = json.loads((tmp_path / "three.json").read_text()), Page(into.read_bytes())
    assert [(pair["run"], pair["over"]) for pair in found["pairs"]] == [("B", "A"), ("C", "A"), ("C", "B")]
    values = {"A": first[:29], "B": second[:29] + 0.2, "C": third[:29]}
    exact = {}
    for pair in found["pairs"]:
        ours, theirs = values[pair["run"]], values[pair["over"]]
        assert pair["gains"]["mrr"]["mean"] == pytest.approx((ours - theirs).mean())
        test = permutation_test((ours, theirs), lambda a, b: np.mean(a - b), permutation_type="samples", rng=0)
        exact[pair["run"] + pair["over"]] = test.pvalue
    for factor, name in zip((3, 2, 1), sorted(exact, key=lambda name: exact[name]), strict=True):
        [pair] = [pair for pair in found["pairs"] if pair["run"] + pair["over"] == name]
        assert pair["p_values"]["mrr"] >= min(1, factor * exact[name]) - 0.03
    documents: dict[str, Any] = {"comparison.json": found}
    for letter, run in zip("ABC", map(RunFolder.read, runs), strict=True):
        documents |= {f"{letter}/metrics.json": run.metrics, f"{letter}/per_query.csv": run.per_query}
    places = check_numbers(page, documents)
    assert "A~1metrics.json/test/scorers/list_ranker/mrr/mean" in places
    assert "<b>q</b>" in page.text and "b" not in {tag for tag, _ in page.elements}
    assert "only the paired tests below compare them" in page.text
    assert {"seed010", "extranot setnot setnull"} <= {*page.text.split("Settings that differ")[-1].split("\n")}
    tags = [tag for tag, _ in page.elements]
    assert tags.count("svg") == 3 and tags.count("table") == tags.count("caption") == 4


def test_runs_that_cannot_be_compared_are_named(
    write_run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = write_run("a/1", {"q": 0.5}), write_run("a/2", {"p": 0.5})
    with pytest.raises(ConfigError, match=r"the runs have no test query in common") as refused:
        Comparison.of([RunFolder.read(run) for run in (one, other)])
    assert "same test data" in str(refused.value)
    with pytest.raises(ConfigError, match="takes 2 to 26 runs, not 1"):
        Comparison.of([RunFolder.read(one)])
    assert command.main(["compare", str(one), str(one), "--metric", "mr", "--into", str(tmp_path / "x.html")]) == 1
    assert "not all runs have mr." in (said := capsys.readouterr().err) and "Did you mean: mrr" in said
    assert command.main(["compare", str(one), str(one), "--into", str(tmp_path / "x.htm")]) == 1
    assert "does not end in .html" in capsys.readouterr().err
    (other / "metrics.json").unlink()
    assert command.main(["compare", str(one), str(other)]) == 1
    assert "no finished run" in (said := capsys.readouterr().err) and f"train.py --resume {other}" in said
