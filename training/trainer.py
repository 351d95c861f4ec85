"""Trainer: builds Lightning's Trainer, checks every option under `trainer:`, and hides its greetings."""

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypedDict, Union, get_type_hints

import torch
from annotated_types import Gt, Interval, Le
from lightning import Callback, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.strategies import ModelParallelStrategy

from language_models.precision import announce_dtype, device_named, resolve_dtype
from registry import ConfigError, schema
from registry.ranges import Count, NonNegative
from training.resuming import WholeCheckpoints

DEFAULTS: dict[str, Any] = {"num_sanity_val_steps": 0, "enable_model_summary": False}
SET_BY_THE_RUN = ("logger", "callbacks", "default_root_dir", "use_distributed_sampler", "enable_checkpointing")
IMPOSSIBLE = {
    "overfit_batches": "groups are drawn anew each epoch; use trainer.limit_train_batches",
    "barebones": "a run saves and logs; use trainer.enable_progress_bar=false",
    "fast_dev_run": "it saves nothing that could be tested; use trainer.max_steps=2 and trainer.limit_val_batches=2",
}
_FORKING = ("ddp_spawn", "ddp_fork", "ddp_notebook")
_Batches = Union[Count, Annotated[float, Gt(0), Le(1)]]  # noqa: UP007


class FSDP2(ModelParallelStrategy):
    """Every process holds a share of each weight (PyTorch's fully_shard, Zhao et al. 2023, arXiv 2304.11277).

    A checkpoint holds the weights whole, as those of one process do.
    """

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        """Share the weights out to all processes of all nodes."""
        self._data_parallel_size = self.num_processes * self.num_nodes
        super().setup_environment()

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Load the weights, and to train on the optimizer's state; validation and test need no memory for it."""
        assert self.lightning_module is not None
        if self.lightning_module.trainer.state.fn != "fit":
            self._reset_optimizers_and_schedulers()
        return super().load_checkpoint(checkpoint_path, weights_only)


class TrainerRanges(TypedDict, total=False):
    """The ranges of Lightning's options; Lightning declares only their types."""

    accumulate_grad_batches: Count
    check_val_every_n_epoch: Count | None
    gradient_clip_val: NonNegative | None
    limit_predict_batches: _Batches | None
    limit_test_batches: _Batches | None
    limit_train_batches: _Batches | None
    limit_val_batches: _Batches | None
    log_every_n_steps: Count | None
    max_epochs: Annotated[int, Interval(ge=-1, le=1_000_000)] | None
    max_steps: Annotated[int, Interval(ge=-1, le=2**31 - 1)]
    min_epochs: Annotated[int, Interval(ge=0, le=1_000_000)] | None
    min_steps: Annotated[int, Interval(ge=0, le=2**31 - 1)] | None
    num_nodes: Count
    num_sanity_val_steps: Annotated[int, Interval(ge=-1, le=1_000_000)] | None
    reload_dataloaders_every_n_epochs: Annotated[int, Interval(ge=0, le=1_000_000)]
    val_check_interval: _Batches | None


RANGES = get_type_hints(TrainerRanges, include_extras=True)


def build_trainer(
    options: Mapping[str, Any],
    *,
    loggers: Sequence[Any] = (),
    callbacks: Sequence[Callback] = (),
    folder: Path | None = None,
) -> Trainer:
    """Build a Trainer.

    Args:
        options: The options under `trainer:`.
        loggers: The loggers of the run.
        callbacks: The callbacks of the run.
        folder: The run's folder; None without a run.

    Raises:
        ConfigError: For an unknown option, an invalid value, or hardware that this machine does not have.
    """
    _quiet()
    for option in SET_BY_THE_RUN:
        if option in options:
            cure = "use the top-level keys logger, callbacks and runs"
            raise ConfigError(f"trainer.{option}", "is set by the run itself.", cure=cure)
    for option, cure in IMPOSSIBLE.items():
        if options.get(option):
            raise ConfigError(f"trainer.{option}", "is not an option of these runs.", cure=cure)
    if str(options.get("strategy", "")).startswith(_FORKING):
        raise ConfigError("trainer.strategy", f"{options['strategy']} keeps the results from the run.", cure="ddp")
    given = {**DEFAULTS, **options}
    given |= resolve_precision(given)
    try:
        bound = schema.bind(Trainer, given, "trainer")
    except ConfigError as error:
        if error.path == "trainer.precision" and error.known:
            known = ["auto", *error.known]
            raise ConfigError(error.path, error.problem, given=given["precision"], known=known) from error
        raise
    for option in given.keys() & RANGES.keys():
        bound[option] = schema.convert(given[option], RANGES[option], f"trainer.{option}")
    if asked := given.get("precision"):
        announce_dtype("trainer.precision", str(asked), str(asked), "trainer.precision=auto", device_of(given))
    if bound["strategy"] == "fsdp2":
        if device_of(given).type == "cpu" and not hasattr(torch.cpu.Stream, "record_event"):  # as in 2.6
            problem = f"PyTorch {torch.__version__} cannot shard weights on a CPU."
            raise ConfigError("trainer.strategy", problem, given="fsdp2", cure="a newer PyTorch, or ddp")
        bound["strategy"] = FSDP2()
    try:
        trainer = Trainer(
            **{key: bound[key] for key in given},
            logger=list(loggers),
            callbacks=list(callbacks),
            default_root_dir=folder,
            use_distributed_sampler=False,
        )
    except (MisconfigurationException, ValueError, TypeError, ImportError, RuntimeError) as error:
        raise ConfigError("trainer", str(error)) from error
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = WholeCheckpoints()
    return trainer


def device_of(options: Mapping[str, Any]) -> torch.device:
    """The device on which a trainer with these options computes."""
    return torch.device("cpu") if options.get("accelerator") == "cpu" else device_named()


def resolve_precision(options: Mapping[str, Any]) -> dict[str, Any]:
    """Replace `precision: auto` in a trainer's options: by bf16-mixed if the hardware supports it, else 32-true."""
    if options.get("precision") != "auto":
        return dict(options)
    device = device_of(options)
    precision = "bf16-mixed" if resolve_dtype("auto", device) == "bfloat16" else "32-true"
    announce_dtype("trainer.precision", "auto", precision, "", device)
    return {**options, "precision": precision}


def resolve_backbone(ranker: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Replace `backbone.dtype: auto` in a ranker's options by the dtype for the device of this trainer.

    A backbone whose own weights are trained stays in float32: bfloat16 would round small steps away.
    """
    backbone = ranker.get("backbone")
    if not isinstance(backbone, Mapping) or backbone.get("dtype") != "auto":
        return dict(ranker)
    device = device_of(options)
    dtype = "float32" if ranker.get("train") == "all" else resolve_dtype("auto", device)
    announce_dtype("ranker.backbone.dtype", "auto", dtype, "", device)
    return {**ranker, "backbone": {**backbone, "dtype": dtype}}


def _quiet() -> None:
    """Hide Lightning's greetings, and its advice that is wrong here, because a batch is one gather."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*is smaller than the logging interval.*",
        "Checkpoint directory .* exists and is not empty",
        ".*isinstance.treespec, LeafSpec.*",
        ".*in eval mode at the start of training.*",
    ):
        warnings.filterwarnings("ignore", message=message)
