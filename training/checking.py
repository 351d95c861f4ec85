"""Checking: finds errors in a run that its schema cannot find, before anything is built or written."""

import math
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn

from datamodules.base import RankingData
from datamodules.group_data import GroupData
from datamodules.splits import check_shares
from features.building.extractor import Extractor
from features.texts.own_files import files_of
from rankers.base import Ranker
from rankers.judging.pool import PoolJudging
from rankers.judging.vectors import VectorJudging
from rankers.pool_ranker import PoolRanker
from ranking.batch import Batch, FeatureBatch, TextBatch
from ranking.metrics import metric_name
from ranking.places import Places
from ranking.pools.pool_batch import PoolBatch
from ranking.stores.files import StoreError
from registry import (
    CALLBACKS,
    DATAMODULES,
    EXTRACTORS,
    LOSSES,
    METRICS,
    OPTIMIZERS,
    RANKERS,
    SCHEDULES,
    ConfigError,
    Node,
    RunConfig,
    schema,
)
from training.starting import check_start, check_vectors, check_weights, load_start
from training.trainer import build_trainer

_READ_WHOLE = 64 * 2**20
"""How many bytes of data a check reads to the end."""
_KINDS = {
    Batch: "any groups",
    FeatureBatch: "groups of vectors",
    TextBatch: "groups of texts",
    PoolBatch: "a pool that all queries share",
}
# Sizes to try a ranker with before its features are built, because the data gives the true ones only then, and a
# mistake should not wait for that. Any usual number of heads divides this size.
_ANY_FACTS = {"feature_dim": 2**10 * 3**2 * 5 * 7 * 11 * 13, "num_depths": 1, "num_items": 2**20, "num_users": 2**10}


def check(config: RunConfig, *, new: bool = True) -> None:
    """Refuse rankers, trainer options, losses, metrics, optimizers, schedules and callbacks that cannot work.

    Args:
        config: The run's config.
        new: Whether the run needs a new folder.

    Raises:
        ConfigError: For the first error found.
    """
    trainer = build_trainer(config.trainer)
    if "optimizer" in config.ranker and trainer.max_epochs == -1 and trainer.max_steps == -1:
        raise ConfigError("trainer.max_epochs", "no end of training is set.", cure="set max_epochs or max_steps")
    check_kind(config)
    _check_mining(config)
    if shares := config.datamodule.get("split_shares"):
        check_shares(shares)
    name = config.ranker["name"]
    if config.trainer.get("strategy") == "fsdp2" and not RANKERS.get(name).can_be_sharded:
        raise ConfigError("trainer.strategy", f"the weights of {name} cannot be sharded.", given="fsdp2", cure="ddp")
    if config.trainer.get("strategy") == "fsdp2" and config.init_from is not None and config.init_from.pull:
        problem = "does not work on weights that trainer.strategy=fsdp2 shares out."
        raise ConfigError("init_from.pull", problem, cure="trainer.strategy=ddp, or init_from.pull=0")
    if trainer.precision in ("bf16-true", "16-true") and not RANKERS.get(name).can_be_rounded:
        problem = f"would round the scores of {name}, so that many are equal."
        cure = f"{trainer.precision.removesuffix('true')}mixed; for a smaller backbone, ranker.backbone.dtype=bfloat16"
        raise ConfigError("trainer.precision", problem, given=trainer.precision, cure=cure)
    _check_ranker(config)
    metrics = [f"val/{metric_name(node)}" for node in config.ranker["metrics"]]
    if config.monitor not in metrics:
        problem = f"{config.monitor!r} is not among what ranker.metrics reports."
        raise ConfigError("monitor", problem, given=config.monitor, known=metrics)
    _check_callbacks(config, metrics)
    loggers = [node["name"] for node in config.logger]
    if place := next((place for place, name in enumerate(loggers) if name in loggers[:place]), None):
        problem = f"{loggers[place]} is there already, as logger[{loggers.index(loggers[place])}]."
        raise ConfigError(f"logger[{place}]", problem, cure="name each logger once")
    if (config.features is None) == (config.datamodule.get("path") is None):
        problem = "which store?" if config.features is None else "there is a `features:` block as well: which store?"
        cure = "name a store there, or say in a `features:` block how to build one"
        raise ConfigError("datamodule.path", problem, cure=cure)
    if any(folder.exists() and not folder.is_dir() for folder in (Path(config.runs), *Path(config.runs).parents)):
        raise ConfigError("runs", f"{config.runs} cannot be a folder: there is a file of that name.")
    if new:
        _try_to_make_folder(Path(config.runs))


