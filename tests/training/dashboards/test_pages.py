"""The workspace and the report of a project are those of a saved form, and show what runs log."""

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from registry import ConfigError
from registry.config import CONFIGS
from training.__main__ import main
from training.dashboards.pages import report_of, workspace_of
from training.dashboards.project import METRICS, Project
from training.loggers import wandb_id

with warnings.catch_warnings(action="ignore"):  # it uses what its own dependencies call deprecated
    pytest.importorskip("wandb_workspaces.workspaces")

SAVED = Path(__file__).with_name("pages.json")
PROJECT = Project("team", "rankers", ["mrr"], ["first", "oracle"], ["run-1"], ["table1"])


def plain(page: Any) -> Any:
    """What was chosen of a page, as plain values: without defaults, and without ids, which are random."""
    if isinstance(page, list | tuple):
        return [plain(each) for each in page]
    if not dataclasses.is_dataclass(page):
        return page
    chosen: dict[str, Any] = {"": type(page).__name__}
    for field in dataclasses.fields(page):
        value = getattr(page, field.name)
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        if (not field.name.startswith("_") or field.name == "_auto_generate_panels") and value != default:
            chosen[field.name] = plain(value)
    return chosen


def test_workspace_and_report_are_those_of_the_saved_form() -> None:
    made = {"workspace": plain(workspace_of(PROJECT)), "report": plain(report_of(PROJECT))}
    assert made == json.loads(SAVED.read_text())


def test_they_become_what_the_server_is_sent_without_one() -> None:
    workspace, report = workspace_of(PROJECT), report_of(PROJECT)
    for sent in (workspace._to_model(), report._to_model()):
        text = sent.model_dump_json(by_alias=True, exclude_none=True)
        for key in ("val/mrr", "baselines/oracle/mrr", "val/samples", "test/by_k", "val/scaling", "tables/table1"):
            assert f'"{key}"' in text or f'\\"{key}\\"' in text, key


def test_finished_runs_say_what_the_panels_show(tmp_path: Path) -> None:
    folders = [tmp_path / "run" / name for name in ("1", "2")]
    for folder, metric, reference in zip(folders, ("mrr", "ndcg@5"), ("bm25", "first"), strict=True):
        folder.mkdir(parents=True)
        scorers = {name: {metric: {}} for name in (reference, "lranker", "within the pool", "oracle")}
        content = {"test": {"scorers": scorers, "differences": {reference: {}}}}
        (folder / "metrics.json").write_text(json.dumps(content))
    project = Project.of("team", "rankers", folders)
    assert (project.metrics, project.references) == (["mrr", "ndcg@5"], ["bm25", "oracle", "first"])
    assert project.runs == ["run-1", "run-2"]
    assert Project.of("team", "rankers").metrics == METRICS
    assert set(project.tables) == {file.stem for file in (CONFIGS / "tables").glob("*.yaml")}
    with pytest.raises(ConfigError, match=r"not a finished run: it has no metrics.json"):
        Project.of("team", "rankers", [tmp_path])
    for damaged in ('{"test": {', '{"test": {"scorers": {}}}'):
        (folders[0] / "metrics.json").write_text(damaged)
        with pytest.raises(ConfigError, match=r"metrics\.json: damaged, or of something else than a run"):
            Project.of("team", "rankers", folders)


def test_a_run_keeps_the_id_that_a_sweep_gave_it(tmp_path: Path) -> None:
    folder = tmp_path / "quick" / "2026-01-31_12-00-00"
    assert wandb_id(folder) == "quick-2026-01-31_12-00-00"
    (folder / "wandb" / "offline-run-20260201_120000-later").mkdir(parents=True)
    (folder / "wandb" / "run-20260131_120000-of-a-sweep").mkdir()
    assert wandb_id(folder) == "of-a-sweep"


def test_without_a_key_the_commands_say_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert main(["dashboard", "team/rankers"]) == main(["sweep", "table8.yaml"]) == 1
    told = capsys.readouterr()
    assert "table8: 40 runs of list_ranker_math.yaml; every value fits" in told.out
    assert told.err.count("W&B is offline here or has no key") == 2
    assert "without W&B: python -m benchmarks table8" in told.err
    assert main(["dashboard", "rankers"]) == 1
    assert "not a project of W&B" in capsys.readouterr().err


def test_the_dashboard_needs_its_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["dashboard", "team/rankers"]) == 1
    assert 'pip install -c constraints.txt -e ".[dashboard]"' in capsys.readouterr().err


def test_pages_and_sweeps_reach_the_server_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from wandb_workspaces.reports.v2 import Report
    from wandb_workspaces.workspaces import Workspace

    sent: list[Any] = []

    def save(page: Any) -> Any:
        sent.append(page)
        return type("Saved", (), {"url": f"https://example.org/{len(sent)}"})

    def sweep(content: dict[str, Any], **where: Any) -> str:
        sent.append((content, where))
        return "abc"

    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    monkeypatch.setattr(Workspace, "save", save)
    monkeypatch.setattr(Report, "save", save)
    monkeypatch.setattr("wandb.sweep", sweep)
    assert main(["dashboard", "team/rankers"]) == 0
    assert [type(page).__name__ for page in sent] == ["Workspace", "Report"]
    assert capsys.readouterr().out == "workspace: https://example.org/1\nreport: https://example.org/2\n"
    assert main(["sweep", "table8.yaml", "seed=3", "--entity", "team", "--config", "point_ranker_math.yaml"]) == 0
    content, where = sent[-1]
    assert where == {"entity": "team", "project": "rankers"}
    assert content["command"][-4:] == ["point_ranker_math.yaml", "logger=wandb", "seed=3", "${args_no_hyphens}"]
    assert "wandb agent team/rankers/abc" in capsys.readouterr().out


def test_a_grid_that_does_not_fit_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.yaml"
    text = (CONFIGS / "sweeps" / "table8.yaml").read_text()
    file.write_text(text.replace("[constant, cosine]", "[constant, cosin]"))
    assert main(["sweep", str(file)]) == 1
    assert "cosine" in capsys.readouterr().err
    for wrong, instead in (("command:", "commands:"), ("{values: [constant, cosine]}", "{value: cosine}"), ("{", "[")):
        file.write_text(text.replace(wrong, instead))
        assert main(["sweep", str(file)]) == 1
        assert f"{file}: {'not valid yaml' if instead == '[' else 'is no grid'}: " in capsys.readouterr().err
    assert main(["sweep", "table9.yaml"]) == 1
    assert "Known:        table8.yaml, table8_rm.yaml" in capsys.readouterr().err
