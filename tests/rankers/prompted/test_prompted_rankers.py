"""Rankers that ask a language model: their orders are those of its answers, whatever they are; none is asked twice."""

import json
import math
import random
from collections import Counter
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_llama import save
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

import train
from rankers.prompted.answers import final_answer, matched, permutation, preferred
from rankers.prompted.prompted_ranker import PromptedRanker
from rankers.prompted.query_rewriter import QueryRewriter, search_query
from ranking.stores.candidate_pool import CandidatePool
from registry import RANKERS, ConfigError

VALUES = [3, 9, 1, 7, 5, 0, 8]
TEXTS = [f"value {value} of seven" for value in VALUES]
METHODS: dict[str, dict[str, Any]] = {
    "allpair": {"name": "prp"},
    "sorting": {"name": "prp", "method": "sorting"},
    "sliding": {"name": "prp", "method": "sliding"},
    "rankgpt": {"name": "rankgpt"},
    "windows": {"name": "rankgpt", "window": 4, "step": 2},
    "iranker": {"name": "iranker"},
}
Build = Callable[..., PromptedRanker]


@pytest.fixture
def build(server: Any, tmp_path: Path) -> Build:
    def made(node: dict[str, Any], **generator: Any) -> PromptedRanker:
        whole = {"generator": {**server.generator, **generator}, "cache": str(tmp_path / "answers.sqlite"), **node}
        return RANKERS.build(whole)

    return made


def order_of(scores: torch.Tensor) -> list[int]:
    return scores.argsort(descending=True, stable=True).tolist()


@pytest.mark.parametrize("method", METHODS)
def test_a_perfect_model_gives_the_perfect_order(method: str, build: Build) -> None:
    ranker = build(METHODS[method])
    scores = ranker.score(["which value is highest?", "again?"], [TEXTS, TEXTS[:1]])
    best = sorted(range(len(VALUES)), key=VALUES.__getitem__, reverse=True)
    assert scores[len(TEXTS) :].tolist() == [0]
    found = order_of(scores[: len(TEXTS)])
    # Windows that overlap by half put the best in front, not all in order.
    assert found[:2] == best[:2] if method == "windows" else found == best


@pytest.mark.parametrize(
    ("method", "calls", "sent"),
    # Sliding compares some neighbours again, whose answers are known.
    [("allpair", 42, 42), ("sliding", 42, 30), ("rankgpt", 1, 1), ("windows", 3, 3), ("iranker", 6, 6)],
)
def test_calls_and_tokens_are_counted_and_nothing_is_asked_twice(
    method: str, calls: int, sent: int, build: Build, server: Any
) -> None:
    for cached in (calls - sent, calls):
        ranker = build(METHODS[method])
        scores = ranker.score(["which?"], [TEXTS])
        (cost,) = ranker.findings()["asked"].values()
        assert len(server.asked) == sent
        known = {"calls": calls, "cached": cached, "prompt_tokens": 10 * calls, "new_tokens": 2 * calls}
        assert {name: cost[name] for name in known} == known and cost["seconds"] > 0 and not cost["faults"]
        assert cost["a_query"]["calls"] == calls
    torch.testing.assert_close(build(METHODS[method], parallel=1).score(["which?"], [TEXTS]), scores)
    assert len(server.asked) == sent
    assert all(asked["temperature"] == 0 and asked["n"] == 1 and asked["max_tokens"] == 256 for asked in server.asked)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("answer", ["", "I cannot say.", "[999] Passage", 400], ids=str)
def test_answers_that_name_nothing_are_counted_and_end_no_run(
    method: str, answer: Any, build: Build, server: Any
) -> None:
    server.say = lambda messages: answer
    ranker = build(METHODS[method])
    if answer == 400:  # some answer came before, so that the server is not taken for a wrong one
        server.say = lambda messages: answer if len(server.asked) > 1 else "ok"
    scores = ranker.score(["which?"], [TEXTS])
    assert bool(scores.isfinite().all()) and len(scores) == len(TEXTS)
    (cost,) = ranker.findings()["asked"].values()
    assert sum(cost["faults"].values()) >= cost["calls"] - 1
    if method != "iranker":
        assert order_of(scores) == list(range(len(TEXTS)))
    if answer == "" and method == "iranker":
        assert order_of(scores)[0] == 0


