"""Run: from a checked config to a trained, tested and reported ranker in a folder of its own."""

import dataclasses
import logging
import os
import platform
import subprocess
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint, RichProgressBar
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from rich.console import Console

from rankers.base import NonFiniteLossError, Ranker
from ranking.metrics import metric_name
from registry import CALLBACKS, DATAMODULES, EXTRACTORS, LOGGERS, RANKERS, ConfigError, RunConfig, schema
from registry.config import to_yaml
from training import callbacks, report
from training.resuming import LAST, InterruptedRunError, ResumePoint, StepSeed

RUN_DIR = "RANKERS_RUN_DIR"
CONFIG, BEST, METRICS = "config.yaml", "best.ckpt", "metrics.json"
DEFAULTS: dict[str, Any] = {"num_sanity_val_steps": 0, "log_every_n_steps": 10, "enable_model_summary": False}
OURS = ("logger", "callbacks", "default_root_dir", "use_distributed_sampler")


@dataclass(frozen=True)
class Run:
    """A finished run.

    Args:
        path: Its folder.
        metrics: What `metrics.json` holds.
    """

    path: Path
    metrics: Mapping[str, Any]


def check(config: RunConfig) -> None:
    """Refuse what the schema cannot see: trainer options, the monitored metric, options that contradict a store.

    Raises:
        ConfigError: For the first mistake.
    """
    _quiet()
    build_trainer(config, [], [])
    metrics = [f"val/{metric_name(node)}" for node in _ranker_node(config)["metrics"]]
    if config.monitor not in metrics:
        problem = f"{config.monitor!r} is not among what ranker.metrics reports."
        raise ConfigError("monitor", problem, given=config.monitor, known=metrics)
    if config.features is None and config.datamodule.get("path") is None:  # type: ignore[union-attr]
        cure = "name a store there, or say in a `features:` block how to build one"
        raise ConfigError("datamodule.path", "which store?", cure=cure)


def train(config: RunConfig, name: str, resume: Path | None = None) -> Run:
    """Build what the config names, fit with validation, test the best checkpoint, and report.

    Args:
        config: Checked.
        name: Of the config, for the run's folder.
        resume: Folder of a run to go on with.

    Raises:
        ConfigError: For what can be known to be wrong before training, and for a loss that is no number.
        InterruptedRunError: After Ctrl-C, when everything is saved.
    """
    check(config)
    started, console = time.time(), Console()
    seed_everything(config.seed, workers=True, verbose=False)
    node = dict(_as_mapping(config.datamodule))
    if config.features is not None:
        node["path"] = str(EXTRACTORS.build(config.features, path="features").run())
    datamodule: Any = DATAMODULES.build({"seed": config.seed} | node, path="datamodule")
    ranker_node = RANKERS.complete(config.ranker, datamodule.facts, "ranker")
    ranker = RANKERS.build(ranker_node, path="ranker")
    ranker.encoder = datamodule.store.encoder
    if datamodule.shared_negatives and not ranker.takes_shared_negatives:
        problem = f"{ranker_node['name']} scores candidates in the company of their group, not against others."
        raise ConfigError("datamodule.negatives", problem, cure="datamodule.negatives=group, or a ranker like point_ranker")

    config = dataclasses.replace(config, ranker=ranker_node)
    folder = _run_folder(config, name, resume)
    loggers = [LOGGERS.build(logger, run_dir=str(folder), path=f"logger[{i}]") for i, logger in enumerate(config.logger)]
    best = ModelCheckpoint(
        folder, Path(BEST).stem, monitor=config.monitor, mode="max", save_top_k=1, enable_version_counter=False
    )
    trainer = build_trainer(config, loggers, [best, *_callbacks(config, folder)], folder)
    _begin(config, folder, trainer, ranker, datamodule, console)
    try:
        trainer.fit(ranker, datamodule=datamodule, ckpt_path=_last(folder), weights_only=True)
    except NonFiniteLossError as error:
        ids = ", ".join(datamodule.query_ids(error.group))
        cure = f"a smaller ranker.optimizer.lr, or trainer.gradient_clip_val=1; the last good state is {folder}"
        raise ConfigError("train/loss", f"is not finite at step {error.step}; queries of that batch: {ids}.", cure=cure) from error
    except InterruptedRunError as error:
        raise InterruptedRunError(f"stopped at step {trainer.global_step}; go on with:\n  python train.py --resume {folder}") from error
    except ValueError as error:
        if not str(error).startswith(("batch_size", "no training group")):
            raise
        raise ConfigError("datamodule", f"{error}.") from error
    return _finish(config, folder, trainer, ranker, datamodule, best, started, console)


def build_trainer(
    config: RunConfig, loggers: list[Any], extra: list[Callback], folder: Path | None = None
) -> Trainer:
    """Lightning's Trainer, with every option under `trainer:` checked.

    Raises:
        ConfigError: For an unknown option, a value that does not fit, or hardware that is not there.
    """
    for option in OURS:
        if option in config.trainer:
            raise ConfigError(f"trainer.{option}", "is set by the run itself.", cure="see the keys `logger`, `callbacks`, `runs`")
    given = {**DEFAULTS, **config.trainer}
    bound = schema.bind(Trainer, given, "trainer")
    fixed = {"logger": loggers, "callbacks": extra, "default_root_dir": folder, "use_distributed_sampler": False}
    try:
        return Trainer(**{key: bound[key] for key in given}, **fixed)
    except (MisconfigurationException, ValueError, ImportError, RuntimeError) as error:
        raise ConfigError("trainer", str(error)) from error


