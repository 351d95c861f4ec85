"""Command: python -m training dashboard and sweep, which write to the W&B server."""

import argparse
import importlib.util
import os
from pathlib import Path
from typing import Any

from registry import ConfigError

_DASHBOARD = """examples:
  python -m training dashboard my_team/rankers
  python -m training dashboard my_team/rankers runs/quickstart/2026-01-31_12-00-00

Curves with references as lines, test results, by K, the scaling map, samples and the papers' tables. With runs, panels
are for their metrics and references. Needs the extra `dashboard` and `wandb login`. Each call makes new pages."""
_SWEEP = """examples:
  python -m training sweep table8.yaml --project rankers
  python -m training sweep table8.yaml features.source.path=groups.jsonl --config list_ranker_jsonl.yaml

Checks every value of the grid against the config, then makes the sweep and prints the command of its agents. Needs
`wandb login`; without W&B, `python -m benchmarks table8` runs the same grid."""


def add_commands(commands: Any) -> None:
    """Add the commands to the parser of `python -m training`; each sets `run`."""
    dashboard = _add(commands, "dashboard", "write a W&B workspace and a report of a project", _DASHBOARD)
    dashboard.add_argument("project", help="ENTITY/PROJECT: the user or team, and the project")
    dashboard.add_argument("runs", type=Path, nargs="*", help="folders of finished runs of it")
    dashboard.set_defaults(run=_dashboard)
    sweep = _add(commands, "sweep", "make a W&B sweep over a grid of configs/sweeps", _SWEEP)
    sweep.add_argument("grid", help="a yaml of configs/sweeps, or a path")
    sweep.add_argument("--config", metavar="FILE", help="the config of the runs (default: the one in the yaml)")
    sweep.add_argument("--project", default="rankers", help="the W&B project (default: rankers)")
    sweep.add_argument("--entity", help="the W&B user or team (default: that of the key)")
    sweep.add_argument("overrides", nargs="*", metavar="key=value", help="options that all runs have")
    sweep.set_defaults(run=_sweep)


def _add(commands: Any, name: str, what: str, epilog: str) -> Any:
    description = f"{what[0].upper()}{what[1:]}."
    formatter = argparse.RawDescriptionHelpFormatter
    return commands.add_parser(name, help=what, description=description, epilog=epilog, formatter_class=formatter)


def _dashboard(chosen: argparse.Namespace) -> int:
    from training.dashboards.pages import report_of, workspace_of  # waits for torch
    from training.dashboards.project import Project

    entity, _, name = chosen.project.partition("/")
    if not entity or not name or "/" in name:
        raise ConfigError("project", "not a project of W&B.", given=chosen.project, cure="ENTITY/PROJECT")
    if importlib.util.find_spec("wandb_workspaces") is None:
        problem = "needs the package wandb-workspaces, which is not installed."
        raise ConfigError("dashboard", problem, cure='pip install -c constraints.txt -e ".[dashboard]"')
    project = Project.of(entity, name, chosen.runs)
    workspace, report = workspace_of(project), report_of(project)
    _check_key("dashboard")
    print(f"workspace: {workspace.save().url}\nreport: {report.save().url}")
    return 0


def _sweep(chosen: argparse.Namespace) -> int:
    from training.dashboards.sweep import Sweep

    sweep = Sweep.load(chosen.grid, chosen.config, chosen.overrides)
    print(f"{sweep.name}: {sweep.num_runs} runs of {sweep.config}; every value fits")
    _check_key("sweep", f"; without W&B: python -m benchmarks {sweep.name}")
    import wandb

    made = wandb.sweep(sweep.content, entity=chosen.entity, project=chosen.project)
    path = "/".join(part for part in (chosen.entity, chosen.project, made) if part)
    print(f"on each machine, in the repository's folder: wandb agent {path}")
    return 0


def _check_key(command: str, instead: str = "") -> None:
    from training.loggers import has_wandb_key

    if os.environ.get("WANDB_MODE", "online") != "online" or not has_wandb_key():
        problem = "writes to the W&B server, and W&B is offline here or has no key."
        raise ConfigError(command, problem, cure=f"wandb login, without WANDB_MODE{instead}")
