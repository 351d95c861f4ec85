"""Components by name, and how a yaml becomes objects."""

from registry.config import FeaturesConfig, RunConfig, load_config
from registry.errors import ConfigError
from registry.kinds import (
    AGGREGATORS,
    BLOCKS,
    CALLBACKS,
    DATAMODULES,
    EXTRACTORS,
    GENERATORS,
    KINDS,
    LOGGERS,
    LOSSES,
    METRICS,
    OPTIMIZERS,
    PROJECTIONS,
    PROJECTORS,
    RANKERS,
    SCHEDULES,
    SIMILARITIES,
    SOURCES,
    VERIFIERS,
)
from registry.registry import Registry
from registry.schema import Node

__all__ = [
    "AGGREGATORS",
    "BLOCKS",
    "CALLBACKS",
    "DATAMODULES",
    "EXTRACTORS",
    "GENERATORS",
    "KINDS",
    "LOGGERS",
    "LOSSES",
    "METRICS",
    "OPTIMIZERS",
    "PROJECTIONS",
    "PROJECTORS",
    "RANKERS",
    "SCHEDULES",
    "SIMILARITIES",
    "SOURCES",
    "VERIFIERS",
    "ConfigError",
    "FeaturesConfig",
    "Node",
    "Registry",
    "RunConfig",
    "load_config",
]
