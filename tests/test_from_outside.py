"""A text ranker, a recommender and a reference, each a file outside the repository, are used from yaml alone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_llama import save
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

import train
from rankers.checkpoint import load_ranker
from ranking.stores.candidate_pool import CandidatePool
from registry import ConfigError, load_config

LIKELIHOOD = '''"""Likelihood: a candidate's score is how probable a language model finds it after the query."""
from typing import Unpack

import torch
from torch import Tensor

from language_models.backbone import Backbone
from rankers.base import Ranker, Training
from ranking.batch import TextBatch
from registry import RANKERS


@RANKERS.register("likelihood")
class Likelihood(Ranker[TextBatch]):
    """The mean log-probability of a candidate's tokens; nothing is trained.

    Args:
        backbone: The language model that is asked.
    """

    batch_type = TextBatch

    def __init__(self, backbone: Backbone, **training: Unpack[Training]) -> None:
        super().__init__(**training)
        self._described, self.model = backbone, None

    def configure_model(self) -> None:
        if self.model is None:
            self.model = self._described.load_causal().requires_grad_(False)
            self._tokenizer = self._described.tokenizer()

    def forward(self, batch: TextBatch) -> Tensor:
        rows = zip(batch.queries, batch.candidates, strict=True)
        return torch.tensor([[self._score(query, text) for text in texts] for query, texts in rows])

    def _score(self, query: str, text: str) -> float:
        prompt, tokens = (self._tokenizer(part)["input_ids"] for part in (query + "\\n", text))
        if not tokens:
            return 0.0
        logits = self.model(torch.tensor([prompt + tokens], device=self.device)).logits[0, len(prompt) - 1 : -1]
        found = logits.log_softmax(dim=-1)[torch.arange(len(tokens)), tokens]
        return float(found.mean())
'''

NEXT_ITEM = '''"""NextItem: the items of a history, averaged, are compared with every item of the pool."""
from typing import Unpack

import torch
from torch import Tensor, nn

from rankers.base import Training
from rankers.judging.scores import ScoreJudging
from rankers.pool_ranker import PoolRanker
from ranking.pools.pool_batch import PoolBatch
from ranking.pools.pool_data import Reading
from registry import RANKERS


@RANKERS.register("next_item")
class NextItem(PoolRanker):
    """Scores = mean of the history's embeddings . embedding of each item.

    Args:
        num_items: Items of the pool; read off the data.
        dim: Size of an embedding.
    """

    judging = ScoreJudging

    def __init__(self, num_items: int, dim: int = 16, **training: Unpack[Training]) -> None:
        super().__init__(**training)
        self.seen, self.items = nn.Embedding(num_items + 1, dim), nn.Embedding(num_items, dim)

    def reading(self) -> Reading:
        return Reading(histories=True)

    def user(self, batch: PoolBatch) -> Tensor:
        there = (batch.history >= 0).unsqueeze(-1)
        return (self.seen(batch.history + 1) * there).sum(dim=1) / there.sum(dim=1).clamp(min=1)

    def training_scores(self, batch: PoolBatch) -> tuple[Tensor, Tensor, Tensor]:
        return self.user(batch) @ self.items(batch.rows).T, batch.labels, batch.mask

    def forward(self, batch: PoolBatch) -> Tensor:
        return self.user(batch) @ self.items.weight.T
'''

LONGEST = '''"""Longest: a reference that prefers long candidates."""
import torch
from torch import Tensor

from rankers.base import Ranker
from ranking.batch import TextBatch
from registry import RANKERS


@RANKERS.register("longest_text")
class Longest(Ranker[TextBatch]):
    """The number of letters of a candidate."""

    batch_type = TextBatch

    def forward(self, batch: TextBatch) -> Tensor:
        return torch.tensor([[float(len(text)) for text in texts] for texts in batch.candidates])
'''
NO_METRICS = '''"""A ranker whose options cannot be set."""
from rankers.base import Ranker
from registry import RANKERS