def test_all_pairs_score_as_a_loop_over_both_orders(build: Build, server: Any) -> None:
    said: dict[tuple[int, int], str] = {}
    draw = random.Random(0)
    for pair in permutations(range(len(TEXTS)), 2):
        said[pair] = draw.choice(["Passage A", "Passage B", "both Passage A and Passage B"])

    def say(messages: list[dict[str, str]]) -> str:
        text = messages[0]["content"]
        first, second = (next(n for n, each in enumerate(TEXTS) if f"Passage {x}: {each}" in text) for x in "AB")
        return said[first, second]

    server.say = say
    scores = build(METHODS["allpair"]).score(["which?"], [TEXTS])
    for one in range(len(TEXTS)):
        expected = 0.0
        for other in range(len(TEXTS)):
            if one != other:
                votes = (said[one, other], said[other, one])
                expected += {("Passage A", "Passage B"): 1.0, ("Passage B", "Passage A"): 0.0}.get(votes, 0.5)
        # What the first order takes off is too little to change more than the order of equal sums.
        assert math.ceil(2 * scores[one].item()) / 2 == expected


def test_passages_with_equal_sums_keep_their_order(build: Build, server: Any) -> None:
    server.say = lambda messages: "Passage A"
    assert build(METHODS["allpair"]).score(["which?"], [TEXTS]).diff().max() < 0


def test_equal_questions_are_asked_once(build: Build, server: Any) -> None:
    ranker = build({"name": "iranker", "temperature": 0.7})
    scores = ranker.score(["which?", "which?"], [TEXTS, TEXTS])
    (cost,) = ranker.findings()["asked"].values()
    assert (len(server.asked), cost["calls"], cost["cached"]) == (6, 12, 6)
    assert scores[: len(TEXTS)].tolist() == scores[len(TEXTS) :].tolist()


def test_windows_slide_from_the_end_as_published(build: Build, server: Any) -> None:
    build({"name": "rankgpt", "window": 4, "step": 2}).score(["which?"], [TEXTS])
    shown = []
    for asked in server.asked:
        text = "\n".join(message["content"] for message in asked["messages"])
        shown.append([value for value in VALUES if f"value {value} of" in text])
    # Places 3 to 6, then 1 to 4 and 0 to 3, each window with what the one before has put in front.
    assert [set(each) for each in shown] == [{7, 5, 0, 8}, {9, 1, 8, 7}, {3, 9, 8, 7}]
    with pytest.raises(ValueError, match="window"):
        RANKERS.get("rankgpt")(window=4, step=5)


def test_passages_are_shortened_to_words(build: Build, server: Any) -> None:
    build({"name": "iranker", "max_words": 3}).score(["which?"], [TEXTS])
    assert "[1] value 3 of\n" in server.asked[0]["messages"][0]["content"]


@pytest.mark.parametrize(
    ("text", "order", "faults"),
    [
        ("[2] > [1] > [3]", [1, 0, 2], {}),
        ("2, 3, 1", [1, 2, 0], {}),
        ("<think>1 or 3?</think>[3] > [3] > [12]", [2, 0, 1], {"repeated", "number of no", "missing"}),
        ("1 or 3?</think>[3] > [2] > [1]", [2, 1, 0], {}),  # the template wrote <think>
        ("[3] > [2] <think>1?</think> > [1]", [2, 1, 0], {}),
        ("", [0, 1, 2], {"names no"}),
        ("[0] > [99999999999999999999]", [0, 1, 2], {"names no", "number of no"}),
    ],
)
def test_permutations_are_repaired(text: str, order: list[int], faults: set[str]) -> None:
    found: Counter[str] = Counter()
    assert permutation(text, 3, found) == order
    assert set(+found) == {f"{fault} passage" for fault in faults}


def test_answers_in_words_are_read() -> None:
    read = {text: preferred(text, Counter()) for text in ("Passage A", "B", "(b)", "passage: [B]", "A, not B", "")}
    assert read == {"Passage A": "A", "B": "B", "(b)": None, "passage: [B]": "B", "A, not B": None, "": None}
    assert preferred("<think>Passage A?</think> **Passage B**", Counter()) == "B"
    names = ["Toy Story (1995)", "Heat (1995)", "Toy Story 2 (1999)"]
    for answer, place in {
        "Heat (1995)": 1,
        "[3]": 2,
        "2": 1,
        "Candidate [1]": 0,
        "3.": 2,
        "I would remove [2].": 1,
        "Candidate 3": 2,
        "toy story 2": 2,
        "I would remove Heat (1995) now": 1,
        "Toi Stori (1995)": 0,
    }.items():
        assert matched(final_answer(f"<think>[1]</think><answer>{answer}</answer>"), names, Counter()) == place, answer
    faults: Counter[str] = Counter()
    assert matched("", names, faults) is None and faults == {"names no candidate": 1}
    assert search_query('{"query": " a car "}', Counter()) == "a car"
    assert search_query("<answer>car</answer>", Counter()) == "car"
    for text in ("", '{"query": 3}', "[1]", "<answer></answer>"):
        faults = Counter()
        assert search_query(text, faults) is None and faults == {"no search query": 1}


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return save(tmp_path / "tiny", LlamaConfig, LlamaForCausalLM)


