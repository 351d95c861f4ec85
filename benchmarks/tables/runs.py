"""Runs: the training, resuming and judging that one cell of a table needs, in a process of its own."""

import csv
import dataclasses
import functools
import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from benchmarks import machine
from datamodules.base import RankingData
from datamodules.group_data import GroupData
from rankers.base import Ranker
from rankers.checkpoint import load_ranker
from rankers.judging.groups import GroupJudging
from ranking.batch import Batch
from ranking.evaluation import Judged
from ranking.stores.files import sha256_of, write_file
from ranking.stores.format import MANIFEST
from registry import RANKERS, RunConfig, load_config
from training import run
from training.checking import build_extractor, check
from training.results.provenance import provenance
from training.results.report import Report, write_json, write_per_query
from training.trainer import build_trainer, device_of, resolve_precision

Finding = dict[str, Any]
COST, _RESUMED = "cost.json", "resumed"


@dataclass(frozen=True)
class Work:
    """What to do for a cell.

    Args:
        config: The config to train with.
        name: The name of this config.
        judged: The config whose test data the run is judged on; None for that of training.
        runs: The folder for the runs of tables.
        threads: Threads of the process.
        measure: Measures more of the finished run, given its folder.
        fuses: The works whose runs the ranker fuses.
    """

    config: RunConfig
    name: str
    judged: RunConfig | None
    runs: Path
    threads: int | None = None
    measure: Callable[[Path], Finding] | None = None
    fuses: tuple["Work", ...] = ()

    @property
    def settings(self) -> dict[str, Any]:
        """All options of the run except its folder; what `auto` stands for is resolved, since it differs by machine."""
        fused = {"fuses": [each.settings for each in self.fuses]} if self.fuses else {}
        return {**settings_of(self.config), **fused}

    @property
    def run(self) -> str:
        """The name of the run: cells with equal settings share it."""
        digest = hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()
        return f"{self.name}-{digest[:12]}"


def settings_of(config: RunConfig) -> dict[str, Any]:
    """All options of a run except its folder, as json has them."""
    resolved = dataclasses.replace(config, trainer=resolve_precision(config.trainer))
    return json.loads(json.dumps({**dataclasses.asdict(resolved), "runs": None}))