def check_data(config: RunConfig, *, download: bool = False, whole: bool = False) -> str:
    """Refuse data, models or datamodule options that cannot work.

    A store that already exists must have been built with the settings of the config. A store that does not exist yet is
    not an error.

    Args:
        config: A config that `check` has accepted.
        download: Whether to download models that are not on this machine; if not, they are not checked.
        whole: Whether to read the user's own files: small files completely, and the ends of larger ones. A run does not
            need this, because it reads all files before it builds.

    Returns:
        A text that says which data was read and which was not.

    Raises:
        ConfigError: For the first error found.
    """
    node, to_build = dict(config.datamodule), False
    if any(Path(name).suffix == ".yaml" for name in node.get("mixed_with") or []):
        # A run builds these pools before it opens any.
        node["mixed_with"] = []
    extractor: Extractor | None = None
    if config.features is not None:
        extractor = build_extractor(config.features)
        node["path"], to_build = str(extractor.path), not extractor.path.exists()
        if to_build:
            check_vectors(config, extractor)
            extractor.check_source()
            _check_encoder(extractor, download)
            facts = {name: config.ranker.get(name) or size for name, size in _ANY_FACTS.items()}
            ranker = _build_without_weights(RANKERS.complete(config.ranker, facts, "ranker"))
            if ranker is not None:
                ranker.check_backbone(download=download)
            for place, each in enumerate(config.references or []):
                path = f"references[{place}]"
                reference = _build_without_weights(RANKERS.complete(each, facts, path))
                if reference is not None:
                    _check_without_weights(reference, path)
        else:
            extractor.check_store()
    with suppress(StoreError) if to_build else nullcontext():
        datamodule: RankingData = DATAMODULES.build(node, path="datamodule")
        check_steps(config.trainer, datamodule)
        start = load_start(config) if whole else None
        if start is not None:
            check_start(start, config, datamodule)
        ranker = _build_without_weights(RANKERS.complete(config.ranker, datamodule.facts, "ranker"))
        if ranker is not None:
            check_ranker_alone(ranker, datamodule)
            ranker.check_backbone(download=download)
            # Otherwise its weights are known only once they are loaded.
            if not is_overridden("configure_model", ranker, LightningModule):
                check_training(ranker, config.ranker)
                if start is not None:
                    check_weights(ranker, start, config)
        for place, node in enumerate(config.references or []):
            build_reference(node, f"references[{place}]", datamodule, needed=True)
    if not to_build or extractor is None:
        return "the store was opened, and its vectors were not read"
    encoder = extractor.encoder
    unseen = "" if encoder is None or encoder.is_here else f"; {encoder.model} is not on this machine: not looked at"
    return _read_source(extractor) + unseen if whole else ""


def build_extractor(node: Node) -> Extractor:
    """Build the extractor of a `features:` block."""
    return EXTRACTORS.build(node, path="features")


def build_reference(node: Node, path: str, datamodule: RankingData, *, needed: bool) -> Any:
    """A reference, before it loads anything.

    Args:
        node: Its name and options.
        path: Where the config names it.
        datamodule: What it is judged on.
        needed: Whether one that cannot be computed is an error.

    Raises:
        ConfigError: If the data lacks what it needs, or it reads what only the run's own ranker can read.
    """
    reference: Any = RANKERS.build(node, path=path, **datamodule.facts)
    _check_without_weights(reference, path)
    lacking = reference.lacks(datamodule)
    if lacking is None and isinstance(reference, PoolRanker) and reference.reading().queries is not None:
        lacking = "it reads queries as tokens, which only the run's own ranker gets"
    if lacking is not None and needed:
        raise ConfigError(path, f"{reference.name} cannot be computed: {lacking}.", cure="leave it out")
    return reference


def _check_without_weights(reference: Ranker[Any], path: str) -> None:
    """Refuse a reference that has weights, if they are made with it; a run finds the others."""
    if not is_overridden("configure_model", reference, LightningModule) and reference.is_trained:
        problem = f"{reference.name} has weights that would have to be trained."
        raise ConfigError(path, problem, cure="a ranker without weights, or a run of its own")


def check_ranker_alone(ranker: Ranker[Any], datamodule: RankingData) -> None:
    """Refuse a run's own ranker that the data lacks something for, or that cannot rank alone.

    Raises:
        ConfigError: With what is lacking.
    """
    if (lacking := ranker.lacks(datamodule)) is not None:
        raise ConfigError("ranker.name", f"{ranker.name} cannot be computed: {lacking}.", cure="another ranker")
    replayed = datamodule.replayed if isinstance(datamodule, GroupData) else None
    for store, data in (("the store", datamodule), ("the store of datamodule.replay", replayed)):
        known = data.known.extra if data is not None else ranker.extra
        if lacking := [name for name in ranker.extra if name not in known]:
            has = ", ".join(known) or "none of these"
            problem = f"{store} has no {' and no '.join(lacking)} of its candidates; it has {has}."
            cure = "leave it out, or sample responses with features.generator=transformers and a verifier of answers"
            raise ConfigError("ranker.extra", problem, cure=cure)
    if ranker.extra and datamodule.shared_negatives:
        problem = "is normalised within a group, but datamodule.negatives takes candidates of other groups."
        raise ConfigError("ranker.extra", problem, cure="datamodule.negatives=group")
    if type(ranker).evaluation_scores is not Ranker.evaluation_scores:
        problem = f"{ranker.name} cannot rank a query's candidates on its own."
        raise ConfigError("ranker.name", problem, cure=f"references: [{ranker.name}], beside another ranker")


