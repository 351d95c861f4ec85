"""python -m benchmarks cornac data=FILE: recommenders beside cornac's, trained and judged on the same interactions."""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from rich.console import Console

from benchmarks import machine
from benchmarks.peers import require
from console.decimals import decimal, interval
from console.tables import new_table, print_table
from datamodules.user_sequences import UserSequences
from ranking.metrics import ndcg, recall
from ranking.significance import Interval, paired_difference
from registry import ConfigError, load_config
from training.checking import build_extractor
from training.results.provenance import provenance
from training.results.report import plain, write_json
from training.results.run_files import read_per_query
from training.run import train

METRICS = {"HR@10": "recall@10", "NDCG@10": "ndcg@10"}
LEARNT = {"model_selection": "best", "val_metric": "ndcg", "val_k": 10}
"""How cornac's sequential models choose an epoch, by validation as ours do."""

Score = Callable[[int, Sequence[int]], Float[np.ndarray, " N"]]
"""The scores of all items for a user with a history of rows."""
Cell = Mapping[str, Any]
"""The values of a trained model for each test query, by metric, and the seconds of its training."""


@dataclass(frozen=True)
class Pair:
    """A recommender of ours and cornac's.

    Args:
        config: The config of ours.
        ranker: Its name.
        theirs: The name of cornac's class.
        settings: Options of cornac's, and `times` as many epochs; of several, those with the best NDCG@10 on validation
            are taken.
    """

    config: str
    ranker: str
    theirs: str
    settings: Sequence[Mapping[str, Any]]


SIZES = {"embedding_dim": 64, "max_len": 50, "num_blocks": 2}
PAIRS = {
    "SASRec": Pair("sasrec_interactions.yaml", "sasrec", "SASRec", [{**SIZES, "num_heads": 1}]),
    # The paper's masks, and what the class BERT4Rec of cornac does, which predicts the last item of each prefix;
    # with masks an epoch reads each sequence once, not once for each of its items.
    "BERT4Rec": Pair(
        "bert4rec_s3rec.yaml",
        "bert4rec",
        "TransformerRec",
        [
            {**SIZES, "num_heads": 2, "backbone": "bert", "objective": "mlm", "batch_size": 128, "times": 10},
            {**SIZES, "num_heads": 2, "backbone": "bert", "objective": "clm", "loss_at": "last"},
        ],
    ),
    "GRU4Rec": Pair(
        "sasrec_interactions.yaml", "gru4rec", "GRU4Rec", [{"layers": [128], "logq": 1.0, "dropout_p_hidden": 0.3}]
    ),
    "BPR": Pair(
        "sasrec_interactions.yaml", "bpr", "BPR", [{"k": 64, "learning_rate": rate} for rate in (0.001, 0.01, 0.05)]
    ),
    "FM": Pair("sasrec_interactions.yaml", "fm", "FM", [{"k2": size, "verbose": False} for size in (8, 64)]),
}
OPTIONS = {"data": "", "models": ",".join(PAIRS), "seeds": "3", "epochs": "100", "our_epochs": ""}


def run_cornac(given: Mapping[str, str], results: Path, runs: Path, console: Console) -> dict[str, Any]:
    """Train all models with all seeds, print how far apart they are, and write `cornac.json`.

    The last item of each user is the test, the one before it the validation, all before these the training; all items
    that the user has not met are ranked, for both by the same code. Finished models are kept, so the command goes on.

    Args:
        given: `data`, a file of the source `interactions`; `models`, their names with commas between; `seeds`, how
            many; `epochs`, of cornac's models; `our_epochs`, the most of ours, where not those of their configs.
        results: The folder for the results.
        runs: The folder for the runs, and for the values of cornac's models.
        console: Where to print.

    Raises:
        ConfigError: If cornac is not installed or an option is unknown or wrong.
    """
    require("cornac")
    chosen = _checked(given)
    names, seeds, epochs = chosen["models"].split(","), range(int(chosen["seeds"])), int(chosen["epochs"])
    source = json.dumps({"name": "interactions", "path": chosen["data"]})
    pool = str(build_extractor({"name": "candidate_pool", "encoder": None, "source": json.loads(source)}).run())
    data = UserSequences(pool, exclude_history=True)
    folder = runs / "cornac" / Path(pool).name
    folder.mkdir(parents=True, exist_ok=True)
    table, document = new_table("", "ours", "cornac", "difference", "seconds", title=_TITLE), {}
    for name in names:
        pair = PAIRS[name]
        cells: dict[str, list[Cell]] = {"ours": [], "cornac": []}
        for seed in seeds:
            overrides = [f"features.source={source}", f"seed={seed}", f"runs={folder}"]
            overrides += [f"trainer.max_epochs={most}"] if (most := chosen["our_epochs"]) else []
            overrides += [] if pair.config.startswith(pair.ranker) else [f"ranker={pair.ranker}"]
            ours = partial(_train_ours, pair, overrides)
            cells["ours"].append(_kept(folder / f"{name}-{seed}-ours.json", ours))
            theirs = partial(_train_theirs, pair, data, seed, epochs)
            cells["cornac"].append(_kept(folder / f"{name}-{seed}-cornac-{epochs}.json", theirs))
        document[name] = _summary(cells)
        for shown, metric in METRICS.items():
            found = document[name][metric]
            apart: Interval = found["interval"]
            difference = f"{decimal(apart.mean, signed=True)} {interval(apart.low, apart.high, signed=True)}"
            seconds = " / ".join(decimal(document[name]["seconds"][side], 0) for side in cells)
            table.add_row(f"{name} {shown}", *(decimal(found[side]) for side in cells), difference, seconds)
    print_table(console, table)
    results.mkdir(parents=True, exist_ok=True)
    made_with = {**provenance(), "machine": machine.describe()}
    for each in document.values():
        for metric in METRICS.values():
            each[metric]["interval"] = plain(each[metric]["interval"])
    write_json(results / "cornac.json", {"options": chosen, "models": document, "made_with": made_with})
    return document


