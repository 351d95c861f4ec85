"""Checking: what is wrong with a run that its schema cannot see, found before anything is built or written."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from lightning import Callback
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import nn

from features.building.extractor import Extractor
from ranking.metrics import metric_name
from ranking.stores.group_tables import StoreError
from registry import (
    CALLBACKS,
    DATAMODULES,
    EXTRACTORS,
    LOSSES,
    OPTIMIZERS,
    RANK_METRICS,
    RANKERS,
    SCHEDULES,
    ConfigError,
    RunConfig,
)
from training.trainer import build_trainer

# Stands in for a size that is not known yet: any usual number of heads divides it, and on `meta` no size costs memory.
_ANY_DIM = 2**10 * 3**2 * 5 * 7 * 11 * 13


def check(config: RunConfig) -> None:
    """Refuse rankers, trainer options, losses, metrics, optimizers, schedules and callbacks that could not work.

    Raises:
        ConfigError: For the first mistake.
    """
    build_trainer(config.trainer)
    check_kind(config)
    _check_ranker(config)
    kind = RANKERS.get(config.ranker["name"]).metric_kind  # type: ignore[attr-defined]
    metrics = [f"val/{metric_name(node, kind)}" for node in config.ranker["metrics"]]
    if config.monitor not in metrics:
        problem = f"{config.monitor!r} is not among what ranker.metrics reports."
        raise ConfigError("monitor", problem, given=config.monitor, known=metrics)
    _check_callbacks(config, metrics)
    if (config.features is None) == (config.datamodule.get("path") is None):
        problem = "which store?" if config.features is None else "there is a `features:` block as well: which store?"
        cure = "name a store there, or say in a `features:` block how to build one"
        raise ConfigError("datamodule.path", problem, cure=cure)
    if any(folder.exists() and not folder.is_dir() for folder in (Path(config.runs), *Path(config.runs).parents)):
        raise ConfigError("runs", f"{config.runs} cannot be a folder: there is a file of that name.")


def check_data(config: RunConfig, *, download: bool = False) -> None:
    """Refuse data, models or options of the datamodule that could not work; a store still to be built is not missed.

    Args:
        config: Checked.
        download: Whether to get models that are not on this machine; else nothing is known of them.

    Raises:
        ConfigError: For the first mistake.
    """
    node, to_build = dict(config.datamodule), False
    if config.features is not None:
        extractor: Extractor = EXTRACTORS.build(config.features, path="features")
        node["path"], to_build = str(extractor.path), not extractor.path.exists()
        if to_build:
            extractor.check_source()
            _check_encoder(extractor, download)
            ranker = _make_without_weights(config.ranker)
            if hasattr(ranker, "check_backbone"):
                ranker.check_backbone(download=download)
    with suppress(StoreError) if to_build else nullcontext():
        datamodule: Any = DATAMODULES.build(node, path="datamodule")
        check_steps(config.trainer, datamodule)
        _make_without_weights(RANKERS.complete(config.ranker, datamodule.facts, "ranker"))


def check_kind(config: RunConfig) -> None:
    """Refuse a ranker over a pool where there are groups, and one over groups where there is a pool."""
    ranker: Any = RANKERS.get(config.ranker["name"])
    given = getattr(DATAMODULES.get(config.datamodule["name"]), "ranks_pool", ranker.ranks_pool)
    if given != ranker.ranks_pool:
        kinds = {True: "a pool that all queries share", False: "groups, each with candidates of its own"}
        names = [name for name in DATAMODULES.names() if getattr(DATAMODULES.get(name), "ranks_pool", None) != given]
        problem = f"{config.datamodule['name']} reads {kinds[given]}; {config.ranker['name']} ranks {kinds[not given]}."
        raise ConfigError("datamodule.name", problem, cure=f"use {' or '.join(names)}, or another ranker")


def check_steps(options: Mapping[str, Any], datamodule: Any) -> None:
    """Refuse limits that leave no batch of the data, and validations that an epoch is too short for."""
    sizes = {"train": datamodule.steps_per_epoch}
    sizes |= {split: datamodule.steps(split) for split in ("val", "test")} if hasattr(datamodule, "steps") else {}
    for split, size in sizes.items():
        limit = options.get(f"limit_{split}_batches")
        if isinstance(limit, float) and limit * size < 1:
            problem = f"{limit:g} of {size} batches is less than one."
            raise ConfigError(f"trainer.limit_{split}_batches", problem, cure=f"at least {1 / size:.2g}, or a number")
    limit = options.get("limit_train_batches")
    longest = int(limit * sizes["train"]) if isinstance(limit, float) else min(limit or sizes["train"], sizes["train"])
    interval = options.get("val_check_interval")
    if isinstance(interval, int) and interval > longest and options.get("check_val_every_n_epoch", 1) is not None:
        problem = f"{interval} is more than the {longest} batches of an epoch."
        cure = f"{longest} at most, or check_val_every_n_epoch=null to count over all epochs"
        raise ConfigError("trainer.val_check_interval", problem, cure=cure)


def check_negatives(ranker: str, shared: bool) -> None:
    """Refuse negatives from other groups where candidates are scored in the company of their own."""
    if shared and not RANKERS.get(ranker).takes_shared_negatives:  # type: ignore[attr-defined]
        problem = f"{ranker} scores candidates in the company of their group, not against others."
        cure = "datamodule.negatives=group, or a ranker like point_ranker"
        raise ConfigError("datamodule.negatives", problem, cure=cure)


def _check_callbacks(config: RunConfig, metrics: list[str]) -> None:
    known: dict[str, int] = {}
    for place, node in enumerate(config.callbacks):
        callback = CALLBACKS.build(node, path=f"callbacks[{place}]")
        monitor = getattr(callback, "monitor", None)
        if monitor not in (None, "train/loss", *metrics):
            problem = f"{monitor!r} is not logged."
            raise ConfigError(f"callbacks[{place}].monitor", problem, given=monitor, known=metrics)
        stateful = is_overridden("state_dict", callback, Callback)
        if stateful and (first := known.setdefault(callback.state_key, place)) != place:
            problem = f"does the same as callbacks[{first}], so that their states could not be told apart."
            raise ConfigError(f"callbacks[{place}]", problem, cure="leave one of them out")


def _check_ranker(config: RunConfig) -> None:
    """Make it without weights; try loss and metrics on one group, optimizer and schedule on one weight."""
    labels, mask = torch.tensor([[1.0, 0.0]]), torch.ones(1, 2, dtype=torch.bool)
    loss = config.ranker["loss"] or RANKERS.get(config.ranker["name"]).default_loss  # type: ignore[attr-defined]
    with _refused_as("ranker.loss"):
        LOSSES.bind(loss, "ranker.loss")(labels.clone(), labels, mask)
    kind = RANKERS.get(config.ranker["name"]).metric_kind  # type: ignore[attr-defined]
    for place, node in enumerate(config.ranker["metrics"]):
        with _refused_as(f"ranker.metrics[{place}]"):
            kind.bind(node)(*([labels] * (3 if kind is RANK_METRICS else 2)), mask)
    names = [metric_name(node, kind) for node in config.ranker["metrics"]]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError("ranker.metrics", f"{twice} is there twice.", cure="name each once")
    optimizer = OPTIMIZERS.build(config.ranker["optimizer"], [nn.Parameter(labels)], path="ranker.optimizer")
    SCHEDULES.build(config.ranker["schedule"], optimizer, 100, path="ranker.schedule")
    check_negatives(config.ranker["name"], config.datamodule.get("negatives", "group") != "group")
    _make_without_weights(config.ranker)


def _check_encoder(extractor: Extractor, download: bool) -> None:
    encoder = extractor.encoder
    if encoder is not None and (download or encoder.is_here):
        encoder.check_length(encoder.max_length, "features.encoder", encoder.config())


def _make_without_weights(ranker: Mapping[str, Any]) -> Any:
    """The ranker if it can be made so; what one of another kind cannot do without weights, it will do with them."""
    with torch.device("meta"), suppress(RuntimeError):
        return RANKERS.build(ranker, path="ranker", feature_dim=ranker.get("feature_dim") or _ANY_DIM)


@contextmanager
def _refused_as(path: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ConfigError(path, f"{error}.") from error