def check_training(ranker: Ranker[Any], node: Mapping[str, Any]) -> None:
    """Refuse another loss, optimizer or schedule than the defaults for a ranker that has nothing to train.

    Raises:
        ConfigError: With the option that would have no effect.
    """
    if not ranker.is_trained and (option := _changed(node, "loss", "optimizer", "schedule")):
        raise ConfigError(f"ranker.{option}", f"{ranker.name} has nothing to train.", cure="leave it out")


def check_kind(config: RunConfig) -> None:
    """Refuse rankers and references that cannot read the batches of the datamodule.

    Raises:
        ConfigError: If they cannot; the error lists the datamodules that would work.
    """
    given = DATAMODULES.get(config.datamodule["name"]).batch_type
    names = [node["name"] for node in config.references or []]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError("references", f"{twice} is there twice.", cure="name each once")
    references = {f"references[{place}]": node for place, node in enumerate(config.references or [])}
    for path, node in references.items():
        if option := _changed(node, "metrics", "loss", "optimizer", "schedule"):
            problem = "has no effect on a reference, which is judged as the ranker is."
            raise ConfigError(f"{path}.{option}", problem, cure="leave it out")
    for path, node in {"datamodule": config.ranker, **references}.items():
        wanted, judging = RANKERS.get(node["name"]).batch_and_judging(node)
        over_pool = issubclass(judging, PoolJudging)
        if issubclass(given, wanted) and over_pool == issubclass(given, PoolBatch):
            continue
        kinds = {name: DATAMODULES.get(name).batch_type for name in DATAMODULES.names()}
        fitting = [
            name
            for name, kind in kinds.items()
            if issubclass(kind, wanted) and over_pool == issubclass(kind, PoolBatch)
        ]
        reads, ranks = (_KINDS.get(kind, f"batches of {kind.__name__}") for kind in (given, wanted))
        problem = f"{config.datamodule['name']} reads {reads}; {node['name']} ranks {ranks}."
        use = f"use {' or '.join(fitting)}, or another ranker" if fitting else "use another ranker"
        cure = use if path == "datamodule" else "leave it out"
        raise ConfigError(f"{path}.name", problem, cure=cure)


def _check_mining(config: RunConfig) -> None:
    """Refuse a ranker that is to find its own negatives and does not score a pool by inner products."""
    node = config.datamodule
    judging = RANKERS.get(config.ranker["name"]).batch_and_judging(config.ranker)[1]
    if node.get("negatives") == "mined" and node.get("mined_by") == "ranker" and not issubclass(judging, VectorJudging):
        problem = f"{config.ranker['name']} does not score a pool by inner products of vectors."
        raise ConfigError("datamodule.mined_by", problem, given="ranker", cure="encoder")


def check_steps(options: Mapping[str, Any], datamodule: RankingData) -> None:
    """Refuse limits that leave no batches, and validation intervals that are longer than an epoch."""
    sizes = {"train": datamodule.steps_per_epoch, **{split: datamodule.steps(split) for split in ("val", "test")}}
    for split, size in sizes.items():
        limit = options.get(f"limit_{split}_batches")
        if isinstance(limit, float) and limit * size < 1:
            problem, digits = f"{limit:g} of {size} batches is less than one.", len(str(size)) + 1
            cure = f"at least {math.ceil(10**digits / size) / 10**digits:g}, or a whole number of batches"
            raise ConfigError(f"trainer.limit_{split}_batches", problem, cure=cure)
    limit = options.get("limit_train_batches")
    longest = int(limit * sizes["train"]) if isinstance(limit, float) else min(limit or sizes["train"], sizes["train"])
    interval = options.get("val_check_interval")
    if isinstance(interval, int) and interval > longest and options.get("check_val_every_n_epoch", 1) is not None:
        problem = f"{interval} is more than the {longest} batches of an epoch."
        cure = f"{longest} at most, or check_val_every_n_epoch=null to count over all epochs"
        raise ConfigError("trainer.val_check_interval", problem, cure=cure)


