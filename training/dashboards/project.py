"""Project: what the runs of a W&B project log, and the panels that show it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry import ConfigError
from registry.config import CONFIGS
from training.loggers import wandb_id
from training.results.report import BOUND
from training.results.run_files import read_json, reading

STEP = "trainer/global_step"
METRICS = ("hit@1", "mrr", "ndcg@10")
REFERENCES = ("first", "random", "stored", "cosine", "bm25", "encoder", BOUND)
CURVES = ("train/loss", "train/grad_norm", "lr", "train/positive_in_partition")
PICTURES = {"by K": "test/by_k", "scaling map": "val/scaling", "responses": "responses"}
TABLES = {"results": "test/results", "samples": "val/samples", "by K": "test/by_k/table"}


@dataclass(frozen=True)
class Project:
    """A project, and what its panels show.

    Args:
        entity: The W&B user or team.
        name: The W&B project.
        metrics: The metrics that have panels.
        references: The references that are lines in the panels of metrics.
        runs: The ids of runs in which the references' lines are dashed.
        tables: The tables of `python -m benchmarks NAME --wandb`.
    """

    entity: str
    name: str
    metrics: Sequence[str] = METRICS
    references: Sequence[str] = REFERENCES
    runs: Sequence[str] = ()
    tables: Sequence[str] = ()

    @classmethod
    def of(cls, entity: str, name: str, folders: Sequence[Path] = ()) -> "Project":
        """A project with the metrics and references of finished runs; without runs, with the usual ones.

        Raises:
            ConfigError: If a folder is no finished run's, or its results are damaged.
        """
        tables = sorted(file.stem for file in (CONFIGS / "tables").glob("*.yaml"))
        if not folders:
            return cls(entity, name, tables=tables)
        metrics: dict[str, None] = {}
        references: dict[str, None] = {}
        for folder in folders:
            if not (found := read_json(folder / "metrics.json")):
                raise ConfigError(str(folder), "not a finished run: it has no metrics.json.")
            with reading(folder / "metrics.json"):
                scorers, beside = found["test"]["scorers"], (*found["test"]["differences"], BOUND)
                metrics |= dict.fromkeys(metric for values in scorers.values() for metric in values)
            references |= dict.fromkeys(scorer for scorer in scorers if scorer in beside)
        return cls(entity, name, list(metrics), list(references), [wandb_id(folder) for folder in folders], tables)

    def quality(self) -> list[Any]:
        """A curve for each metric on the validation queries, with the references as lines."""
        from wandb_workspaces.reports.v2 import interface as reports

        lines = {metric: [f"baselines/{name}/{metric}" for name in self.references] for metric in self.metrics}
        return [
            reports.LinePlot(
                title=metric,
                x=STEP,
                y=[f"val/{metric}", *beside],
                title_x="step",
                line_marks={f"{run}:{line}": "dashed" for run in self.runs for line in beside} or None,
            )
            for metric, beside in lines.items()
        ]

    def test(self) -> list[Any]:
        """The metrics on the test queries as bars, and the table of all scorers."""
        from wandb_workspaces.reports.v2 import interface as reports

        bars = [reports.BarPlot(title=f"test {metric}", metrics=[f"test/{metric}"]) for metric in self.metrics]
        return [*bars, reports.WeavePanelSummaryTable(table_name=TABLES["results"])]

    def training(self) -> list[Any]:
        """Loss, gradient norm, learning rate and, of LRanker, how often the right candidate is in the context."""
        from wandb_workspaces.reports.v2 import interface as reports

        return [reports.LinePlot(title=curve, x=STEP, y=[curve], title_x="step") for curve in CURVES]

    def picture(self, what: str) -> list[Any]:
        """A picture, with its table where it has one."""
        from wandb_workspaces.reports.v2 import interface as reports

        table = [reports.WeavePanelSummaryTable(table_name=TABLES[what])] if what in TABLES else []
        return [reports.MediaBrowser(title=what, media_keys=[PICTURES[what]], num_columns=2), *table]

    def samples(self) -> list[Any]:
        """The table of queries with their ranked candidates."""
        from wandb_workspaces.reports.v2 import interface as reports

        return [reports.WeavePanelSummaryTable(table_name=TABLES["samples"], layout=reports.Layout(w=24, h=12))]

    def papers(self) -> list[Any]:
        """The papers' tables with our numbers and theirs in brackets, and their plots."""
        from wandb_workspaces.reports.v2 import interface as reports

        shown = [reports.WeavePanelSummaryTable(table_name=f"tables/{table}") for table in self.tables]
        plots = [f"tables/{table}/plot" for table in self.tables]
        return [*shown, reports.MediaBrowser(title="plots", media_keys=plots, num_columns=2)] if plots else shown