def data_of(*configs: RunConfig | None) -> str | None:
    """The hash of what runs read where their configs name a store, a file or a folder, whose content may change."""
    named = []
    for config in configs:
        if config is None:
            continue
        if config.features is None:
            named.append(Path(config.datamodule.get("path") or "") / MANIFEST)
        elif isinstance(source := config.features.get("source"), dict) and source.get("path"):
            named.append(Path(source["path"]))
    files = [file for path in named for file in ([path] if path.is_file() else sorted(path.rglob("*")))]
    hashes = [_hash_of(file, file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]
    return hashlib.sha256("".join(hashes).encode()).hexdigest() if hashes else None


@functools.cache
def _hash_of(file: Path, size: int, changed: int) -> str:
    """The hash of a file, read again only where its size or time has changed."""
    return sha256_of(file)


def execute(work: Work) -> Finding:
    """The finding of a cell: its run is trained, or resumed where it stopped, or read where it has finished."""
    before = torch.get_num_threads()
    torch.set_num_threads(work.threads or before)
    try:
        folder = _finished_run(work)
        if work.judged is None:
            found, per_query = json.loads((folder / run.METRICS).read_text(encoding="utf-8")), folder / "per_query.csv"
        else:
            found, per_query = _judge(folder, work.judged)
    finally:
        torch.set_num_threads(before)
    return {
        "scorers": _means(found["test"]),
        "intervals": found["test"]["scorers"],
        "queries": found["test"]["queries"],
        **({"val": _means(found["val"])[work.config.ranker["name"]]} if "val" in found else {}),
        "differences": found["test"]["differences"],
        "scaling": found.get("scaling"),
        "by_k": found.get("by_k"),
        "length_control": found.get("length_control"),
        **json.loads((folder / COST).read_text(encoding="utf-8")),
        "data": data_of(work.config, work.judged),
        **(work.measure(folder) if work.measure else {}),
        "per_query": str(per_query),
    }


def per_query(path: Path, scorer: str, metric: str) -> dict[str, float]:
    """One value per query of a scorer: the mean over the query's draws, which are no queries of their own.

    A query for which the scorer has no value, such as one without a beam, is left out.
    """
    values: dict[str, list[float]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["scorer"] == scorer and not math.isnan(value := float(row[metric])):
                values.setdefault(row["query_id"], []).append(value)
    return {query: fmean(draws) for query, draws in values.items()}


def _finished_run(work: Work) -> Path:
    """The folder of the finished run: of a run that has ended, one that goes on where it stopped, or a new one."""
    data = data_of(work.config)
    folders = [config.parent for config in sorted((work.runs / work.run).glob(f"*/{run.CONFIG}"))]
    for folder in folders:
        if (folder / COST).is_file() and _has_read(folder, data):
            return folder
    folders = [folder for folder in folders if not (folder / COST).is_file()]
    if not folders:
        config = dataclasses.replace(work.config, runs=str(work.runs))
        if work.fuses:
            fused = [str(_finished_run(each)) for each in work.fuses]
            config = dataclasses.replace(config, ranker={**config.ranker, "runs": fused})
        _build_features(config)
        folder = run.train(config, work.run).path
    else:
        folder = folders[-1]
        write_file(folder / _RESUMED, b"")
        if not (folder / run.METRICS).is_file():
            run.train(load_config(folder / run.CONFIG), work.run, folder)
    _write_cost(folder, work.config, data)
    return folder


def _build_features(config: RunConfig) -> None:
    """Build the features that are not there yet, so that their memory does not count as that of the run."""
    if config.features is not None:
        check(config)
        build_extractor(config.features).run(to_train=True)
    machine.forget_peak_memory()


def _has_read(folder: Path, data: str | None) -> bool:
    """Whether a finished run has read data with this hash, as far as it has kept it."""
    return json.loads((folder / COST).read_text(encoding="utf-8")).get("data") in (None, data)


def _write_cost(folder: Path, config: RunConfig, data: str | None) -> None:
    """Write what the run cost: the last file of a finished run. Time and memory of a resumed one are unknown."""
    metrics = json.loads((folder / run.METRICS).read_text(encoding="utf-8"))
    resumed, device = (folder / _RESUMED).is_file(), device_of(config.trainer)
    host = machine.peak_memory()
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else host
    scoring: Finding = {"num_loaded": 0, "score_seconds": None}
    if (folder / run.BEST).is_file():
        ranker = load_ranker(folder)
        scoring["num_loaded"] = sum(weight.numel() for weight in ranker.parameters())
        datamodule = run.datamodule_of(load_config(folder / run.CONFIG))
        if isinstance(datamodule, GroupData):
            scoring["score_seconds"] = _seconds_to_score(ranker.to(device), datamodule, config)
    cost = {
        "num_parameters": metrics["num_parameters"],
        **scoring,
        **({"out_of_time": True} if metrics.get("out_of_time") else {}),
        "seconds": {**metrics["seconds"], "fit": None if resumed else metrics["seconds"]["fit"]},
        "peak_bytes": None if resumed else peak,
        "host_peak_bytes": None if resumed else host,
        "made_with": {**provenance(), "machine": machine.describe()},
        "data": data,
    }
    write_json(folder / COST, cost)


@torch.inference_mode()
def _seconds_to_score(ranker: Ranker[Any], datamodule: GroupData, config: RunConfig) -> float:
    """Seconds to score the test queries in the run's precision, reading included, after a batch to warm up."""

    def score(batch: Batch) -> None:
        # Scores that are read have been computed, on a GPU as well.
        ranker(batch.to(ranker.device)).cpu()

    with build_trainer(config.trainer).precision_plugin.forward_context():
        score(next(iter(datamodule.test_dataloader())))
        started = time.perf_counter()
        for batch in datamodule.test_dataloader():
            score(batch)
        return time.perf_counter() - started


@torch.no_grad()
def _judge(folder: Path, config: RunConfig) -> tuple[Finding, Path]:
    """Judge a finished run on the test queries of other data; the result and the file with a value per query."""
    judged = json.dumps([settings_of(config), data_of(config)], sort_keys=True)
    digest = hashlib.sha256(judged.encode()).hexdigest()[:12]
    home = folder / "judged" / digest
    if not (home / run.METRICS).is_file():
        datamodule = run.datamodule_of(config)
        # A run without anything to train has no checkpoint.
        is_saved = (folder / run.BEST).is_file()
        ranker = load_ranker(folder) if is_saved else run.build_ranker(load_config(folder / run.CONFIG), datamodule)
        judged = (_judge_groups if isinstance(datamodule, GroupData) else _judge_pool)(ranker, config, datamodule)
        report = Report.of(RANKERS.name_of(type(ranker)) or "", judged, ranker.metrics)
        home.mkdir(parents=True, exist_ok=True)
        write_per_query(home / "per_query.csv", report, datamodule.query_id)
        write_json(home / run.METRICS, {"test": report.results()})
    return json.loads((home / run.METRICS).read_text(encoding="utf-8")), home / "per_query.csv"


def _judge_groups(ranker: Ranker[Any], config: RunConfig, datamodule: RankingData) -> Judged:
    device = device_of(config.trainer)
    judging = GroupJudging(ranker.to(device), run.build_references(config, datamodule), distributed=False)
    for batch in datamodule.test_dataloader():
        judging.update(batch.to(device))
    return judging.judge()


def _judge_pool(ranker: Ranker[Any], config: RunConfig, datamodule: RankingData) -> Judged:
    """Rank another pool, or the same one mixed with others, with what the run chose on its own validation."""
    ranker.references = run.build_references(config, datamodule)
    options = {name: value for name, value in config.trainer.items() if name in ("accelerator", "precision")}
    build_trainer({**options, "enable_progress_bar": False}).test(ranker, datamodule=datamodule, verbose=False)
    return ranker.evaluation


def _means(test: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    return {
        scorer: {metric: value["mean"] for metric, value in values.items()}
        for scorer, values in test["scorers"].items()
    }
