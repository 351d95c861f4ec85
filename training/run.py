"""Run: trains, tests and reports a ranker from a checked config, in a new folder."""

import dataclasses
import errno
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from lightning import Callback, Trainer, seed_everything
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint, Timer
from lightning.pytorch.loggers import WandbLogger
from rich.console import Console
from rich.markup import escape

from console.tables import print_table
from datamodules.base import RankingData
from datamodules.group_data import GroupData
from features.building.extractor import Extractor
from rankers.base import NonFiniteLossError, Ranker
from rankers.checkpoint import CONFIG_FILE, describe_anew, save_pretrained, with_room, write_checkpoint
from ranking.evaluation import Evaluation
from ranking.response_analysis import Analysis
from ranking.stores.files import lock_folder, write_file
from ranking.stores.group_store import GroupStore
from registry import CALLBACKS, DATAMODULES, LOGGERS, RANKERS, ConfigError, FeaturesConfig, RunConfig, load_config
from registry.config import to_yaml
from training.callbacks import (
    DrawnFindings,
    FirstValidation,
    GradientNorm,
    RankedSamples,
    ReferenceLines,
    Reporting,
    ScoreHistograms,
)
from training.checking import (
    build_extractor,
    build_reference,
    check,
    check_data,
    check_negatives,
    check_ranker_alone,
    check_steps,
    check_training,
)
from training.memory import keep_freed_memory
from training.pages.run_page import PAGE, write_page
from training.pages.shown import SHOWN, shown
from training.processes import RUN_DIR, Processes
from training.progress import progress_callback
from training.results.by_k import ByK
from training.results.provenance import provenance
from training.results.report import Report, write_json, write_per_query, write_trec_run
from training.results.routing import RoutingReport
from training.resuming import (
    BEST,
    LAST,
    InterruptedRunError,
    ResumePoint,
    StepSeed,
    check_changes,
    check_resume_point,
)
from training.starting import START, Forgetting, Pull, check_start, load_start, start_from
from training.trainer import FSDP2, build_trainer, resolve_backbone, resolve_precision

CONFIG, METRICS = "config.yaml", "metrics.json"
_DISK_REFUSES = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


@dataclass(frozen=True)
class Run:
    """A finished run.

    Args:
        path: The run's folder.
        metrics: The content of `metrics.json`.
    """

    path: Path
    metrics: Mapping[str, Any]


@dataclass(frozen=True)
class _Begun:
    """A run in progress: the objects that its steps share."""

    config: RunConfig
    folder: Path
    trainer: Trainer
    ranker: Ranker[Any]
    start: Ranker[Any] | None
    datamodule: RankingData
    best: ModelCheckpoint
    console: Console


def train(config: RunConfig, name: str, resume: Path | None = None) -> Run:
    """Build the parts of the config, train with validation, test the best checkpoint, and report.

    Args:
        config: A checked config.
        name: The name of the config, for the run's folder.
        resume: The folder of a run to resume; None for a new run.

    Raises:
        ConfigError: For errors that can be found before training, and if the loss is NaN or infinite.
        InterruptedRunError: After Ctrl-C or SIGTERM, once everything is saved.
    """
    config = dataclasses.replace(config, trainer=resolve_precision(config.trainer))
    if resume:
        check_changes(load_config(resume / CONFIG, []), config)
    check(config, new=not resume)
    keep_freed_memory()
    try:
        with _telling_a_full_disk(resume or Path(config.runs)):
            return _train(config, name, resume)
    finally:
        os.environ.pop(RUN_DIR, None)


def _train(config: RunConfig, name: str, resume: Path | None) -> Run:
    began, console = time.time(), Console()
    seed_everything(config.seed, workers=True, verbose=False)
    processes = Processes(config.trainer)
    path = _find_store(config, processes)
    mixed = mixed_pools(config, lambda extractor: _built(extractor, processes))
    datamodule = build_datamodule(config, path, mixed)
    check_steps(config.trainer, datamodule)
    if (start := load_start(config, resume)) is not None:
        check_start(start, config, datamodule)
    ranker_options = RANKERS.complete(config.ranker, datamodule.facts, "ranker")
    config = dataclasses.replace(config, ranker=resolve_backbone(ranker_options, config.trainer))
    ranker = build_ranker(config, datamodule)
    if start is not None:
        config = start_from(ranker, start, config)
    if resume:
        check_resume_point(resume, ranker, config.trainer)
    folder = resume or Path(processes.decided(lambda: str(_new_folder(config, name))))
    try:
        with _telling_a_full_disk(folder):
            return _run(config, folder, ranker, start, datamodule, began, console)
    except ConfigError:
        if not resume:
            _forget(folder)
        raise


