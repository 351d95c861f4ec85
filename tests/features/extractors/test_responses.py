"""responses: what the store holds is what the model said and was in, whatever stopped the build on its way."""

import json
import math
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from forks import run_in_forks
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from datamodules.grouped_features import GroupedFeatures
from features.extractors.responses import ResponsesExtractor
from features.generators.transformers import TransformersGenerator
from features.responses import stages
from features.responses.states import with_states
from ranking.response_analysis import Analysis
from ranking.stores.files import StoreError
from ranking.stores.group_store import GroupStore
from registry import EXTRACTORS, ConfigError, load_config
from tests.tiny_llama import save

NUM_PROBLEMS, NUM_RESPONSES = 7, 3
VERIFIER = '''
"""A verifier of one's own: a response is right if it has an even number of characters."""
from features.verification.verdict import Verdict
from registry import VERIFIERS

@VERIFIERS.register("even_length")
def even_length(response, problem, /, fail_on: str = ""):
    if fail_on and fail_on in problem.query:
        raise RuntimeError("this one is not to be judged")
    return Verdict(float(len(response) % 2 == 0), answer=str(len(response) % 5) if response else None)
'''


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("model") / "llama", LlamaConfig, LlamaForCausalLM)


@pytest.fixture
def config(language_model: Path, tmp_path: Path) -> Callable[..., Path]:
    """Write the yaml of an extraction; what is given is merged over it."""
    lines = [{"id": f"p{place}", "query": f"list {place} of {place * 7} files"} for place in range(NUM_PROBLEMS)]
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "even_length.py").write_text(VERIFIER)
    model = {"name": "transformers", "model": str(language_model), "template": "plain"}
    sampling = {"max_new_tokens": 12, "num_responses": NUM_RESPONSES, "depths": [0.5], "seed": 3}

    def write(path: str = "store", generator: dict[str, Any] | None = None, **changes: Any) -> Path:
        features = {
            "name": "responses",
            "source": {"name": "problems", "path": str(tmp_path / "problems.jsonl")},
            "generator": {**model, **sampling, **(generator or {})},
            "verifier": {"name": "even_length"},
            "path": str(tmp_path / path),
            "dtype": "float32",
            "workers": {"processes": 1},
            "chunk_size": 2,
            **changes,
        }  # fmt: skip
        file = tmp_path / f"{path}.yaml"
        file.write_text(json.dumps({"imports": ["even_length"], "features": features}))
        return file

    return write


def command(file: Path) -> list[str]:
    return [sys.executable, "-m", "features", "--config", str(file)]


def environment(folder: Path) -> dict[str, str]:
    root = str(Path(__file__).resolve().parents[3])
    return {**os.environ, "PYTHONPATH": f"{root}:{folder}"}


def build(file: Path, monkeypatch: pytest.MonkeyPatch) -> GroupStore:
    monkeypatch.syspath_prepend(file.parent)
    from registry.config import FeaturesConfig

    loaded = load_config(file, [], into=FeaturesConfig)
    return GroupStore.open(EXTRACTORS.build(loaded.features, path="features").run(), verify=True)


def hashes(path: Path) -> dict[str, str]:
    manifest = json.loads((path / "manifest.json").read_text())
    return {record["file"]: record["sha256"] for of in manifest["shards"].values() for record in of}


@pytest.mark.usefixtures("outside")
def test_the_store_has_the_models_responses_and_hidden_states(
    config: Callable[..., Path], language_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = build(config(), monkeypatch)
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(language_model),
        AutoTokenizer.from_pretrained(language_model),
    )
    stage = TransformersGenerator(
        model=str(language_model), template="plain", max_new_tokens=12, num_responses=NUM_RESPONSES, seed=3
    )
    assert store.num_groups == NUM_PROBLEMS and store.depths == [0.5] and store.feature_dim == 32
    for group in range(NUM_PROBLEMS):
        problem = next(each for each in problems_of(store.path.parent) if each.query_id == store.query_id(group))
        made = next(iter(stage.generate([problem], range(NUM_RESPONSES))))
        prompt = tokenizer(problem.query, add_special_tokens=False)["input_ids"]
        slots = range(int(store.offsets[group]), int(store.offsets[group + 1]))
        for slot, response in zip(slots, made.responses, strict=True):
            row = int(store.candidate[slot])
            assert store.candidate_text(row) == response.text
            assert float(store.label[slot]) == (len(response.text) % 2 == 0)
            assert store.num_tokens is not None and int(store.num_tokens[slot]) == len(response.tokens or ())
            with torch.no_grad():
                ids = torch.tensor([[*prompt, *(response.tokens or ())]])
                plain = model(ids, output_hidden_states=True).hidden_states[1][0]
                found = model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(dim=-1)
            torch.testing.assert_close(
                store.candidate_features(torch.tensor([row]))[0], plain[-1], atol=1e-5, rtol=1e-4
            )
            total = float(found.gather(1, torch.tensor(response.tokens).unsqueeze(1)).sum())
            assert store.log_probability is not None
            assert float(store.log_probability[slot]) == pytest.approx(total, rel=1e-3)
            # arXiv 2502.18581, Eq. 5: -1 / (n V) sum_i sum_j log(V p(j | y_<i)).
            certainty = -float((found.double() + math.log(found.shape[1])).mean())
            assert store.self_certainty is not None
            assert float(store.self_certainty[slot]) == pytest.approx(certainty, rel=1e-3)
            torch.testing.assert_close(
                store.query_features(torch.tensor([group]))[0], plain[len(prompt) - 1], atol=1e-5, rtol=1e-4
            )