@RANKERS.register("no_metrics")
class NoMetrics(Ranker):
    """It has no options."""

    def __init__(self) -> None:
        super().__init__()
'''
TASK_ROUTER = '''"""TaskRouter: a model's score is its mean label on training queries that begin with the same word."""
from collections import defaultdict

import torch
from torch import Tensor

from rankers.base import Untrained
from ranking.batch import TextBatch
from registry import RANKERS


@RANKERS.register("task_router")
class TaskRouter(Untrained[TextBatch]):
    """Knows each model by its text."""

    batch_type = TextBatch

    def learn_from(self, data) -> None:
        self.found = defaultdict(list)
        for batch in data.evaluation_batches("train", data.most_candidates("train"), 1):
            for query, texts, labels in zip(batch.queries, batch.candidates, batch.labels.tolist(), strict=True):
                for text, label in zip(texts, labels, strict=True):
                    self.found[query.split()[0], text].append(label)

    def forward(self, batch: TextBatch) -> Tensor:
        rows = zip(batch.queries, batch.candidates, strict=True)
        return torch.tensor([[self._mean(query.split()[0], text) for text in texts] for query, texts in rows])

    def _mean(self, word: str, text: str) -> float:
        labels = self.found.get((word, text), [0.0])
        return sum(labels) / len(labels)
'''

POINTWISE = '''"""Pointwise: asks a language model how relevant each passage is."""
from rankers.prompted.prompted_ranker import PromptedRanker, Questions
from registry import RANKERS


@RANKERS.register("pointwise")
class Pointwise(PromptedRanker):
    """A digit for each passage; an answer without one counts as 0."""

    def ranking(self, query, candidates, faults):
        prompts = [f"{query} | {text} | relevance from 0 to 9:" for text in candidates]
        answers = yield Questions([[{"role": "user", "content": prompt}] for prompt in prompts])
        digits = [[letter for letter in answer if letter.isdigit()] for answer in answers]
        faults["no digit"] += sum(not found for found in digits)
        return [float(found[0]) if found else 0.0 for found in digits]