def _run(
    config: RunConfig,
    folder: Path,
    ranker: Ranker[Any],
    start: Ranker[Any] | None,
    datamodule: RankingData,
    began: float,
    console: Console,
) -> Run:
    started = time.time()
    ranker.references = build_references(config, datamodule)
    best = ModelCheckpoint(
        folder,
        Path(BEST).stem,
        monitor=config.monitor,
        mode="max",
        save_top_k=1,
        enable_version_counter=False,
        # Save as soon as the score is known, and before last.ckpt, which records it.
        save_on_train_epoch_end=False,
    )
    loggers = [
        LOGGERS.build(node, run_dir=str(folder), path=f"logger[{place}]") for place, node in enumerate(config.logger)
    ]
    usual = {
        "log_every_n_steps": min(10, datamodule.steps_per_epoch),
        "reload_dataloaders_every_n_epochs": int(datamodule.changes_with_ranker),
    }
    trainer = build_trainer(
        {**usual, **config.trainer},
        loggers=loggers,
        callbacks=[best, *_callbacks(config, folder, ranker, start)],
        folder=folder,
    )
    with _alone_in(folder) if trainer.is_global_zero else nullcontext():
        begun = _Begun(config, folder, trainer, ranker, start, datamodule, best, console)
        if trainer.is_global_zero:
            _announce(begun)
        if ranker.is_trained:
            _fit(begun)
        seconds = {"features": started - began, "fit": time.time() - started}
        try:
            return _finish(begun, seconds)
        except (KeyboardInterrupt, InterruptedRunError) as error:
            _write_page(begun)
            how = f"test it with:\n  python train.py --resume {folder}"
            signum = error.signum if isinstance(error, InterruptedRunError) else signal.SIGINT
            raise InterruptedRunError(f"stopped after training; {how}", signum) from error


@contextmanager
def _telling_a_full_disk(folder: Path) -> Iterator[None]:
    """Turn the error of a disk that takes nothing into one that says how to go on."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_REFUSES:
            raise
        problem = f"cannot be written: {error.strerror}."
        raise ConfigError(str(error.filename or folder), problem, cure=with_room(folder)) from error


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Lock the run against other processes while this one works on it."""
    lock = lock_folder(folder)
    if lock is None:
        cure = "wait until it has ended, or stop it"
        raise ConfigError(str(folder), "another process is at this run.", cure=cure)
    try:
        yield
    finally:
        os.close(lock)


def _find_store(config: RunConfig, processes: Processes) -> str:
    """The store that the config names; one process builds it if it does not exist."""
    if config.features is None:
        return config.datamodule["path"]
    extractor = build_extractor(config.features)
    return _built(extractor, processes, lambda: check_data(config, download=True))


def _built(extractor: Extractor, processes: Processes, check_first: Callable[[], Any] | None = None) -> str:
    """The folder of an extractor; one process builds it if it does not exist, after a check."""
    processes.wait_for(extractor.path)
    with processes.telling_failure(extractor.path):
        if check_first and not extractor.path.exists():
            check_first()
        return str(extractor.run(to_train=True))


def mixed_pools(config: RunConfig, build: Callable[[Extractor], str]) -> list[str]:
    """The folders of `datamodule.mixed_with`.

    Args:
        config: The config of a run.
        build: Builds a pool that is named by a config, if it does not exist, and returns its folder.
    """
    further = [each.name for each in dataclasses.fields(RunConfig) if each.name not in ("features", "imports")]
    paths = []
    for name in config.datamodule.get("mixed_with") or []:
        if Path(name).suffix != ".yaml":
            paths.append(name)
            continue
        features = load_config(name, into=FeaturesConfig, ignore=further).features
        encoder = {"encoder": config.features["encoder"]} if config.features and "encoder" in config.features else {}
        paths.append(str(build(build_extractor({**features, **encoder}))))
    return paths