def test_the_likelier_answer_counts_where_the_model_tells_it(tiny: Path, tmp_path: Path) -> None:
    generator = {"name": "transformers", "model": str(tiny), "template": "plain", "dtype": "float32"}
    ranker = RANKERS.build({"name": "prp", "generator": generator, "cache": str(tmp_path / "answers.sqlite")})
    texts = ["the file", "a list", "read"]
    scores = ranker.score(["open"], [texts])
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny), AutoTokenizer.from_pretrained(tiny)

    def prefers_first(first: str, second: str) -> bool:
        prompt = (
            'Given a query "open", which of the following two passages is more relevant to the query?\n\n'
            f"Passage A: {first}\n\nPassage B: {second}\n\nOutput Passage A or Passage B:"
        )
        found = []
        for answer in ("Passage A", "Passage B"):
            before, after = (tokenizer(part)["input_ids"] for part in (prompt, answer))
            with torch.no_grad():
                logits = model(torch.tensor([before + after])).logits[0, len(before) - 1 : -1].log_softmax(dim=-1)
            found.append(sum(float(logits[place, token]) for place, token in enumerate(after)))
        return found[0] > found[1]

    for one in range(3):
        expected = 0.0
        for other in set(range(3)) - {one}:
            votes = prefers_first(texts[one], texts[other]), prefers_first(texts[other], texts[one])
            expected += 0.5 if votes[0] == votes[1] else float(votes[0])
        assert math.ceil(2 * scores[one].item()) / 2 == expected
    (cost,) = ranker.findings()["asked"].values()
    assert cost["calls"] == 6


def test_mistakes_of_a_rankers_generator_are_named_where_the_ranker_has_it(tiny: Path) -> None:
    ranker = RANKERS.build({"name": "prp", "generator": {"name": "transformers", "model": str(tiny)}})
    with pytest.raises(ConfigError, match=r"^ranker\.generator\.template: the model has no chat template"):
        ranker.check_backbone(download=False)


def test_likelihoods_of_answers_of_any_length_are_those_of_the_model(tiny: Path) -> None:
    from language_models.asking.likelihoods import answer_likelihoods

    model = AutoModelForCausalLM.from_pretrained(tiny)
    prompts, answers = [[5, 6, 7], [8], [9, 10, 11, 12, 13]], [[20, 21], [20, 22, 23], [24]]
    for size in (1, 1000):
        found = answer_likelihoods(model, prompts, answers, size)
        for prompt, row in zip(prompts, found, strict=True):
            for answer, value in zip(answers, row, strict=True):
                with torch.no_grad():
                    logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].log_softmax(dim=-1)
                expected = sum(float(logits[place, token]) for place, token in enumerate(answer))
                assert value == pytest.approx(expected, abs=1e-4)
    with pytest.raises(ValueError, match="one answer begins another"):
        answer_likelihoods(model, prompts, [[1], [1, 2]], 100)


def test_generators_that_cannot_be_asked_and_options_without_effect_are_refused(build: Build, tiny: Path) -> None:
    for generator, message in [
        ({"name": "recorded", "model": str(tiny)}, "only gives responses that exist already"),
        ({"name": "transformers", "model": str(tiny), "temperature": 0.7}, "temperature is 0.7, but the ranker asks"),
    ]:
        with pytest.raises(ConfigError, match=message):
            RANKERS.build({"name": "rankgpt", "generator": generator})
    with pytest.raises(ConfigError, match="does not tell how likely an answer is"):
        build({"name": "prp", "by": "likelihood"}).score(["which?"], [TEXTS])


def test_a_server_that_is_gone_ends_the_run_with_a_cure_and_the_answers_stay(build: Build, server: Any) -> None:
    server.say = lambda messages: "[1]" if len(server.asked) < 3 else 503
    with pytest.raises(ConfigError, match=r"(?s)does not answer.*run the same command to continue"):
        build(METHODS["iranker"], attempts=1).score(["which?"], [TEXTS])
    server.say = lambda messages: "[1]"
    ranker = build(METHODS["iranker"])
    ranker.score(["which?"], [TEXTS])
    assert ranker.findings()["asked"][""]["cached"] == 2


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Groups of texts with values, in a folder of their own; the best has the highest value."""
    monkeypatch.chdir(tmp_path)
    draw, rows = random.Random(1), []
    for place in range(40):
        values = draw.sample(range(100), 5)
        candidates = [
            {"id": str(n), "text": f"value {value} of seven", "label": int(value == max(values))}
            for n, value in enumerate(values)
        ]
        rows.append({"query_id": f"q{place}", "query": f"which {place}?", "candidates": candidates})
    (tmp_path / "groups.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sorting", "rankgpt", "iranker"])
def test_runs_report_what_was_asked_and_resume_from_the_answers(
    method: str, groups: Path, server: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    node = {**METHODS[method], "generator": server.generator}
    (groups / "p.yaml").write_text(
        f"""
