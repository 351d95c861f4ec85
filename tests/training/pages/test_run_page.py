"""A run's page: its numbers are those of metrics.json, its texts do no harm, and every kind of run has one."""

import json
import re
import shutil
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ranking.evaluation import Evaluation, Scored
from registry import ConfigError, load_config
from registry.config import to_yaml
from training import __main__ as command
from training import run as runs
from training.pages.figures import rows_figure
from training.pages.run_folder import RunFolder
from training.pages.run_page import run_page, write_page
from training.pages.shown import shown
from training.results.report import Report

pytestmark = pytest.mark.pictures

HOSTILE = {
    "script": "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "quotes": "\"'`> onmouseover=alert(1) </details></main>",
    "template": "{{ 7 * 7 }} {% raw %} {# #}",
    "bidi": "\u202egnp.exe\u2066 \u05e9\u05dc\u05d5\u05dd",
    "controls": "a\x00b\x1b[31m\r\nc\ud800d",
    "unicode": "naïve 日本語 👩‍👩‍👧‍👦 \U0001f600",
    "empty": "",
    "long": "<&>\"'" * 200_000,
}
METRICS = {"hit": lambda above, tied, labels, relevant: (relevant & (above == 0)).any(dim=1).double()}
VOID = {"meta", "link", "br", "input", "img", "hr", "source"}


class Page(HTMLParser):
    """What a page says, read by an HTML parser: elements, text, and every number with its place."""

    def __init__(self, content: bytes) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.numbers: list[tuple[str, str, str]] = []
        self.text, self._open, self._number = "", [], None
        self.feed(content.decode())
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.elements.append((tag, given))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "data":
            self._number = given

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        self._number = None if tag == "data" else self._number

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._number is not None:
            self.numbers.append((self._number["data-at"], self._number["value"], data))


def value_at(documents: Mapping[str, Any], place: str) -> Any:
    """What a json document holds at a place such as metrics.json/test/queries."""
    found: Any = documents
    for key in place.split("/"):
        key = key.replace("~1", "/").replace("~0", "~")
        found = found[int(key) if isinstance(found, list) else key]
    return found


def check_numbers(page: Page, documents: Mapping[str, Any]) -> set[str]:
    """Every number of a page is the one of its document, as text too; returns their places."""
    for place, value, text in page.numbers:
        assert float(value) == value_at(documents, place), place
        written = float(text.replace("−", "-").replace(",", ""))
        decimals = len(text.partition(".")[2])
        assert written == pytest.approx(float(value), abs=0.5000001 * 10.0**-decimals), (place, text)
    return {place for place, *_ in page.numbers}


@pytest.fixture(scope="module")
def finished(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run; tests that change its files use a copy."""
    options = [
        "ranker={name: list_ranker, projection: {name: linear, dim: 8}, temperature: 0.2}",
        f"datamodule={{name: grouped_features, path: {store}, batch_size: 32, eval_draws: 2, num_candidates: 4}}",
        "trainer={max_epochs: 2, accelerator: cpu, enable_progress_bar: false}",
        f"runs={tmp_path_factory.mktemp('runs')}",
    ]
    return runs.train(load_config(None, options), "tiny").path


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the run whose page has no figures, which take most of the time."""
    copy = tmp_path / "tiny" / finished.name
    shutil.copytree(finished, copy, ignore=shutil.ignore_patterns("csv", "*.ckpt"))
    change(copy / "report.json", scores=None)
    return copy


def page_of(run: Path) -> Page:
    return Page((run / "report.html").read_bytes())


def change(file: Path, **changes: Any) -> dict[str, Any]:
    content = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps(content))
    return content


def test_every_number_of_the_page_is_the_one_of_the_runs_own_files(finished: Path) -> None:
    metrics, others = (json.loads((finished / name).read_text()) for name in ("metrics.json", "report.json"))
    places = check_numbers(page_of(finished), {"metrics.json": metrics, "report.json": others})
    for split in ("test", "val"):
        for scorer, found in metrics[split]["scorers"].items():
            for metric in found:
                at = f"metrics.json/{split}/scorers/{scorer}/{metric}"
                assert {f"{at}/mean", f"{at}/low", f"{at}/high"} <= places
    for scorer, found in metrics["test"]["differences"].items():
        for metric in found:
            assert f"metrics.json/test/differences/{scorer}/{metric}/mean" in places
            assert f"metrics.json/test/p_values/{scorer}/{metric}" in places