def build_datamodule(config: RunConfig, path: str, mixed: list[str]) -> RankingData:
    """The datamodule of a run on a store or pool, with the run's seed if it has none of its own."""
    node = {**config.datamodule, "path": path, **({"mixed_with": mixed} if mixed else {})}
    if node.get("seed") is None:
        node["seed"] = config.seed
    return DATAMODULES.build(node, path="datamodule")


def datamodule_of(config: RunConfig) -> RankingData:
    """The datamodule of a finished run; features that do not exist any more are built again."""

    def build(extractor: Extractor) -> str:
        return str(extractor.run(to_train=True))

    features = config.features
    path = config.datamodule["path"] if features is None else build(build_extractor(features))
    return build_datamodule(config, path, mixed_pools(config, build))


def build_ranker(config: RunConfig, datamodule: RankingData) -> Ranker[Any]:
    """The ranker of a run before training; its options are complete."""
    ranker = RANKERS.assemble(config.ranker, path="ranker")
    check_ranker_alone(ranker, datamodule)
    ranker.encoder = datamodule.encoder
    check_negatives(config.ranker["name"], datamodule.shared_negatives)
    datamodule.check_ranker(ranker)
    ranker.configure_model()
    check_training(ranker, config.ranker)
    ranker.learn_from(datamodule)
    return ranker


def build_references(config: RunConfig, datamodule: RankingData) -> dict[str, Ranker[Any]]:
    """The references: those that the config names, or the defaults of the datamodule."""
    found: dict[str, Ranker[Any]] = {}
    named = config.references if config.references is not None else datamodule.default_references
    for place, node in enumerate(named):
        path = f"references[{place}]"
        reference = build_reference(node, path, datamodule, needed=config.references is not None)
        if (lacking := reference.lacks(datamodule)) is None:
            reference.configure_model()
            if reference.is_trained:  # by weights that configure_model makes
                problem = f"{reference.name} has weights that would have to be trained."
                raise ConfigError(path, problem, cure="a ranker without weights, or a run of its own")
            reference.learn_from(datamodule)
            found[reference.name] = reference.eval()
        elif not multiprocessing.parent_process():
            Console(stderr=True).print(f"{reference.name} is left out: {lacking}", highlight=False, soft_wrap=True)
    return found


def _callbacks(config: RunConfig, folder: Path, ranker: Ranker[Any], start: Ranker[Any] | None) -> list[Callback]:
    chosen = [CALLBACKS.build(node, path=f"callbacks[{place}]") for place, node in enumerate(config.callbacks)]
    always: list[Callback] = [StepSeed(config.seed)]
    if start is not None and config.init_from is not None and config.init_from.pull:
        always.append(Pull(start, config.init_from.pull))
    always += [GradientNorm(), ReferenceLines(), RankedSamples(), ScoreHistograms()]
    always.append(DrawnFindings(folder))
    if config.trainer.get("enable_progress_bar", True):
        always.append(progress_callback(config.monitor))
    if config.logger:
        always.append(LearningRateMonitor(logging_interval="step"))
    if config.init_from.counts if config.init_from is not None else ranker.start_counts:
        chosen.append(FirstValidation())
    return [*always, *chosen, ResumePoint(folder, config.save_every)]


def _new_folder(config: RunConfig, name: str) -> Path:
    """Create a folder that no other run uses; processes that Lightning starts for this run inherit its name."""
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    inherited = os.environ.get(RUN_DIR)
    folder, copies = Path(inherited or Path(config.runs) / name / stamp), 1
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=bool(inherited))
            break
        except FileExistsError:  # another run was started in the same second
            folder, copies = folder.with_name(f"{stamp}_{copies}"), copies + 1
        except OSError as error:
            raise ConfigError("runs", f"{folder} cannot be made: {error.strerror}.") from error
    os.environ[RUN_DIR] = str(folder)
    return folder


def _forget(folder: Path) -> None:
    """Remove the files of a failed start, unless another process works on this run."""
    lock = lock_folder(folder) if folder.is_dir() and not any(folder.glob("*.ckpt")) else None
    if lock is None:
        return
    os.close(lock)
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        folder.parent.rmdir()
        folder.parent.parent.rmdir()


