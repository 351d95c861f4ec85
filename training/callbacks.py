"""Callbacks by name; the callbacks of every run are at the end of the file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from rich.console import Console
from torch.optim import Optimizer

from console.tables import print_table
from datamodules.group_data import GroupData
from features.reading.reference_outputs import ReferenceOutputs
from rankers.base import Ranker
from ranking.evaluation import Evaluation, Judged
from registry import CALLBACKS, ConfigError
from registry.ranges import Count, FilePath, NonNegative, Text
from training.results.length_controlled import MIN_QUERIES, LengthControlReport


@runtime_checkable
class Reporting(Protocol):
    """A callback with results of its own for `metrics.json`."""

    def results(self) -> dict[str, Any]:
        """The results, by name, as plain values; called after the test."""
        ...


@CALLBACKS.register("early_stopping")
def early_stopping(monitor: Text = "val/mrr", patience: Count = 3, min_delta: NonNegative = 0.0) -> EarlyStopping:
    """Stop training when the monitored value has not improved for several validations.

    Args:
        monitor: A validation metric, for which higher is better, or `train/loss`, for which lower is better.
        patience: Number of validations without an improvement before training stops.
        min_delta: The smallest change that counts as an improvement.
    """
    mode = "min" if monitor == "train/loss" else "max"
    # Not strict: at a validation before the first step, no loss is known.
    return EarlyStopping(monitor, patience=patience, min_delta=min_delta, mode=mode, strict=False)


@CALLBACKS.register("length_control")
class LengthControl(Callback):
    """Reports the length-controlled win rate on the test queries: AlpacaEval 2's (Dubois et al. 2024).

    For labels that are preferences for a candidate over a reference's output, from 0 to 1. A logistic model of the
    first choices' preferences says how often they would win if they were as long as the reference's: see
    `ranking.length_control`. It is fitted to all test queries together, for the ranker and for each reference beside
    it; `metrics.json` has the results as `length_control`, and loggers get `test/lc_win_rate`.

    Args:
        path: A folder with AlpacaEval's `alpaca_eval_gpt4_baseline.json` and `df_gamed.csv`; null downloads them to
            `data/downloads`. A file with `instruction` and `output` in each row also works: the model then has no term
            for the difficulty of an instruction, and is not regularized by the published comparisons.
        num_resamples: How often queries are drawn for the intervals.
    """

    def __init__(self, path: FilePath | None = None, num_resamples: Count = 200) -> None:
        self._path, self._num_resamples = path, num_resamples
        self._outputs: ReferenceOutputs | None = None
        self._report: LengthControlReport | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Read the reference outputs, and compare them with the data before any work is done."""
        if self._outputs is not None:
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, GroupData):
            raise ConfigError("callbacks.length_control", "queries over a pool have no preferences.", cure="groups")
        labels = data.store.label[~data.store.label.isnan()]
        if bool(((labels < 0) | (labels > 1)).any()):
            problem = f"needs preferences in [0, 1] as labels, these go from {labels.min():g} to {labels.max():g}."
            raise ConfigError("callbacks.length_control", problem, cure="data whose labels are preferences")
        self._outputs = ReferenceOutputs.read(self._path)
        known = sum(data.query_text(group).strip() in self._outputs.length for group in range(data.store.num_groups))
        if known < MIN_QUERIES:
            problem = f"has the reference outputs of {known} of the {data.store.num_groups:,} queries."
            cure = "the outputs that the candidates of these queries were compared with"
            raise ConfigError("callbacks.length_control.path", problem, cure=cure)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print and log the report."""
        if not trainer.is_global_zero:
            return
        data, outputs = trainer.datamodule, self._outputs  # type: ignore[attr-defined]
        assert isinstance(pl_module, Ranker) and isinstance(pl_module.evaluation, Evaluation) and outputs
        groups = pl_module.evaluation.queries.tolist()
        known = sum(data.query_text(group).strip() in outputs.length for group in groups)
        if known < MIN_QUERIES:
            line = f"length control is left out: {known} of the {len(groups):,} test queries have a reference output"
            Console(stderr=True).print(line, highlight=False, soft_wrap=True)
            return
        report = LengthControlReport.of(pl_module.name, pl_module.evaluation, data.store, outputs, self._num_resamples)
        for logger in trainer.loggers:
            logger.log_metrics({"test/lc_win_rate": report.scorers[pl_module.name].controlled.mean})
        print_table(Console(), report.table())
        self._report = report

    def results(self) -> dict[str, Any]:
        """The report; nothing if too few test queries have a reference output."""
        return {"length_control": self._report.results()} if self._report else {}


def in_training(trainer: Trainer) -> bool:
    """Whether training is in progress; validating the best checkpoint after training must not log again."""
    return trainer.state.fn == TrainerFn.FITTING


class FirstValidation(Callback):
    """Validates before the first step, so that the state before training can be the best checkpoint."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate, unless the run goes on from a later step."""
        if trainer.global_step:
            return
        for checkpoint in trainer.checkpoint_callbacks:
            if isinstance(checkpoint, ModelCheckpoint):
                # By default Lightning saves nothing before the first step.
                checkpoint._last_global_step_saved = -1
        trainer.validating = True
        trainer.fit_loop.epoch_loop.val_loop.run()
        trainer.training = True