def test_the_page_needs_nothing_else_and_lets_no_request_out(finished: Path) -> None:
    content = (finished / "report.html").read_bytes()
    assert len(content) < 1_000_000
    page = Page(content)
    for tag, given in page.elements:
        for name in ("src", "href", "srcset", "action", "data", "poster", "xlink:href"):
            assert given.get(name, "#").startswith(("#", "data:,")), (tag, given)
        assert not any(name.startswith("on") for name in given), (tag, given)
    assert not re.search(rb"url\((?!#)|@import|https?://|//cdn", content)
    policy = next(given["content"] for tag, given in page.elements if "http-equiv" in given)
    assert policy.startswith("default-src 'none';") and "unsafe-inline" not in policy.partition("script-src")[2]


def test_tables_figures_and_fields_have_names(finished: Path) -> None:
    page = page_of(finished)
    tags = [tag for tag, _ in page.elements]
    assert tags.count("h1") == 1 and tags.count("main") == 1 and ("html", {"lang": "en"}) in page.elements
    assert tags.count("table") == tags.count("caption") >= 3 and tags.count("figure") == tags.count("figcaption") == 3
    assert all("scope" in given for tag, given in page.elements if tag == "th")
    pictures = [given for _, given in page.elements if given.get("role") == "img"]
    assert len(pictures) == tags.count("svg") == 3 and all(len(given["aria-label"]) > 20 for given in pictures)
    ids = [given["id"] for _, given in page.elements if "id" in given]
    assert len(ids) == len({*ids})
    labelled = {given["for"] for tag, given in page.elements if tag == "label"}
    assert {given["id"] for tag, given in page.elements if tag in ("input", "select")} <= labelled
    targets = {given["href"].removeprefix("#") for tag, given in page.elements if tag == "a"}
    assert targets <= {*ids}


def test_queries_are_won_and_lost_as_the_values_of_each_query_say(finished: Path) -> None:
    found = json.loads((finished / "report.json").read_text())
    rows = [line.split(",") for line in (finished / "per_query.csv").read_text().splitlines()]
    column = rows[0].index(found["metric"])
    ours, theirs = (
        {row[0]: float(row[column]) for row in rows if row[1] == name} for name in ("list_ranker", found["reference"])
    )
    gains = {query: ours[query] - theirs[query] for query in ours}
    assert found["won"] == sum(gain > 0 for gain in gains.values())
    assert (
        found["lost"] == sum(gain < 0 for gain in gains.values()) and found["tied"] == 24 - found["won"] - found["lost"]
    )
    shown_gains = [gains[query["id"]] for query in found["shown"]]
    assert len(shown_gains) == 24 and shown_gains == sorted(shown_gains, reverse=True)
    run = [line.split() for line in (finished / "run.trec").read_text().splitlines()]
    for query in found["shown"]:
        ranked = [(int(row[3]), row[2]) for row in run if row[0] == f"{query['id']}#1"]
        assert [(each["rank"], each["id"]) for each in query["candidates"]] == ranked
        assert query["text"]["start"] == f"query {query['id'][1:]}"