def _announce(begun: _Begun) -> None:
    config, folder, ranker, datamodule = begun.config, begun.folder, begun.ranker, begun.datamodule
    if ranker.is_trained and (folder / CONFIG).is_file() and not (folder / LAST).is_file():
        begun.console.print("[yellow]the run was stopped before its first save: it begins again[/]")
    content = dataclasses.asdict(config)
    write_file(folder / CONFIG, to_yaml(content).encode())
    if begun.start is not None and not (folder / START / CONFIG_FILE).is_file():
        save_pretrained(begun.start, folder / START)
    for logger in begun.trainer.loggers:
        logger.log_hyperparams(content)
    counts = ", ".join(f"{datamodule.num_queries(split):,} {split}" for split in ("train", "val", "test"))
    weights = f"{_num_parameters(ranker):,} weights to train" if ranker.is_trained else "nothing to train"
    message = f"[bold]{escape(config.ranker['name'])}[/]: {weights}; queries: {counts}"
    begun.console.print(f"{message}\nrun: {escape(str(folder))}", soft_wrap=True, highlight=False)


def _fit(begun: _Begun) -> None:
    folder, trainer, ranker, datamodule = begun.folder, begun.trainer, begun.ranker, begun.datamodule
    last = folder / LAST if (folder / LAST).is_file() else None
    try:
        trainer.fit(ranker, datamodule=datamodule, ckpt_path=last, weights_only=True)
    except NonFiniteLossError as error:
        ids = ", ".join(datamodule.query_id(group) for group in error.group)
        problem = f"not finite at step {error.step}; queries of that batch: {ids}."
        kept = f"; the last good state is {folder / LAST}" if (folder / LAST).is_file() else ""
        cure = f"a smaller ranker.optimizer.lr, or trainer.gradient_clip_val=1{kept}"
        raise ConfigError("train/loss", problem, cure=cure) from error
    except InterruptedRunError as error:
        _write_page(begun)
        how = f"go on with:\n  python train.py --resume {folder}"
        raise InterruptedRunError(f"stopped at step {trainer.global_step}; {how}", error.signum) from error
    except MisconfigurationException as error:
        raise ConfigError("trainer", str(error)) from error


def _finish(begun: _Begun, seconds: dict[str, float]) -> Run:
    """Evaluate the best checkpoint on validation and test, and write all results."""
    config, folder, trainer = begun.config, begun.folder, begun.trainer
    ranker, datamodule, console = begun.ranker, begun.datamodule, begun.console
    name = config.ranker["name"]
    chosen: dict[str, Any] = {"datamodule": datamodule}
    if ranker.is_trained:
        if not begun.best.best_model_path:
            console.print("[yellow]no validation was run: the last state counts as the best[/]")
            trainer.save_checkpoint(folder / BEST)
        chosen |= {"ckpt_path": folder / BEST, "weights_only": True}
    elif trainer.is_global_zero and ranker.has_learnt:
        write_checkpoint(folder / BEST, {"state_dict": ranker.state_dict(), "ranker": ranker.description()})
    trainer.validate(ranker, verbose=False, **chosen)
    val = Report.of(name, ranker.evaluation, ranker.metrics)
    if ranker.has_learnt and ranker.findings() and trainer.is_global_zero:
        describe_anew(folder / BEST, ranker)
    trainer.strategy.barrier()
    trainer.test(ranker, verbose=False, **chosen)
    test = Report.of(name, ranker.evaluation, ranker.metrics)
    by_k = forgetting = None
    # Each process has a share of sharded weights, so all of them have to score.
    if isinstance(datamodule, GroupData) and (trainer.is_global_zero or isinstance(trainer.strategy, FSDP2)):
        # Lightning has moved the ranker to the CPU.
        ranker.to(trainer.strategy.root_device)
        if datamodule.responses is not None:
            by_k = ByK.of(ranker, datamodule, next(iter(ranker.metrics)))
        if begun.start is not None:
            forgetting = Forgetting.of(ranker, begun.start, datamodule)
    if not trainer.is_global_zero:
        return Run(folder, {})
    metrics = {
        "config": folder.parent.name,
        "seed": config.seed,
        "monitor": config.monitor,
        "test": {**test.results(), **test.tests()},
        "val": val.results(),
        **ranker.findings(),
        **{name: found for each in _reporting(trainer) for name, found in each.results().items()},
        "num_parameters": _num_parameters(ranker),
        "steps": trainer.global_step,
        **({"out_of_time": True} if _is_out_of_time(trainer) else {}),
        "seconds": {part: round(spent, 2) for part, spent in seconds.items()},
        "made_with": {**provenance(), "folder": str(Path.cwd())},
    }
    if by_k is not None and datamodule.responses is not None:
        metrics["by_k"] = by_k.results()
        _report_responses(folder, trainer, by_k, datamodule.responses)
    routing = None
    if isinstance(datamodule, GroupData) and datamodule.known.performances:
        assert isinstance(ranker.evaluation, Evaluation)
        routing = RoutingReport.of(name, ranker.evaluation, datamodule.store)
        metrics["routing"] = routing.results()
    if forgetting is not None:
        metrics["before_and_after"] = forgetting.results()
    write_per_query(folder / "per_query.csv", test, datamodule.query_id)
    write_trec_run(folder / "run.trec", ranker.evaluation, datamodule, name)
    write_json(folder / METRICS, metrics)
    rows = [[scorer, *(mean.mean for mean in means.values())] for scorer, means in test.means.items()]
    for logger in trainer.loggers:
        if hasattr(logger, "log_table"):
            logger.log_table("test/results", columns=["scorer", *ranker.metrics], data=rows)  # type: ignore[attr-defined]
        logger.finalize("success")
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()
    print_table(console, test.table("test"))
    if routing is not None:
        print_table(console, routing.table())
    if forgetting is not None:
        print_table(console, forgetting.table())
    page = f"{PAGE}, " if _write_page(begun, test) else ""
    files = f"in {folder}: {page}{METRICS}, per_query.csv, run.trec{f', {BEST}' if (folder / BEST).is_file() else ''}"
    console.print(files, soft_wrap=True, markup=False, highlight=False)
    return Run(folder, metrics)