class GradientNorm(Callback):
    """Logs the norm of all gradients, before clipping."""

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Log the norm at the steps that Lightning logs."""
        if (trainer.global_step + 1) % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            gradients = [weight.grad for weight in pl_module.parameters() if weight.grad is not None]
            pl_module.log("train/grad_norm", torch.nn.utils.get_total_norm(gradients))


class ReferenceLines(Callback):
    """Logs the baselines' metrics at every validation, so plots show them as straight lines."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log `baselines/<name>/<metric>`."""
        if not trainer.loggers or not trainer.is_global_zero or not in_training(trainer):
            return
        assert isinstance(pl_module, Ranker)
        lines = {
            f"baselines/{name}/{metric}": float(values.nanmean())
            for name, found in pl_module.evaluation.baselines(pl_module.metrics).items()
            for metric, values in found.items()
        }
        for logger in trainer.loggers:
            logger.log_metrics(lines, step=trainer.global_step)


class RankedSamples(Callback):
    """Logs a table of some queries with their ranked candidates, to loggers that support tables.

    Args:
        num_queries: Number of queries, spread evenly over the split.
        top_k: Number of candidates shown per query.
    """

    def __init__(self, num_queries: int = 10, top_k: int = 5) -> None:
        self._num_queries, self._top_k = num_queries, top_k

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log `val/samples`."""
        loggers = [logger for logger in trainer.loggers if hasattr(logger, "log_table")]
        if loggers and trainer.is_global_zero and in_training(trainer):
            assert isinstance(pl_module, Ranker)
            columns = ["query", "rank", "score", "label", "candidate"]
            rows = self._rows(pl_module.evaluation, trainer.datamodule)  # type: ignore[attr-defined]
            for logger in loggers:
                logger.log_table("val/samples", columns=columns, data=rows)  # type: ignore[attr-defined]

    def _rows(self, evaluation: Judged, datamodule: Any) -> list[list[Any]]:
        rankings = list(evaluation.rankings())
        places = torch.linspace(0, len(rankings) - 1, min(self._num_queries, len(rankings))).long()
        return [
            [datamodule.query_text(query), rank, score, label, datamodule.candidate_text(candidate)]
            for query, ranked in (rankings[place] for place in places.tolist())
            for rank, (candidate, score, label) in enumerate(ranked[: self._top_k], start=1)
        ]


class ScoreHistograms(Callback):
    """Logs the score distributions of right and wrong candidates, to loggers that support histograms."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log `val/scores/right` and `val/scores/wrong`."""
        if not trainer.is_global_zero or not in_training(trainer):
            return
        assert isinstance(pl_module, Ranker)
        right, wrong = pl_module.evaluation.right_and_wrong()
        spread = {"val/scores/right": right, "val/scores/wrong": wrong}
        for logger in trainer.loggers:
            log_histograms(logger, {name: scores for name, scores in spread.items() if len(scores)}, trainer)


class DrawnFindings(Callback):
    """Draws what validation chose besides the best checkpoint, for example the width and depth of scaling.

    Args:
        folder: The folder for the pictures.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the pictures, and log them to loggers that support images."""
        if not trainer.is_global_zero or in_training(trainer):
            return
        assert isinstance(pl_module, Ranker)
        for name, picture in pl_module.draw_findings(self._folder).items():
            for logger in trainer.loggers:
                if hasattr(logger, "log_image"):
                    logger.log_image(name, images=[str(picture)])  # type: ignore[attr-defined]


def log_histograms(logger: Any, spread: Mapping[str, torch.Tensor], trainer: Trainer) -> None:
    """Log distributions as histograms to W&B and TensorBoard; other loggers have none."""
    experiment = logger.experiment
    if hasattr(experiment, "add_histogram"):
        for name, scores in spread.items():
            experiment.add_histogram(name, scores, trainer.global_step)
    elif hasattr(logger, "log_table"):
        import wandb  # only imported if a W&B logger is already in use

        logger.log_metrics({name: wandb.Histogram(scores.tolist()) for name, scores in spread.items()})