def test_hostile_texts_are_shown_as_texts_and_long_ones_are_cut(finished: Path, run: Path) -> None:
    text = {name: {"start": text[:2000], "characters": len(text)} for name, text in HOSTILE.items()}
    candidate = {"rank": 1, "score": None, "label": None, "ranks": None}
    others = change(
        run / "report.json",
        shown=[
            {"id": own[:200], "text": text[name], "ours": 0.5, "theirs": 0.25}
            | {"candidates": [{**candidate, "id": own[:200], "text": text[name]}]}
            for name, own in HOSTILE.items()
        ],
    )
    write_page(run)
    before, page = page_of(finished), page_of(run)
    assert "alert(1)" in page.text and "{{ 7 * 7 }}" in page.text and "49" not in page.text.split("{{ 7")[1][:20]
    kinds = {tag for tag, _ in before.elements}
    assert {tag for tag, _ in page.elements} <= kinds, "no element comes out of a text"
    assert [tag for tag, _ in page.elements].count("script") == 1
    assert not any(letter in page.text for letter in "\u202e\u2066\x00\x1b\ud800")
    assert "U+202Egnp.exeU+2066 שלום" in page.text and "aU+0000bU+001B[31m\ncU+D800d" in page.text
    assert HOSTILE["unicode"] in page.text and "the whole text has 1,000,000 characters" in page.text
    check_numbers(page, {"metrics.json": json.loads((run / "metrics.json").read_text()), "report.json": others})


class Texts:
    """A datamodule of which only texts are asked."""

    def __init__(self, text: str) -> None:
        self._text = text

    def query_text(self, query: int) -> str:
        return self._text

    candidate_text = query_text

    def query_id(self, query: int) -> str:
        return f"q{query}"

    candidate_id = query_id


def evaluation(num_queries: int, num_candidates: int, *, references: bool = True) -> Evaluation:
    draw = torch.Generator().manual_seed(0)
    scores, theirs = torch.rand(2, num_queries, num_candidates, generator=draw)
    labels = (torch.rand(num_queries, num_candidates, generator=draw) > 0.5).float()
    slots = torch.arange(num_queries * num_candidates).view(num_queries, num_candidates)
    beside = {"first": Scored(theirs, labels, torch.ones_like(labels, dtype=torch.bool))}
    return Evaluation(torch.arange(num_queries), slots, labels, scores, beside if references else {})


def test_texts_of_a_megabyte_each_make_a_page_that_can_be_sent_by_mail(run: Path) -> None:
    found = evaluation(120, 20)
    report = Report.of("list_ranker", found, METRICS)
    others = shown(report, found, Texts(HOSTILE["long"]), "hit")  # type: ignore[arg-type]
    assert len(others["shown"]) == 100 and others["shown"][0]["text"]["characters"] == 1_000_000
    (run / "report.json").write_text(json.dumps(others))
    assert 100_000 < len(run_page(RunFolder.read(run))) < 3_000_000


def test_values_that_are_no_numbers_are_called_unknown(finished: Path, run: Path) -> None:
    content = json.loads((run / "metrics.json").read_text())
    nothing = {"mean": None, "low": None, "high": None}
    content["test"]["scorers"]["random"]["mrr"] = nothing
    content["test"]["differences"]["random"]["mrr"] = nothing
    content["test"]["p_values"]["random"]["mrr"] = None
    (run / "metrics.json").write_text(json.dumps(content))
    write_page(run)
    assert page_of(run).text.count("unknown") - page_of(finished).text.count("unknown") == 3


@pytest.mark.parametrize(
    ("gain", "p", "verdict"),
    [
        (0.1, 0.049, "significantly better"),
        (-0.1, 0.01, "significantly worse"),
        (0.1, 0.05, "no significant difference"),
    ],
)
def test_the_first_line_says_what_the_corrected_p_value_says(run: Path, gain: float, p: float, verdict: str) -> None:
    content = json.loads((run / "metrics.json").read_text())
    best = content["test"]["best_baseline"]["mrr"]
    content["test"]["differences"][best]["mrr"] = {"mean": gain, "low": gain - 0.01, "high": gain + 0.01}
    content["test"]["p_values"][best]["mrr"] = p
    (run / "metrics.json").write_text(json.dumps(content))
    write_page(run)
    assert f"over {best}, its best reference (p = {p:.4f}):\n{verdict}." in page_of(run).text