'''
FILES = {
    "task_router": TASK_ROUTER,
    "pointwise": POINTWISE,
    "likelihood": LIKELIHOOD,
    "next_item": NEXT_ITEM,
    "longest_text": LONGEST,
}


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Write the files and a config beside them, and run train.py on it."""
    for name, text in FILES.items():
        assert len(text.splitlines()) <= 50
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)

    def run(config: str) -> Path:
        (tmp_path / "mine.yaml").write_text(config)
        assert train.main(["--config", "mine.yaml", "--check"]) == 0
        assert train.main(["--config", "mine.yaml"]) == 0
        (found,) = (tmp_path / "runs" / "mine").iterdir()
        return found

    return run


def rows_of_groups() -> list[dict[str, Any]]:
    words = ["sort", "the list", "open a file", "read the value", "a"]
    return [
        {
            "query_id": f"q{place}",
            "query": f"task {place} of {word}",
            "candidates": [
                {"id": f"c{k}", "text": f"{words[(place + k) % 5]} {k}", "label": int(k == place % 3)} for k in range(3)
            ],
        }
        for place in range(30)
        for word in [words[place % 5]]
    ]


@pytest.mark.usefixtures("outside")
def test_a_text_ranker_without_weights_asks_a_language_model(tmp_path: Path, start: Callable[[str], Path]) -> None:
    model = save(tmp_path / "tiny", LlamaConfig, LlamaForCausalLM)
    rows = rows_of_groups()
    (tmp_path / "groups.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = start(
        f"""
imports: [likelihood, longest_text]
ranker: {{name: likelihood, backbone: {{model: {model}}}}}
references: [random, longest_text, oracle]
features: {{name: texts, source: {{name: jsonl, path: groups.jsonl}}}}
datamodule: {{name: text_groups, eval_batch_size: 3}}
logger: csv
"""
    )
    metrics = json.loads((run / "metrics.json").read_text())
    assert list(metrics["test"]["scorers"]) == ["random", "longest_text", "likelihood", "oracle"]
    assert metrics["num_parameters"] == metrics["steps"] == 0 and not list(run.glob("*.ckpt"))
    texts = {row["query_id"]: {each["id"]: each["text"] for each in row["candidates"]} for row in rows}
    queries = {row["query_id"]: row["query"] for row in rows}
    plain, tokenizer = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    lines = (run / "run.trec").read_text().splitlines()
    assert lines
    for line in lines:
        query, _, candidate, _, score, _ = line.split()
        prompt = tokenizer(queries[query] + "\n")["input_ids"]
        tokens = tokenizer(texts[query][candidate])["input_ids"]
        labels = torch.tensor([[-100] * len(prompt) + tokens])
        loss = plain(torch.tensor([prompt + tokens]), labels=labels).loss
        assert float(score) == pytest.approx(-loss.item(), abs=1e-4)
    longest = {
        row["query_id"]: [
            1 / (1 + sum(len(other["text"]) > len(each["text"]) for other in row["candidates"]))
            for each in row["candidates"]
            if each["label"]
        ]
        for row in rows
    }
    ties = {row["query_id"]: len({len(each["text"]) for each in row["candidates"]}) == 3 for row in rows}
    for line in (run / "per_query.csv").read_text().splitlines()[1:]:
        query, scorer, _, mrr, *_ = line.split(",")
        if scorer == "longest_text" and ties[query]:
            assert float(mrr) == pytest.approx(longest[query][0])


@pytest.mark.usefixtures("outside")
def test_a_router_chooses_models(tmp_path: Path, start: Callable[[str], Path]) -> None:
    rows = [
        {
            "query_id": f"q{place}",
            "query": f"{word} task {place}",
            "scores": {"one": float(word == "sort"), "two": float(word == "open"), "three": 0.25},
        }
        for place in range(40)
        for word in [["sort", "open"][place % 2]]
    ]
    (tmp_path / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = start(
        """
imports: [task_router]
ranker: {name: task_router, metrics: [chosen]}
references: [best_single, oracle]
features: {name: texts, source: {name: routing, queries: queries.jsonl}}
datamodule: {name: text_groups, split_shares: [0.5, 0.2, 0.3]}
monitor: val/chosen
logger: csv
"""
    )
    metrics = json.loads((run / "metrics.json").read_text())
    found = {name: means["label"]["mean"] for name, means in metrics["routing"]["scorers"].items()}
    assert found["task_router"] == found["oracle"] == 1 > found["best_single"]


@pytest.mark.usefixtures("outside")
def test_a_prompted_ranker_asks_and_is_counted(tmp_path: Path, start: Callable[[str], Path]) -> None:
    model = save(tmp_path / "tiny", LlamaConfig, LlamaForCausalLM)
    rows = rows_of_groups()
    (tmp_path / "groups.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = start(
        f"""
imports: [pointwise]
ranker:
  name: pointwise
  generator: {{name: transformers, model: {model}, template: plain}}
  max_new_tokens: 8
features: {{name: texts, source: {{name: jsonl, path: groups.jsonl}}}}
datamodule: {{name: text_groups}}
logger: csv
"""
    )
    asked = json.loads((run / "metrics.json").read_text())["asked"]["test"]
    assert asked["calls"] == 3 * asked["queries"] > 0
    assert asked["prompt_tokens"] > 20 * asked["calls"] and 0 < asked["new_tokens"] <= 8 * asked["calls"]


@pytest.mark.usefixtures("outside")
def test_a_recommender_on_histories_scores_all_items(
    tmp_path: Path, pool: CandidatePool, start: Callable[[str], Path]
) -> None:
    run = start(
        f"""
imports: [next_item]
ranker: {{name: next_item, metrics: [mrr, recall@10], optimizer: {{name: adamw, lr: 0.05}}}}
references: [popularity, encoder]
datamodule: {{name: partitioned_candidates, path: {pool.path}, num_partitions: 2, batch_size: 8, exclude_history: true}}
trainer: {{max_epochs: 3}}
logger: csv
"""
    )
    metrics = json.loads((run / "metrics.json").read_text())
    assert list(metrics["test"]["scorers"]) == ["popularity", "encoder", "next_item"]
    ranker, known = load_ranker(run), pool.queries
    for line in (run / "run.trec").read_text().splitlines():
        query_id, _, candidate, rank, score, _ = line.split()
        if int(rank) > 3:
            continue
        query = next(query for query in range(known.num_queries) if known.id(query) == query_id)
        row = next(row for row in range(pool.num_candidates) if pool.id(row) == candidate)
        seen = known.history[known.history_offsets[query] : known.history_offsets[query + 1]].long()
        user = ranker.seen.weight[seen + 1].double().mean(dim=0) if len(seen) else torch.zeros(16).double()
        assert float(score) == pytest.approx((user @ ranker.items.weight[row].double()).item(), abs=1e-4)
        assert row not in seen.tolist() or row in known.relevant.tolist()


@pytest.mark.usefixtures("outside")
def test_references_that_cannot_be_computed_or_do_not_fit_are_refused(
    run_config: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    config = run_config("run.yaml")
    for references, message in {
        "[beam]": "references[0]: beam cannot be computed: no beam search was made",
        "[first, majority]": "references[1]: majority cannot be computed: no answers of the candidates are known",
        "[mean_log_probability]": "references[0]: mean_log_probability cannot be computed: no probabilities of",
        "[longest]": "references[0]: longest cannot be computed: no numbers of tokens of the candidates are known",
        "[self_certainty]": "references[0]: self_certainty cannot be computed: no self-certainty of the candidates",
        "[weighted_majority]": "references[0]: weighted_majority cannot be computed: no answers of the candidates",
        "[bm25]": "references[0].name: grouped_features reads groups of vectors; bm25 ranks a pool",
        "[firts]": "Did you mean: first",
        "[first, first]": "references: first is there twice",
        "[point_ranker]": "references[0]: point_ranker has weights that would have to be trained",
    }.items():
        assert train.main(["--config", str(config), f"references={references}"]) == 1
        assert message in capsys.readouterr().err
    assert train.main(["--config", str(config), "ranker.baselines=[bm25]"]) == 1
    assert "references: [bm25, encoder]" in capsys.readouterr().err


@pytest.mark.usefixtures("outside")
def test_a_ranker_that_lacks_something_is_refused_by_check_and_run(
    run_config: Callable[..., Path], pool: CandidatePool, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(run_config("run.yaml"))
    for ranker, message in {
        "majority": "ranker.name: majority cannot be computed: no answers of the candidates are known",
        "shortest": "ranker.name: shortest cannot be computed: no numbers of tokens of the candidates are known",
        "bm25": "datamodule.name: grouped_features reads groups of vectors; bm25 ranks a pool that all queries share",
    }.items():
        for more in ([], ["--check"]):
            assert train.main(["--config", config, "ranker={name: " + ranker + "}", *more]) == 1
            assert message in capsys.readouterr().err
    over_pool = f"datamodule={{name: partitioned_candidates, path: {pool.path}, num_partitions: 2}}"
    assert train.main(["--config", config, over_pool, "ranker=popularity", "references=[random]", "--check"]) == 1
    assert "references[0].name: partitioned_candidates reads a pool that all queries share; random ranks" in (
        capsys.readouterr().err
    )


@pytest.mark.usefixtures("outside")
def test_a_run_without_weights_is_gone_on_with_and_says_that_it_has_no_checkpoint(
    run_config: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = run_config("run.yaml")
    assert train.main(["--config", str(config), "ranker={name: cosine}"]) == 0
    (run,) = (tmp_path / "runs" / "run").iterdir()
    first = (run / "run.trec").read_bytes()
    assert train.main(["--resume", str(run), "trainer.devices=1", "references=[random]"]) == 0
    assert (run / "run.trec").read_bytes() == first
    with pytest.raises(ConfigError, match="this run has no checkpoint: its ranker has no weights"):
        load_ranker(run)


def test_the_config_of_an_earlier_version_names_its_references_in_the_ranker(tmp_path: Path) -> None:
    old = "ranker: {name: lranker, baselines: [encoder]}\ndatamodule: {name: partitioned_candidates, path: pool}\n"
    (tmp_path / "config.yaml").write_text(old)
    (tmp_path / "mine.yaml").write_text(old)
    assert [node["name"] for node in load_config(tmp_path / "config.yaml").references or []] == ["encoder"]
    with pytest.raises(ConfigError, match=r"(?s)ranker.baselines.*references: \[bm25, encoder\]"):
        load_config(tmp_path / "mine.yaml")


@pytest.mark.usefixtures("outside")
def test_options_of_training_are_refused_where_nothing_is_trained(
    run_config: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = save(tmp_path / "tiny", LlamaConfig, LlamaForCausalLM)
    (tmp_path / "likelihood.py").write_text(LIKELIHOOD)
    (tmp_path / "no_metrics.py").write_text(NO_METRICS)
    config = str(run_config("run.yaml"))
    flat = "ranker={name: point_ranker, projection: null, num_blocks: 0, "
    texts = "datamodule={name: text_groups, path: " + str(load_config(config).datamodule["path"]) + "}"
    asked = "ranker={name: likelihood, backbone: {model: " + str(model) + "}, schedule: cosine}"
    for overrides, message in {
        ("ranker={name: cosine, loss: bce}",): "ranker.loss: no such option of Cosine.\n  Known:        metrics",
        ("ranker={name: bm25, optimizer: {lr: 1}}",): "ranker.optimizer: no such option of BM25.",
        ("ranker={name: knn_probe, schedule: cosine}",): "ranker.schedule: no such option of KnnProbe.",
        ("references=[{name: first, loss: bce}]",): "references[0].loss: no such option of First.",
        ("references=[first, {name: random, metrics: [mrr]}]",): "references[1].metrics: has no effect on a reference",
        ("ranker=weighted_majority",): "ranker.name: weighted_majority cannot be computed: no answers",
        (flat + "optimizer: {lr: 1}}",): "ranker.optimizer: point_ranker has nothing to train.",
        (
            "imports=[no_metrics]",
            "ranker=no_metrics",
        ): "ranker.name: no_metrics has no option for the metrics of a run.",
    }.items():
        for more in (["--check"], []):
            assert train.main(["--config", config, *more, *overrides]) == 1, overrides
            assert message in capsys.readouterr().err
    assert train.main(["--config", config, "imports=[likelihood]", texts, asked]) == 1
    assert "ranker.schedule: likelihood has nothing to train." in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.usefixtures("outside")
def test_a_run_without_weights_needs_no_end_of_training_and_saves_no_options_of_it(
    run_config: Callable[..., Path], tmp_path: Path
) -> None:
    config = run_config("run.yaml")
    assert train.main(["--config", str(config), "ranker=cosine", "references=[first]", "trainer.max_epochs=-1"]) == 0
    (run,) = (tmp_path / "runs" / "run").iterdir()
    saved = load_config(run / "config.yaml")
    assert saved.ranker.keys() == saved.references[0].keys() == {"name", "metrics"}
    older = (
        (run / "config.yaml").read_text().replace("  name: cosine\n", "  name: cosine\n  loss: null\n  schedule: x\n")
    )
    assert "loss" in older
    (run / "config.yaml").write_text(older)
    assert load_config(run / "config.yaml") == saved
    assert train.main(["--resume", str(run), "trainer.devices=1"]) == 0
    with pytest.raises(ConfigError, match="no such option of Cosine"):
        load_config(run / "config.yaml", ["ranker.loss=bce"])
