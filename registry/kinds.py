"""Kinds: one registry for each sort of component that a yaml can name."""

from typing import TYPE_CHECKING, Any

from registry.registry import Registry

if TYPE_CHECKING:
    from lightning import Callback, LightningDataModule
    from lightning.pytorch.loggers import Logger
    from torch import Tensor, nn
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from features.generation import Generator
    from features.text_groups import Source
    from rankers.aggregators import Aggregator
    from rankers.base import Ranker

RANKERS: "Registry[Ranker[Any]]" = Registry("rankers", "rankers", provided=("feature_dim",))
BLOCKS: "Registry[nn.Module]" = Registry("blocks", "rankers.blocks", provided=("dim",))
PROJECTIONS: "Registry[nn.Module]" = Registry("projections", "rankers.projections", provided=("feature_dim",))
SIMILARITIES: "Registry[nn.Module]" = Registry("similarities", "rankers.similarities", provided=("dim",))
AGGREGATORS: "Registry[Aggregator]" = Registry("aggregators", "rankers.aggregators", provided=("feature_dim",))
PROJECTORS: "Registry[nn.Module]" = Registry(
    "projectors", "rankers.projectors", provided=("feature_dim", "num_centroids", "dim")
)
OPTIMIZERS: "Registry[Optimizer]" = Registry("optimizers", "rankers.optimizers")
SCHEDULES: "Registry[LRScheduler]" = Registry("schedules", "rankers.schedules")
LOSSES: "Registry[Tensor]" = Registry("losses", "ranking.losses")
METRICS: "Registry[Tensor]" = Registry("metrics", "ranking.metrics")
RANK_METRICS: "Registry[Tensor]" = Registry("rank_metrics", "ranking.rank_metrics")
DATAMODULES: "Registry[LightningDataModule]" = Registry("datamodules", "datamodules", provided=("path",))
SOURCES: "Registry[Source]" = Registry("sources", "features.sources")
GENERATORS: "Registry[Generator]" = Registry("generators", "features.generators")
VERIFIERS: "Registry[Any]" = Registry("verifiers", "features.verifiers")
EXTRACTORS: "Registry[Any]" = Registry("extractors", "features.extractors")
LOGGERS: "Registry[Logger]" = Registry("loggers", "training.loggers", provided=("run_dir",))
CALLBACKS: "Registry[Callback]" = Registry("callbacks", "training.callbacks")

KINDS: dict[str, Registry[Any]] = {
    registry.kind: registry
    for registry in (
        RANKERS, BLOCKS, PROJECTIONS, SIMILARITIES, AGGREGATORS, PROJECTORS, LOSSES, METRICS, RANK_METRICS, OPTIMIZERS,
        SCHEDULES,
        DATAMODULES, SOURCES, GENERATORS, VERIFIERS, EXTRACTORS, LOGGERS, CALLBACKS,
    )
}  # fmt: skip