def problems_of(folder: Path) -> list[Any]:
    from features.sources.own.problems import Problems

    return list(Problems(str(folder / "problems.jsonl")).problems())


@pytest.mark.usefixtures("outside")
def test_only_what_is_new_is_done(config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[range] = []
    read: list[int] = []
    generate = TransformersGenerator.generate

    def counting(self: Any, problems: Any, numbers: range, report: Any = None) -> Any:
        asked.append(numbers)
        return generate(self, problems, numbers, report)

    def reading(model: Any, generated: Any, report: Any = None) -> Any:
        read.append(len(generated))
        return with_states(model, generated, report)

    monkeypatch.setattr(TransformersGenerator, "generate", counting)
    monkeypatch.setattr(stages, "with_states", reading)
    first = build(config("first"), monkeypatch)
    assert asked == [range(3)] * 4 and read == []
    asked.clear()
    more = build(config("more", {"num_responses": 5}), monkeypatch)
    assert asked == [range(3, 5)] * 4 and read == []
    for group in range(NUM_PROBLEMS):
        texts = [
            [store.candidate_text(int(store.candidate[int(store.offsets[group]) + slot])) for slot in range(3)]
            for store in (first, more)
        ]
        assert texts[0] == texts[1]
    asked.clear()
    deeper = build(config("deeper", {"depths": [0.5, 1.0]}), monkeypatch)
    assert asked == [] and read == [2, 2, 2, 1] and deeper.depths == [0.5, 1.0]
    shallow = [store.candidate_features(torch.arange(NUM_PROBLEMS * NUM_RESPONSES), 0) for store in (first, deeper)]
    torch.testing.assert_close(*shallow, atol=1e-5, rtol=1e-4)
    read.clear()
    judged = build(config("judged", verifier={"name": "even_length", "fail_on": "of 14 "}), monkeypatch)
    assert asked == [] and read == [] and int(judged.label.isnan().sum()) == NUM_RESPONSES


@pytest.mark.usefixtures("outside")
def test_what_went_wrong_is_counted(
    config: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = config(verifier={"name": "even_length", "fail_on": "of 14 "}, chunk_size=None)
    with (tmp_path / "problems.jsonl").open("a") as lines:
        lines.write(json.dumps({"id": "long", "query": "file " * 300}) + "\n")
    store = build(file, monkeypatch)
    report = json.loads((store.path / "report.json").read_text())
    assert report["problems"] == {"prompt too long": 1, "with responses": NUM_PROBLEMS}
    missing = [count for name, count in report["verdicts"].items() if name.startswith("no label: RuntimeError")]
    assert missing == [NUM_RESPONSES] and sum(report["verdicts"].values()) == NUM_PROBLEMS * NUM_RESPONSES
    assert report["responses"]["kept"] == NUM_PROBLEMS * NUM_RESPONSES


BUILD = """
import signal
import torch, transformers, features.extractors.responses, features.generators.transformers
from features.__main__ import main
from console.progress import WorkProgress
from features.responses.result_file import ResultFile

def dying(function, left, name):
    def counted(self, *arguments):
        left[0] -= 1
        if left[0] < 0:
            print(name(self), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        return function(self, *arguments)
    return counted

def run(arguments):
    torch.set_num_threads(1)
    if steps := arguments.pop(0):
        left = [int(steps)]
        WorkProgress.report = dying(WorkProgress.report, left, lambda self: self._done)
        ResultFile.write = dying(ResultFile.write, left, lambda self: "writing " + self.path.name.partition("-")[0])
    return main(arguments)
"""


@pytest.mark.slow
def test_a_build_that_is_killed_at_ten_points_ends_with_the_same_bytes(
    config: Callable[..., Path], language_model: Path, tmp_path: Path
) -> None:
    """A chunk is seven to thirteen steps and a write: killed at any of them, in each stage."""
    reader = {"model": str(language_model), "template": "plain", "depths": [0.5, 1.0]}
    of_both: dict[str, Any] = {"chunk_size": 1, "reader": reader, "generator": {"depths": []}}
    whole, broken = config("whole", **of_both), config("broken", **of_both, stages=str(tmp_path / "others"))
    draw = random.Random(0)
    deaths = [[str(draw.randint(8, 30)), "--config", str(broken)] for _ in range(10)]
    commands = [["", "--config", str(whole)], *deaths, ["", "--config", str(broken)]]
    statuses, died, errors = run_in_forks(tmp_path, BUILD, commands)
    assert statuses == [0, *[-signal.SIGKILL] * 10, 0], errors
    assert {"Got", "Read", "Judged"} <= set(died.splitlines())
    assert hashes(tmp_path / "broken") == hashes(tmp_path / "whole")
    assert (tmp_path / "broken" / "report.json").read_text() == (tmp_path / "whole" / "report.json").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("outside")
def test_several_processes_make_the_same_store_as_one(
    config: Callable[..., Path], language_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", environment(tmp_path)["PYTHONPATH"])
    reader = {"model": str(language_model), "template": "plain", "depths": [0.5, 1.0]}
    of_both: dict[str, Any] = {"reader": reader, "generator": {"depths": []}}
    one = build(config("one", **of_both), monkeypatch)
    two = build(config("two", **of_both, devices=2, stages=str(tmp_path / "others")), monkeypatch)
    assert hashes(two.path) == hashes(one.path) and two.num_groups == NUM_PROBLEMS


@pytest.mark.usefixtures("outside")
def test_what_a_beam_search_finds_is_none_of_the_candidates(
    config: Callable[..., Path], language_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = build(config(beams=3), monkeypatch)
    searching = TransformersGenerator(
        model=str(language_model), template="plain", max_new_tokens=12, num_responses=1, num_beams=3
    )
    labels = []
    for group, problem in enumerate(problems_of(store.path.parent)):
        assert store.query_id(group) == problem.query_id
        (found,) = searching.generate([problem], range(1))
        slots = range(int(store.offsets[group]), int(store.offsets[group + 1]))
        assert [store.slot_id(slot) for slot in slots] == ["0", "1", "2"]
        assert store.beam_text(group) == found.responses[0].text
        labels.append(float(len(found.responses[0].text) % 2 == 0))
    assert store.beam_label is not None and store.beam_label.tolist() == labels
    assert Analysis.of(store).results()["responses"] == NUM_PROBLEMS * NUM_RESPONSES
    datamodule = GroupedFeatures(str(store.path), num_candidates=None, split_shares=(0.3, 0.3, 0.4))
    (batch,) = datamodule.evaluation_batches("train", NUM_RESPONSES, 1)
    assert batch.candidate_index.shape[1] == NUM_RESPONSES
    assert batch.beam is not None and batch.beam.tolist() == [labels[group] for group in batch.group.tolist()]


@pytest.mark.usefixtures("outside")
def test_samples_beams_and_states_are_of_one_copy_of_the_weights(
    config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, load = [], TransformersGenerator.load_causal

    def counted(model: TransformersGenerator, device_map: str | None = None) -> Any:
        loaded.append(model)
        return load(model, device_map)

    monkeypatch.setattr(TransformersGenerator, "load_causal", counted)
    build(config("sampled"), monkeypatch)
    assert len(loaded) == 1
    # Its samples are there already; the search, and the states of what it finds, come first to the weights.
    build(config("searched", beams=3), monkeypatch)
    assert len(loaded) == 2
    build(config("both", {"seed": 4, "max_new_tokens": 11}, beams=3), monkeypatch)
    assert len(loaded) == 3


def test_a_generator_without_beam_search_is_refused(tmp_path: Path, language_model: Path) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_text('{"id": "a", "query": "b"}\n')
    source, model = {"name": "problems", "path": str(path)}, {"model": str(language_model), "depths": [0.5]}
    with pytest.raises(ConfigError, match=r"features.beams: the generator recorded has no beam search"):
        ResponsesExtractor(source, {"name": "recorded", **model}, beams=4)


def test_several_processes_and_one_model_on_several_devices_are_not_had_together(
    tmp_path: Path, language_model: Path
) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_text('{"id": "a", "query": "b"}\n')
    model = {"name": "transformers", "model": str(language_model), "depths": [0.5], "device_map": "auto"}
    with pytest.raises(ConfigError, match=r"(?s)features.devices.*device_map.*devices: 1"):
        ResponsesExtractor({"name": "problems", "path": str(path)}, model, devices=2)


@pytest.mark.usefixtures("outside")
def test_a_store_made_with_other_settings_is_not_taken_for_this_one(
    config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    build(config(), monkeypatch)
    with pytest.raises(StoreError, match=r"num_responses: 3, now 4"):
        build(config(generator={"num_responses": 4}), monkeypatch)


def test_what_is_missing_is_said_before_anything_is_loaded(tmp_path: Path, language_model: Path) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_text('{"id": "a", "query": "b"}\n')
    source, model = {"name": "problems", "path": str(path)}, {"name": "transformers", "model": str(language_model)}
    with pytest.raises(ConfigError, match=r"(?s)features.generator.depths.*no depths of hidden states are set"):
        ResponsesExtractor(source, model)
    with pytest.raises(ConfigError, match=r"(?s)features.source.*gives no problems.*problems"):
        ResponsesExtractor({"name": "pool_files", "candidates": str(path)}, {**model, "depths": [0.5]})
    with pytest.raises(ConfigError, match=r"features.verifier.*no labels to learn from"):
        ResponsesExtractor(source, {**model, "depths": [0.5]}, path=str(tmp_path / "store")).run(to_train=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["problems.jsonl"]