def check_negatives(ranker: str, shared: bool) -> None:
    """Refuse negatives from other groups if the ranker compares the candidates of one group with each other."""
    if shared and not RANKERS.get(ranker).takes_shared_negatives:
        problem = f"{ranker} scores candidates in the company of their group, not against others."
        cure = "datamodule.negatives=group, or a ranker like point_ranker"
        raise ConfigError("datamodule.negatives", problem, cure=cure)


def _try_to_make_folder(runs: Path) -> None:
    """Create and remove a folder where the run's would be; permissions are not enough to know, e.g. on /proc."""
    there = next(folder for folder in (runs, *runs.absolute().parents) if folder.is_dir())
    try:
        Path(tempfile.mkdtemp(prefix=".check-", dir=there)).rmdir()
    except OSError as error:
        cure = "set it to a folder that you may write to"
        raise ConfigError("runs", f"no folder can be made in {there}: {error.strerror}.", cure=cure) from error


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
    """Try loss and metrics on one group, optimizer and schedule on one weight."""
    labels, mask = torch.tensor([[1.0, 0.0]]), torch.ones(1, 2, dtype=torch.bool)
    name = config.ranker["name"]
    if "metrics" not in config.ranker:
        cure = "end its __init__ with **training: Unpack[Training] and pass them on; rankers.base has Training"
        raise ConfigError("ranker.name", f"{name} has no option for the metrics of a run.", cure=cure)
    if "loss" in config.ranker:
        with _refused_as("ranker.loss"):
            loss = LOSSES.bind(config.ranker["loss"] or RANKERS.get(name).default_loss, "ranker.loss")
            _check_shape(loss(labels.clone(), labels, mask), ())
    for place, node in enumerate(config.ranker["metrics"]):
        with _refused_as(f"ranker.metrics[{place}]"):
            _check_shape(METRICS.bind(node)(*Places.of_scores(labels, mask), labels, labels > 0), (1,))
    names = [metric_name(node) for node in config.ranker["metrics"]]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError("ranker.metrics", f"{twice} is there twice.", cure="name each once")
    if "optimizer" in config.ranker:
        optimizer = OPTIMIZERS.build(config.ranker["optimizer"], [nn.Parameter(labels)], path="ranker.optimizer")
        SCHEDULES.build(config.ranker.get("schedule", "constant"), optimizer, 100, path="ranker.schedule")
    check_negatives(name, config.datamodule.get("negatives", "group") != "group")


def _read_source(extractor: Extractor) -> str:
    """Read the user's own files, only the ends of large ones; returns what was read and what was not."""
    files = files_of(extractor.source)
    if not files:
        return "the data of features.source was not read"
    size = sum(file.path.stat().st_size for file in files)
    if size <= _READ_WHOLE:
        extractor.read_source()
        return "all of the data was read"
    without = [file.path.name for file in files if not file.check_end()]
    read = f"of the data ({size / 2**20:,.0f} MB) only the first record and the last line of each file were read"
    return f"{read}; of {', '.join(without)} not even the last line" if without else read


def _check_encoder(extractor: Extractor, download: bool) -> None:
    encoder = extractor.encoder
    if encoder is not None:
        encoder.check_folder("features.encoder")
    if encoder is not None and (download or encoder.is_here):
        config = encoder.config()
        positions, padding = (getattr(config, name, None) for name in ("max_position_embeddings", "pad_token_id"))
        # Only the model, which takes seconds to load, says how many positions it keeps for padding, as at most these.
        if positions is not None and encoder.max_length > positions - (padding or 0) - 1:
            encoder.check_length(encoder.max_length, "features.encoder", encoder.outline())


def _build_without_weights(ranker: Mapping[str, Any]) -> Any:
    """Build a complete node on the meta device; errors that only arise without real weights are ignored."""
    with torch.device("meta"), suppress(RuntimeError):
        return RANKERS.assemble(ranker, path="ranker")


def _changed(node: Mapping[str, Any], *names: str) -> str | None:
    """The first of these options that a complete node sets to another value than its default."""
    options = schema.options(RANKERS.get(node["name"]))
    known = (options[name] for name in names if name in options)
    changed = (each.name for each in known if node[each.name] != schema.convert(each.default, each.annotation, ""))
    return next(changed, None)


@contextmanager
def _refused_as(path: str) -> Iterator[None]:
    try:
        yield
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(path, f"{error}.") from error
    except Exception as error:  # of a function of the user's
        frame, line = list(traceback.walk_tb(error.__traceback__))[-1]
        place = f"{frame.f_code.co_filename}, line {line}"
        raise ConfigError(path, f"{place}: {type(error).__name__}: {error}.", cure="correct the function") from error


def _check_shape(value: Any, shape: tuple[int, ...]) -> None:
    """Refuse what no loss or metric of one query may return."""
    if not isinstance(value, Tensor) or tuple(value.shape) != shape:
        found = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise ValueError(f"it returns {found} for one query, expected a tensor of shape {shape}")
