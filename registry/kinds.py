"""Kinds: one registry for each kind of component that a yaml can name."""

from registry.registry import Registry

RANKERS = Registry("rankers", "rankers", provided=("feature_dim", "num_depths", "num_items", "num_users"))
BLOCKS = Registry("blocks", "rankers.language_ranker.blocks", provided=("dim",))
PROJECTIONS = Registry("projections", "rankers.language_ranker.projections", provided=("feature_dim",))
SIMILARITIES = Registry("similarities", "rankers.language_ranker.similarities", provided=("dim",))
AGGREGATORS = Registry("aggregators", "rankers.lranker.aggregators", provided=("feature_dim",))
PROJECTORS = Registry("projectors", "rankers.lranker.projectors", provided=("feature_dim", "num_centroids", "dim"))
OPTIMIZERS = Registry("optimizers", "rankers.optimizers")
SCHEDULES = Registry("schedules", "rankers.schedules")
LOSSES = Registry("losses", "ranking.losses")
METRICS = Registry("metrics", "ranking.metrics")
DATAMODULES = Registry("datamodules", "datamodules", provided=("path",))
SOURCES = Registry("sources", "features.sources")
GENERATORS = Registry("generators", "features.generators")
VERIFIERS = Registry("verifiers", "features.verifiers")
EXTRACTORS = Registry("extractors", "features.extractors")
LOGGERS = Registry("loggers", "training.loggers", provided=("run_dir",))
CALLBACKS = Registry("callbacks", "training.callbacks")

KINDS: dict[str, Registry] = {
    registry.kind: registry
    for registry in (
        RANKERS, BLOCKS, PROJECTIONS, SIMILARITIES, AGGREGATORS, PROJECTORS, LOSSES, METRICS, OPTIMIZERS, SCHEDULES,
        DATAMODULES, SOURCES, GENERATORS, VERIFIERS, EXTRACTORS, LOGGERS, CALLBACKS,
    )
}  # fmt: skip