def test_results_of_every_kind_are_on_the_page(run: Path) -> None:
    mean = {"mean": 0.5, "low": 0.25, "high": 0.75}
    by_k = {"metric": "mrr", "ks": [1, 3], "draws": 10, "scorers": {"list_ranker": [mean, mean], "first": [mean, mean]}}
    scaling = {
        "width": 2,
        "depth": 1,
        "metric": "mrr",
        "widths": [2, 4],
        "values": [[0.1, 0.3], [0.1, 0.2]],
        "queries": 9,
    }
    earned = {"label": mean, "performance": mean, "cost": {"mean": None, "low": None, "high": None}}
    routing = {"queries": 24, "equal": 3, "scorers": {"list_ranker": earned}}
    cost = {"queries": 4, "calls": 12, "cached": 3, "seconds": 0.5, "faults": {"<b>": 1}, "kinds": ["a"], "name": None}
    asked = {"test": cost | {"a_query": {"calls": 3.0, "prompt_tokens": 400.0, "new_tokens": 20.5}}}
    controlled = {"win_rate": 0.5, "controlled": mean, "difference": None, "fit": {"phi": 0.5, "psi": None}}
    changed = {"before": {"mrr": 0.25}, "after": {"mrr": 0.75}, "change": {"mrr": mean}}
    found = change(
        run / "metrics.json",
        by_k=by_k,
        scaling=scaling,
        routing=routing,
        asked=asked,
        length_control={"queries": 24, "scorers": {"list_ranker": controlled, "first": controlled}},
        before_and_after={data: {"val": changed, "test": changed} for data in ("new", "old")},
        alone=0.25,
    )
    write_page(run)
    page = page_of(run)
    places = check_numbers(page, {"metrics.json": found, "report.json": json.loads((run / "report.json").read_text())})
    for place in (
        "by_k/scorers/first/1/low",
        "scaling/values/1/1",
        "alone",
        "before_and_after/old/test/change/mrr/low",
        "length_control/scorers/first/controlled/high",
        "routing/scorers/list_ranker/cost",
        "asked/test/calls",
    ):
        assert f"metrics.json/{place}" in places or place.endswith("cost"), place
    assert "width 2 and depth 1" in page.text and "test › faults" in page.text and "<b>" in page.text
    pictures = [given["aria-label"] for _, given in page.elements if given.get("role") == "img"]
    for words in (
        "Lines of mrr",
        "each scorer's first choice wins",
        "Tokens",
        "Shares of the answers",
        "training changed",
    ):
        assert sum(words in picture for picture in pictures) == 1, words


def test_rows_show_each_value_and_its_interval() -> None:
    mean = {"mean": 0.5, "low": 0.25, "high": 0.75}
    rows = {"mrr": {"new": mean, "old": 0.125}, "hit@1": {"new": {"mean": None, "low": None, "high": None}, "old": 0.5}}
    for kind, across in (("changes", 1), ("means", 0), ("amounts", 0)):
        figure = rows_figure(rows, "value", kind=kind)  # type: ignore[arg-type]
        [axes] = figure.axes
        assert [label.get_text() for label in axes.get_yticklabels()] == ["mrr", "hit@1"]
        shown = {line.get_label(): line for line in axes.lines if not str(line.get_label()).startswith("_")}
        assert shown["new"].get_xdata()[0] == 0.5 and np.isnan(shown["new"].get_xdata()[1])
        assert [*shown["old"].get_xdata()] == [0.125, 0.5]
        others = [[*line.get_xdata()] for line in axes.lines if line not in shown.values()]
        known = [ends for ends in others if not np.isnan(ends).any()]
        expected = [[0, 0.5], [0, 0.125], [0, 0.5]] if kind == "amounts" else [[0.25, 0.75]]
        assert known == expected + [[0, 0]] * across


def test_a_run_without_an_own_report_or_csv_files_is_shown_as_far_as_it_is_known(run: Path) -> None:
    (run / "report.json").unlink()
    write_page(run)
    page = page_of(run)
    assert "Results" in page.text and "Queries won and lost" not in page.text and "Nothing was logged" in page.text


