"""Loading: from paths of runs to the rankers of a hall."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from features.sources.own.routing import Routing
from rankers.base import Ranker
from rankers.checkpoint import CONFIG_FILE, load_ranker
from rankers.lranker.lranker import LRanker
from rankers.routers.router import Router
from rankers.routers.router_bert import RouterBERT
from ranking.stores.candidate_pool import CandidatePool
from registry import ConfigError, load_config
from serving.chat.best_of import BestOf, generator_of
from serving.chat.endpoint import Endpoint
from serving.feedback.database import FeedbackDatabase
from serving.feedback.heads import can_be_personal
from serving.model_router import ModelRouter, RoutedModel
from serving.reranker import Reranker
from serving.searcher import Searcher
from serving.server.hall import Hall
from serving.slices import Slices
from training.checking import build_extractor

FEEDBACK_FILE = "feedback.sqlite"
logger = logging.getLogger("serving")

_OWN = "own"


@dataclass(frozen=True)
class Named:
    """A path with a name.

    Args:
        name: What requests call it.
        path: Where it is.
    """

    name: str
    path: Path


def named(given: Sequence[str], what: str) -> list[Named]:
    """Paths with their names, from `NAME=PATH` or `PATH`; a run without a name has that of its config.

    Raises:
        ConfigError: If a path does not exist, or a name is there twice.
    """
    found: dict[str, Named] = {}
    for each in given:
        name, separator, path = each.partition("=")
        if not separator or Path(each).exists():
            name, path = _own_name(Path(each)), each
        if not Path(path).exists():
            raise ConfigError(path, f"no such {what}.", cure="give the folder of a run, or NAME=FOLDER")
        if name in found:
            problem = f"{path} and {found[name].path} have the same name."
            raise ConfigError(name, problem, cure="give each a name of its own, as in NAME=FOLDER")
        found[name] = Named(name, Path(path))
    return list(found.values())


def load(
    hall: Hall,
    runs: Sequence[Named],
    pools: Sequence[Named] = (),
    models: Path | None = None,
    endpoint: Endpoint | None = None,
    slices: Slices | None = None,
) -> None:
    """Load the rankers of runs into a hall.

    Args:
        hall: The hall.
        runs: The rankers.
        pools: Pools that every LRanker searches beside its own.
        models: A file of the language models that routers choose from; None for that of the run.
        endpoint: Where the responses to chats come from; None for the models of rankers of responses, in this process.
        slices: The processes that share the pools, of which this is the first one; None to search them alone.

    Raises:
        ConfigError: If a ranker, its encoder or a pool cannot be loaded.
        ValueError: If a ranker cannot be served.
    """
    if any(pool.name == _OWN for pool in pools):
        raise ConfigError(_OWN, "is the name of each ranker's own pool.", cure="give the pool another name")
    for run in runs:
        ranker = load_ranker(run.path)
        if isinstance(ranker, LRanker):
            for pool, searcher in _searchers(ranker, run, pools, slices, sum(map(len, hall.searchers.values()))):
                searcher.rank(["a query"], 1)
                hall.add_searcher(run.name, pool, searcher)
        elif isinstance(ranker, Router | RouterBERT):
            hall.add_router(run.name, ModelRouter(_reranker(hall, ranker, run.path), _models(run.path, models)))
        elif endpoint is not None:
            hall.add_reranker(run.name, _reranker(hall, ranker, run.path))
            hall.add_endpoint_chat(run.name, endpoint)
        else:
            best_of = _best_of(ranker, run.path)
            if best_of is not None:
                hall.add_chat(run.name, best_of)
            if best_of is None or not ranker.extra:
                hall.add_reranker(run.name, _reranker(hall, ranker, run.path, best_of))


def keep_feedback(hall: Hall, runs: Sequence[Named], database: str | None = None) -> bool:
    """Open the database of feedback, and let users teach the rankers of a hall that can learn from them.

    Args:
        hall: The hall, with its rankers.
        runs: Where these are from.
        database: A file, a URL, or `off`; None for a file beside the first run that can learn.

    Returns:
        Whether feedback is kept: there is a ranker that can learn from it, and the database is not `off`.

    Raises:
        ConfigError: If the database cannot be opened.
    """
    able = [run for run in runs if run.name in hall.rerankers and can_be_personal(hall.rerankers[run.name].ranker)]
    if database == "off" or not able:
        return False
    path = able[0].path
    hall.keep_feedback(FeedbackDatabase(database or (path if path.is_dir() else path.parent) / FEEDBACK_FILE))
    return True


def follow(runs: Sequence[Named], pools: Sequence[Named], slices: Slices) -> None:
    """In all processes but the first: search the own slices of its pools until it ends.

    Raises:
        ConfigError: If a ranker or a pool cannot be loaded.
        RuntimeError: If the first process has died.
    """
    searchers: list[Searcher] = []
    for run in runs:
        if isinstance(ranker := load_ranker(run.path), LRanker):
            searchers += [searcher for _, searcher in _searchers(ranker, run, pools)]
    device = searchers[0].ranker.device if searchers else torch.device("cpu")
    slices.follow([partial(each.search, distributed=True) for each in searchers], device)


def _searchers(
    ranker: LRanker, run: Named, pools: Sequence[Named], slices: Slices | None = None, first: int = 0
) -> Iterator[tuple[str, Searcher]]:
    """Each pool of a ranker by name; `first` is the number of its first pool among all pools of the server."""
    for number, pool in enumerate(_pools(run, pools)):
        # Attaching a pool changes the ranker, so each pool has one of its own.
        own = ranker if number == 0 else load_ranker(run.path)
        assert isinstance(own, LRanker)
        share = None if slices is None else partial(slices.search, first + number)
        yield pool.name, Searcher(own, CandidatePool.open(pool.path), share)


def _pools(run: Named, pools: Sequence[Named]) -> list[Named]:
    """The pools of an LRanker: its own, if it is here, and those that were named."""
    own = _own_pool(run.path)
    found = ([Named(_OWN, own)] if own is not None else []) + list(pools)
    if not found:
        raise ConfigError(str(run.path), "the run's own pool is not here.", cure="--pool NAME=FOLDER")
    return found


def _best_of(ranker: Ranker, path: Path) -> BestOf | None:
    """A ranker of responses with its model, which has answered once; None if it cannot sample in this process."""
    try:
        generator = generator_of(ranker, path)
        if generator is None:
            return None
        best_of = BestOf(ranker, generator)
        best_of.ask([best_of.question([{"role": "user", "content": "a query"}], num_candidates=2, max_tokens=2)])
        return best_of
    except (ConfigError, ValueError) as error:
        logger.warning("no chat", extra={"fields": {"event": "no chat", "run": str(path), "reason": str(error)}})
        return None


def _reranker(hall: Hall, ranker: Ranker, path: Path, best_of: BestOf | None = None) -> Reranker:
    """A ranker that has ranked once, so that its models are loaded and known to work."""
    if best_of is not None:  # its model is in memory already
        reranker = Reranker(ranker, best_of.generator)
    else:
        reranker = Reranker.of(ranker, path, num_remembered=hall.settings.num_remembered)
    reranker.rank("a query", ["a document"])
    return reranker


def _own_name(path: Path) -> str:
    """`runs/quickstart/2026-01-31_12-00-00` is quickstart; any other folder or file has its own name."""
    path = path.resolve()
    is_run = (path / "config.yaml").is_file() and not (path / CONFIG_FILE).is_file()
    return path.parent.name if is_run else path.stem if path.is_file() else path.name


def _own_pool(path: Path) -> Path | None:
    """The pool that a run was trained on, if it is still there."""
    config = path / "config.yaml"
    if not config.is_file():
        return None
    run = load_config(config, [])
    pool = Path(run.datamodule["path"]) if run.features is None else build_extractor(run.features).path
    return pool if pool.is_dir() else None


def _models(path: Path, models: Path | None) -> list[RoutedModel]:
    """The language models that a router chooses from: those of a file, or of the file that the run names."""
    if models is not None:
        source = Routing(queries=[], models=str(models))
    else:
        config = path / "config.yaml"
        run = load_config(config, []) if config.is_file() else None
        extractor = build_extractor(run.features) if run is not None and run.features is not None else None
        source = getattr(extractor, "source", None)
        if not isinstance(source, Routing) or not all(file.path.is_file() for file in source.own_files):
            return []
    return [RoutedModel(model.id, model.text) for model in source.models.values()]