ranker: {json.dumps(node)}
features: {{name: texts, source: {{name: jsonl, path: groups.jsonl}}}}
datamodule: {{name: text_groups, split_shares: [0.5, 0.25, 0.25]}}
logger: csv
"""
    )
    assert train.main(["--config", "p.yaml", "--check"]) == 0 and not server.asked
    assert train.main(["--config", "p.yaml"]) == 0
    (run,) = (groups / "runs" / "p").iterdir()
    metrics = json.loads((run / "metrics.json").read_text())
    name = node["name"]
    assert metrics["test"]["scorers"][name]["hit@1"]["mean"] == 1
    asked = metrics["asked"]
    assert asked["test"]["queries"] == metrics["test"]["queries"] and asked["test"]["faults"] == {}
    calls = asked["val"]["calls"] + asked["test"]["calls"]
    # A heap compares some pairs twice, and the second answer is in the cache.
    assert calls > len(server.asked) if method == "sorting" else calls == len(server.asked)
    assert f"{name} asked {asked['test']['calls']} times about {asked['test']['queries']} queries" in (
        capsys.readouterr().err
    )
    before, number = (run / "run.trec").read_bytes(), len(server.asked)
    assert train.main(["--resume", str(run), "trainer.devices=1"]) == 0
    assert (run / "run.trec").read_bytes() == before and len(server.asked) == number


@pytest.mark.usefixtures("outside")
@pytest.mark.parametrize("name", ["rankgpt", "query_rewriter", "rewriter_by_encoder"])
def test_pools_are_ranked(
    name: str, pool: CandidatePool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    server.say = lambda messages: '<answer>{"query": "the list"}</answer>' if "search query" in str(messages) else "[2]"
    node: dict[str, Any] = {"name": name, "generator": server.generator, "metrics": ["mrr", "ndcg@10"]}
    if name == "rankgpt":
        node["rerank"] = {"first": "bm25", "top": 5, "at_once": 3}
    elif name == "rewriter_by_encoder":
        node |= {"name": "query_rewriter", "retriever": "encoder"}
    (tmp_path / "p.yaml").write_text(
        f"""
ranker: {json.dumps(node)}
references: [bm25]
datamodule: {{name: partitioned_candidates, path: {pool.path}, num_partitions: 2}}
logger: csv
"""
    )
    if name == "rewriter_by_encoder":
        assert train.main(["--config", "p.yaml"]) == 1
        return
    assert train.main(["--config", "p.yaml"]) == 0
    (run,) = (tmp_path / "runs" / "p").iterdir()
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["asked"]["test"]["calls"] == metrics["test"]["queries"] > 0
    assert not math.isnan(metrics["test"]["scorers"][node["name"]]["mrr"]["mean"])


def test_the_rewritten_query_is_what_bm25_searches(server: Any, tmp_path: Path, pool: CandidatePool) -> None:
    from rankers.references.bm25 import BM25Index

    server.say = lambda messages: "list" if "one" in messages[0]["content"] else ""
    node = {"name": "query_rewriter", "generator": server.generator, "cache": str(tmp_path / "answers.sqlite")}
    ranker: QueryRewriter = RANKERS.build(node)

    class Data:
        partitions = None

        def __init__(self) -> None:
            self.pool = pool

        def queries(self, split: str) -> torch.Tensor:
            raise NotImplementedError

        def restrictions(self, queries: torch.Tensor) -> tuple[None, None]:
            return None, None

    ranker._trainer = type("Run", (), {"datamodule": Data()})()
    assert ranker.rewritten(["one", "two"]) == ["list", "two"]
    (cost,) = ranker.findings()["asked"].values()
    assert cost["faults"] == {"no search query": 1}
    index = BM25Index([pool.text(row) for row in range(pool.num_candidates)])
    torch.testing.assert_close(ranker._scores(["list"])[0], index.scores("list"))
    with pytest.raises(ConfigError, match="the prompt must contain"):
        RANKERS.build({**node, "prompt": "write"})
