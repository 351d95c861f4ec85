"""What is asked of vLLM, and what is made of its answers; vLLM itself is a stand-in here."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from features.generators.vllm import VllmGenerator
from features.texts.tasks import Task
from registry import ConfigError

TASKS = [Task(name, name, [{"role": "user", "content": name}]) for name in ("sort a list", "file " * 200, "a")]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A module vllm whose answers tell what they were asked; what it was made with and asked."""
    seen: list[Any] = []

    class Engine:
        def __init__(self, **options: Any) -> None:
            seen.append(options)

        def generate(self, prompts: Sequence[Mapping[str, Any]], parameters: Sequence[Any], *, use_tqdm: bool) -> Any:
            assert not use_tqdm
            seen.append((prompts, parameters))
            return [
                SimpleNamespace(
                    outputs=[
                        SimpleNamespace(
                            token_ids=(*prompt["prompt_token_ids"][:2], parameter.stop_token_ids[-1]),
                            cumulative_logprob=-float(place),
                            finish_reason="stop",
                        )
                    ]
                )
                for place, (prompt, parameter) in enumerate(zip(prompts, parameters, strict=True))
            ]

    module = ModuleType("vllm")
    module.LLM, module.SamplingParams = Engine, lambda **options: SimpleNamespace(**options)  # type: ignore[attr-defined]
    module.__spec__ = SimpleNamespace(name="vllm")  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "vllm", module)
    return seen


def test_each_response_is_a_request_with_a_seed_of_its_own(engine: list[Any], tiny_llama: Path) -> None:
    made = VllmGenerator(model=str(tiny_llama), template="plain", temperature=0.7, max_new_tokens=9, engine={"a": 1})
    first, refused, last = made.generate(TASKS, range(2, 4))
    options, (prompts, parameters) = engine
    assert options["model"] == str(tiny_llama) and options["a"] == 1 and options["trust_remote_code"] is False
    assert [prompt["prompt_token_ids"] for prompt in prompts] == [
        made.chat.prompt(task.messages) for task in (TASKS[0], TASKS[0], TASKS[2], TASKS[2])
    ]
    assert len({parameter.seed for parameter in parameters}) == 4
    assert {(each.temperature, each.top_k, each.max_tokens, each.logprobs) for each in parameters} == {(0.7, -1, 9, 0)}
    assert [response.id for response in first.responses] == ["2", "3"]
    assert [response.log_probability for response in last.responses] == [-2.0, -3.0]
    assert first.responses[0].text == made.chat.text(prompts[0]["prompt_token_ids"][:2])
    assert (list(refused.responses), refused.refusal) == ([], "prompt too long")


def test_options_that_vllm_does_not_get_can_change_without_new_responses(tiny_llama: Path) -> None:
    made = VllmGenerator(model=str(tiny_llama), max_new_tokens=9)
    assert (
        VllmGenerator(model=str(tiny_llama), max_new_tokens=9, engine={"max_num_seqs": 1}).settings() == made.settings()
    )
    smaller = VllmGenerator(model=str(tiny_llama), max_new_tokens=9, engine={"quantization": "fp8"})
    assert smaller.settings() != made.settings()
    assert VllmGenerator(model=str(tiny_llama), max_new_tokens=8).settings() != made.settings()


def test_without_vllm_the_error_says_what_to_install(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="the package vllm is not installed") as caught:
        list(VllmGenerator(model=str(tiny_llama)).generate(TASKS, range(1)))
    assert "pip install vllm" in str(caught.value)


def test_an_engine_with_less_room_refuses_prompts_that_it_has_no_room_for(engine: list[Any], tiny_llama: Path) -> None:
    short = VllmGenerator(model=str(tiny_llama), template="plain", engine={"max_model_len": 4})
    first, _, last = short.generate(TASKS, range(1))
    assert first.refusal == "prompt too long" and len(last.responses) == 1
    (_, (_, parameters)) = engine
    assert [each.max_tokens for each in parameters] == [4 - len(short.chat.prompt(TASKS[2].messages))]


def test_log_probabilities_of_another_distribution_are_refused() -> None:
    with pytest.raises(ValueError, match="logprobs_mode must be raw_logprobs"):
        VllmGenerator(engine={"logprobs_mode": "processed_logprobs"})


def test_gguf_files_are_refused() -> None:
    with pytest.raises(ValueError, match="GGUF"):
        VllmGenerator(gguf="x.gguf")