def test_a_ranker_that_reads_more_than_texts_is_not_said_to_rank_texts(run: Path) -> None:
    (run / "best.ckpt").touch()
    found = RunFolder.read(run)
    assert b"reranker.rank(" in run_page(found)
    extra = to_yaml({**found.config, "ranker": {**found.config["ranker"], "extra": ["num_tokens", "agreement"]}})
    own = to_yaml({**found.config, "features": {"name": "embedding", "encoder": None, "source": {"name": "jsonl"}}})
    for config, said in ((extra, b"candidates, num_tokens=num_tokens, answer=answer)"), (own, b"candidates)")):
        (run / "config.yaml").write_text(config)
        page = run_page(RunFolder.read(run))
        assert b"Reranker" not in page and b"FeatureBatch.of_group(query, " + said in page


def test_a_run_that_was_stopped_has_a_page_that_says_how_to_go_on(run: Path) -> None:
    for name in ("metrics.json", "report.json", "per_query.csv", "run.trec", "report.html"):
        (run / name).unlink()
    for version, lines in (
        ("version_2", "step,train/loss\n5,1.5\n7,2.5\n"),
        ("version_10", "step,train/loss,lr\n7,0.5,1\n9,2.5,1e"),
    ):
        (run / "csv" / version).mkdir(parents=True)
        (run / "csv" / version / "metrics.csv").write_text(lines)
    (run / "last.ckpt").touch()
    assert RunFolder.read(run).curves["train/loss"] == {5: 1.5, 7: 0.5}, "resumed at 7, killed while 9 was written"
    assert command.main(["report", str(run)]) == 0
    page = page_of(run)
    assert "stopped before the end of its test" in page.text and f"train.py --resume {run}" in page.text
    assert "Loss in training." in page.text and not page.numbers


def test_a_run_stopped_by_a_signal_writes_its_page(
    run_config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "_finish", interrupted)
    with pytest.raises(runs.InterruptedRunError, match="stopped after training"):
        runs.train(load_config(run_config()), "run")
    [page] = tmp_path.glob("runs/run/*/report.html")
    assert "stopped before the end of its test" in Page(page.read_bytes()).text


def test_a_run_whose_page_cannot_be_written_ends_well_and_says_why(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def broken(*_: Any) -> dict[str, Any]:
        raise RuntimeError("no <text> here")

    monkeypatch.setattr(runs, "shown", broken)
    data = f"datamodule={{name: grouped_features, path: {store}, batch_size: 32}}"
    without_weights = ["ranker.name=cosine", "references=[random]", data, f"runs={tmp_path}", "logger=null"]
    run = runs.train(load_config(None, [*without_weights, "trainer.enable_progress_bar=false"]), "run")
    said = capsys.readouterr()
    assert "report.html could not be written: RuntimeError: no <text> here" in said.err
    assert f"python -m training report {run.path}" in said.err and "report.html, " not in said.out
    write_page(run.path)
    page = page_of(run.path)
    assert "no csv logger" in page.text and "Use it in Python" not in page.text and "over random" in page.text


def test_a_run_without_references_shows_its_queries_without_saying_that_they_are_won(run: Path) -> None:
    found = evaluation(24, 3, references=False)
    report = Report.of("list_ranker", found, METRICS)
    others = shown(report, found, Texts("a"), "hit")  # type: ignore[arg-type]
    (run / "report.json").write_text(json.dumps(others))
    change(run / "metrics.json", test={**report.results(), **report.tests()})
    write_page(run)
    page = page_of(run)
    assert "Queries won and lost" not in page.text and "gains over" not in page.text
    tags = [tag for tag, _ in page.elements]
    assert tags.count("details") == 24 + 2 and "select" not in tags


def test_a_folder_that_is_no_run_or_is_damaged_is_named(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["report", str(tmp_path)]) == 1
    assert "no run: there is no config.yaml in it" in capsys.readouterr().err
    for name, content in (("metrics.json", "{"), ("report.json", "null"), ("metrics.json", "[]")):
        (run / name).write_text(content)
        with pytest.raises(ConfigError, match=f"{name}: damaged, or of something else than a run"):
            RunFolder.read(run)
        (run / name).unlink()