_TITLE = "each user's last item among all that the user has not met; means over seeds, difference with its interval"


def _checked(given: Mapping[str, str]) -> dict[str, str]:
    if unknown := [name for name in given if name not in OPTIONS]:
        raise ConfigError(unknown[0], "no such option.", known=list(OPTIONS))
    chosen = {**OPTIONS, **given}
    if not Path(chosen["data"]).is_file():
        raise ConfigError("data", f"{chosen['data'] or 'nothing'}: no such file.", cure="data=FILE of interactions")
    if unknown := [name for name in chosen["models"].split(",") if name not in PAIRS]:
        raise ConfigError("models", f"no model {unknown[0]}.", known=list(PAIRS))
    for name in ("seeds", "epochs", "our_epochs"):
        if chosen[name] != OPTIONS[name] and not (chosen[name].isdecimal() and int(chosen[name])):
            raise ConfigError(name, "has to be a number above 0.", given=chosen[name])
    return chosen


def _kept(file: Path, work: Callable[[], Cell]) -> Cell:
    """What a file holds, or the result of the work, written there."""
    if not file.is_file():
        write_json(file, work())
    return json.loads(file.read_text(encoding="utf-8"))


def _train_ours(pair: Pair, overrides: Sequence[str]) -> Cell:
    run = train(load_config(pair.config, overrides), Path(pair.config).stem)
    values = read_per_query(run.path / "per_query.csv", pair.ranker)
    found = {metric: {query: row[metric] for query, row in values.items()} for metric in METRICS.values()}
    return {**found, "seconds": run.metrics["seconds"]["fit"]}


def _train_theirs(pair: Pair, data: UserSequences, seed: int, epochs: int) -> Cell:
    tried = []
    for settings in pair.settings:
        started = time.perf_counter()
        score = _fit(pair.theirs, {**settings, "seed": seed}, data, epochs)
        seconds = time.perf_counter() - started
        tried.append((np.mean([*judge(score, data, "val")["ndcg@10"].values()]), settings, seconds, score))
    _, settings, seconds, score = max(tried, key=lambda each: each[0])
    return {**judge(score, data, "test"), "seconds": seconds, "settings": dict(settings)}


def judge(score: Score, data: UserSequences, split: str) -> dict[str, dict[str, float]]:
    """The metrics of each query of a split, with the items of its history left out."""
    above, tied, queries = [], [], data.queries(split)
    for query in queries.tolist():
        history, (right,) = _items(data, query)
        scores = np.array(score(int(data.pool.queries.user[query]), history), dtype=np.float64)
        own = scores[right]
        scores[[right, *history]] = np.nan
        above.append(float((scores > own).sum()))
        tied.append(float((scores == own).sum()))
    places = torch.tensor(above).unsqueeze(1), torch.tensor(tied).unsqueeze(1)
    labels = torch.ones_like(places[0])
    ids = [data.query_id(query) for query in queries.tolist()]
    functions = {"recall@10": recall, "ndcg@10": ndcg}
    found = {name: metric(*places, labels, labels > 0, k=10).tolist() for name, metric in functions.items()}
    return {name: dict(zip(ids, values, strict=True)) for name, values in found.items()}


def _fit(name: str, settings: Mapping[str, Any], data: UserSequences, epochs: int) -> Score:
    from cornac import models  # pyright: ignore[reportMissingImports]

    model, options = getattr(models, name), {key: value for key, value in settings.items() if key != "times"}
    if name in ("BPR", "FM"):
        return _fit_factors(model(**options, max_iter=epochs), data, settings["seed"])
    times = settings.get("times", 1)
    options |= {**LEARNT, "n_epochs": epochs * times, "val_eval_every": 5 * times}
    return _fit_sequential(model(**options), data, settings["seed"])