def _write_page(begun: _Begun, test: Report | None = None) -> bool:
    """Write `report.html`, and before it what else it shows of a test; a failure is printed and does no harm."""
    folder, ranker = begun.folder, begun.ranker
    if not begun.trainer.is_global_zero:
        return False
    try:
        if test is not None:
            watched = begun.config.monitor.removeprefix("val/")
            metric = watched if watched in ranker.metrics else next(iter(ranker.metrics))
            write_json(folder / SHOWN, shown(test, ranker.evaluation, begun.datamodule, metric))
        write_page(folder)
    except Exception as error:
        again = f"python -m training report {folder}"
        problem = f"{PAGE} could not be written: {type(error).__name__}: {error}\n  try again with: {again}"
        Console(stderr=True).print(problem, style="yellow", soft_wrap=True, markup=False, highlight=False)
        return False
    return True


def _report_responses(folder: Path, trainer: Trainer, by_k: ByK, store: GroupStore) -> None:
    """Report the responses, and the metric for each number of responses K, as pictures and W&B tables."""
    responses = Analysis.of(store)
    by_k.draw(folder / "by_k.png")
    responses.draw(folder / "responses.png")
    curves = [[k, *(means[place].mean for means in by_k.means.values())] for place, k in enumerate(by_k.ks)]
    for logger in trainer.loggers:
        if hasattr(logger, "log_image"):
            logger.log_image("test/by_k", images=[str(folder / "by_k.png")])  # type: ignore[attr-defined]
            logger.log_image("responses", images=[str(folder / "responses.png")])  # type: ignore[attr-defined]
        if hasattr(logger, "log_table"):
            logger.log_table("test/by_k/table", columns=["k", *by_k.means], data=curves)  # type: ignore[attr-defined]
            for name, (columns, rows) in responses.tables().items():
                logger.log_table(name, columns=columns, data=rows)  # type: ignore[attr-defined]


def _reporting(trainer: Trainer) -> list[Reporting]:
    return [callback for callback in trainer.callbacks if isinstance(callback, Reporting)]  # type: ignore[attr-defined]


def _is_out_of_time(trainer: Trainer) -> bool:
    """Whether `trainer.max_time` ended the training."""
    timers = [callback for callback in trainer.callbacks if isinstance(callback, Timer)]  # type: ignore[attr-defined]
    left = [timer.time_remaining() for timer in timers]
    return trainer.should_stop and any(each is not None and each <= 0 for each in left)


def _num_parameters(ranker: Ranker[Any]) -> int:
    return sum(weight.numel() for weight in ranker.parameters() if weight.requires_grad)