def _callbacks(config: RunConfig, folder: Path) -> list[Callback]:
    chosen = [CALLBACKS.build(node, path=f"callbacks[{place}]") for place, node in enumerate(config.callbacks)]
    always: list[Callback] = [StepSeed(config.seed), callbacks.GradientNorm(), callbacks.ReferenceLines()]
    always += [callbacks.RankedSamples(), callbacks.ScoreHistograms()]
    if config.trainer.get("enable_progress_bar", True):
        always.append(RichProgressBar())
    if config.logger:
        always.append(LearningRateMonitor(logging_interval="step"))
    return [*always, *chosen, ResumePoint(folder, config.save_every)]


def _begin(config: RunConfig, folder: Path, trainer: Trainer, ranker: Ranker, datamodule: Any, console: Console) -> None:
    """Write down what is about to happen."""
    if not trainer.is_global_zero:
        return
    content = dataclasses.asdict(config)
    report.write_atomically(folder / CONFIG, to_yaml(content))
    for logger in trainer.loggers:
        logger.log_hyperparams(content)
    weights = sum(weight.numel() for weight in ranker.parameters() if weight.requires_grad)
    counts = ", ".join(f"{datamodule.num_queries(split):,} {split}" for split in ("train", "val", "test"))
    console.print(f"[bold]{config.ranker['name']}[/]: {weights:,} weights to train; queries: {counts}; run: {folder}")


def _finish(
    config: RunConfig, folder: Path, trainer: Trainer, ranker: Ranker, datamodule: Any, best: ModelCheckpoint,
    started: float, console: Console,
) -> Run:  # fmt: skip
    """Test the best checkpoint and write everything down."""
    chosen = best.best_model_path or None
    fitted = time.time()
    trainer.validate(ranker, datamodule=datamodule, ckpt_path=chosen, weights_only=True, verbose=False)
    val = report.Report.of(config.ranker["name"], ranker.evaluation, ranker.metrics)
    trainer.test(ranker, datamodule=datamodule, ckpt_path=chosen, weights_only=True, verbose=False)
    test = report.Report.of(config.ranker["name"], ranker.evaluation, ranker.metrics)
    metrics: dict[str, Any] = {
        "config": folder.parent.name,
        "seed": config.seed,
        "monitor": {config.monitor: float(best.best_model_score) if best.best_model_score is not None else None},
        "test": test.results(),
        "val": val.results(),
        "num_parameters": sum(weight.numel() for weight in ranker.parameters() if weight.requires_grad),
        "steps": trainer.global_step,
        "seconds": {"fit": round(fitted - started, 2), "total": round(time.time() - started, 2)},
        "commit": git_commit(),
        "versions": versions(),
    }
    if trainer.is_global_zero:
        report.write_per_query(folder / "per_query.csv", test, datamodule.store)
        report.write_trec_run(folder / "run.trec", ranker.evaluation, datamodule.store, config.ranker["name"])
        report.write_json(folder / METRICS, metrics)
        for logger in trainer.loggers:
            if hasattr(logger, "log_table"):
                rows = [[scorer, *(mean.mean for mean in means.values())] for scorer, means in test.means.items()]
                logger.log_table("test/results", columns=["scorer", *ranker.metrics], data=rows)  # type: ignore[attr-defined]
            logger.finalize("success")
        console.print(test.table("test"))
        console.print(f"results: {folder / METRICS}, per_query.csv, run.trec, {BEST}")
    return Run(folder, metrics)


def _run_folder(config: RunConfig, name: str, resume: Path | None) -> Path:
    """A folder no other run has; all processes of a run share it."""
    if resume is not None:
        return resume
    if RUN_DIR not in os.environ:
        stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        folder, copies = Path(config.runs) / name / stamp, 1
        while folder.exists():
            folder, copies = folder.with_name(f"{stamp}_{copies}"), copies + 1
        os.environ[RUN_DIR] = str(folder)
    folder = Path(os.environ[RUN_DIR])
    if rank_zero_only.rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def _last(folder: Path) -> Path | None:
    return folder / LAST if (folder / LAST).is_file() else None


def _ranker_node(config: RunConfig) -> Mapping[str, Any]:
    return RANKERS.check(config.ranker, "ranker")


def _as_mapping(node: Any) -> Mapping[str, Any]:
    return node if isinstance(node, Mapping) else {"name": node}


def git_commit() -> str | None:
    """The commit of the code that runs, with `+changes` if files differ from it; None outside a checkout."""
    root = Path(__file__).resolve().parent.parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def versions() -> dict[str, str]:
    """What the numbers were made with."""
    return {"python": platform.python_version(), "torch": torch.__version__, "threads": str(torch.get_num_threads())}


def _quiet() -> None:
    """Keep Lightning's greetings off the screen, and advice that is wrong here: a batch is one gather."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*is smaller than the logging interval.*")
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