def _fit_sequential(model: Any, data: UserSequences, seed: int) -> Score:
    """Train on users' sequences; validation and test have the same sequences with one item and two items more."""
    from cornac.eval_methods import NextItemEvaluation  # pyright: ignore[reportMissingImports]

    splits = {split: [*_rows(data, split)] for split in ("train", "val", "test")}
    made = NextItemEvaluation.from_splits(
        train_data=splits["train"], val_data=splits["val"], test_data=splits["test"],
        fmt="USIT", exclude_unknowns=False, seed=seed,
    )  # fmt: skip
    model.fit(made.train_set, made.val_set)
    place = made.global_iid_map
    rows = _by_place(place)

    def score(user: int, history: Sequence[int]) -> Float[np.ndarray, " N"]:
        found = model.score(0, [place[row] for row in history])
        return _of_all(np.asarray(found)[: len(rows)], rows, data.pool.num_candidates)

    return score


def _fit_factors(model: Any, data: UserSequences, seed: int) -> Score:
    """Train on pairs of a user and an item.

    cornac's FM predicts ratings, so it gets the users' items as 1 and four drawn items for each as 0, as many as ours.
    """
    from cornac.data import Dataset  # pyright: ignore[reportMissingImports]

    draw, triples = np.random.default_rng(seed), []
    for user, items in _sequences(data):
        triples += [(user, item, 1.0) for item in dict.fromkeys(items)]
        if type(model).__name__ == "FM":
            drawn = set(draw.integers(data.pool.num_candidates, size=4 * len(items)).tolist()) - set(items)
            triples += [(user, item, 0.0) for item in sorted(drawn)]
    training = Dataset.build(triples, fmt="UIR", seed=seed)
    model.fit(training)
    rows = _by_place(training.iid_map)

    def score(user: int, history: Sequence[int]) -> Float[np.ndarray, " N"]:
        found = np.asarray(model.score(training.uid_map[user])) if user in training.uid_map else np.zeros(len(rows))
        return _of_all(found[: len(rows)], rows, data.pool.num_candidates)

    return score


def _rows(data: UserSequences, split: str) -> Iterable[tuple[int, int, int, int]]:
    """User, session, item and time, as cornac has them: a user's items are one session."""
    if split == "train":
        sequences: Iterable[tuple[int, Sequence[int]]] = _sequences(data)
    else:
        items = ((query, *_items(data, query)) for query in data.queries(split).tolist())
        sequences = ((int(data.pool.queries.user[query]), [*history, *right]) for query, history, right in items)
    return ((user, user, item, time) for user, items in sequences for time, item in enumerate(items))


def _sequences(data: UserSequences) -> Iterable[tuple[int, list[int]]]:
    found = data.sequences
    for place, query in enumerate(found.index.tolist()):
        start, end = found.offsets[place : place + 2].tolist()
        yield int(data.pool.queries.user[query]), found.flat[start:end].tolist()


def _items(data: UserSequences, query: int) -> tuple[list[int], list[int]]:
    """The rows in a query's history, oldest first, and those that are right."""
    known = data.pool.queries
    history = known.history[slice(*known.history_offsets[query : query + 2].tolist())]
    return history.tolist(), known.relevant[slice(*known.relevant_offsets[query : query + 2].tolist())].tolist()


def _by_place(places: Mapping[int, int]) -> np.ndarray:
    """The row of each of cornac's items."""
    return np.array(sorted(places, key=places.__getitem__))


def _of_all(scores: np.ndarray, rows: np.ndarray, num_items: int) -> Float[np.ndarray, " N"]:
    """Scores by row; items that cornac does not know come last."""
    found = np.full(num_items, -np.inf)
    found[rows[: len(scores)]] = scores
    return found


def _summary(cells: Mapping[str, Sequence[Cell]]) -> dict[str, Any]:
    """Means over seeds, and how much better ours is, by the mean of each query over seeds."""
    found: dict[str, Any] = {
        "seconds": {side: float(np.mean([each["seconds"] for each in parts])) for side, parts in cells.items()},
        "settings": [each["settings"] for each in cells["cornac"]],
    }
    for metric in METRICS.values():
        queries = sorted(cells["ours"][0][metric])
        means = {
            side: np.mean([[each[metric][query] for query in queries] for each in parts], axis=0)
            for side, parts in cells.items()
        }
        by_seed = {side: [float(np.mean([*each[metric].values()])) for each in parts] for side, parts in cells.items()}
        found[metric] = {
            **{side: float(values.mean()) for side, values in means.items()},
            "by seed": by_seed,
            "interval": paired_difference(means["ours"], means["cornac"]),
        }
    return found
