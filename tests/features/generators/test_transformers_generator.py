"""The generator turns messages into responses with text, tokens, log-probability, end and hidden states."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_llama import EOS
from transformers import AutoModelForCausalLM, AutoTokenizer

from features.generators.recorded import RecordedGenerator
from features.generators.transformers import TransformersGenerator
from features.responses.generation import Generated, Generator
from features.responses.states import with_states
from features.texts.tasks import Response, Task
from language_models.chat_template import ChatTemplate
from registry import GENERATORS, ConfigError


def task(text: str, **fields: Any) -> Task:
    return Task(fields.pop("query_id", text), text, [{"role": "user", "content": text}], **fields)


TASKS = [task("open the file"), task("sort a list"), task("the value")]


def generator(folder: Path, **options: Any) -> TransformersGenerator:
    usual = {"max_new_tokens": 12, "temperature": 1.0, "depths": [0.5], "device": "cpu"}
    return TransformersGenerator(model=str(folder), **{**usual, **options})


def states_by_hand(folder: Path, prompt: str, tokens: list[int]) -> torch.Tensor:
    """After the first of two layers."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"] + tokens
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states[1][0, -1]


def test_responses_have_all_that_is_promised(chat_llama: Path) -> None:
    made = generator(chat_llama)
    assert isinstance(made, Generator)
    tokenizer = AutoTokenizer.from_pretrained(chat_llama)
    found = list(made.generate(TASKS, range(5)))
    assert [each.task for each in found] == TASKS
    for each in found:
        prompt = f"user: {each.task.query}{EOS}\nassistant: "
        assert each.prompt_tokens == len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
        assert [response.id for response in each.responses] == list("01234")
        assert each.query_states is not None and each.response_states is not None
        torch.testing.assert_close(each.query_states[0], states_by_hand(chat_llama, prompt, []), atol=1e-4, rtol=1e-4)
        for response, states in zip(each.responses, each.response_states, strict=True):
            assert response.tokens is not None and response.log_probability is not None
            tokens = list(response.tokens)
            expected = states_by_hand(chat_llama, prompt, tokens)
            torch.testing.assert_close(states[0], expected, atol=1e-4, rtol=1e-4)
            assert response.finish == ("stop" if tokens[-1] == tokenizer.eos_token_id else "length")
            assert EOS not in response.text and response.log_probability < 0
            assert response.text == tokenizer.decode(tokens, skip_special_tokens=True)


def test_the_later_pass_gives_the_states_that_generation_gave(chat_llama: Path) -> None:
    made = generator(chat_llama)
    found = list(made.generate(TASKS, range(5)))
    bare = [replace(each, query_states=None, response_states=None) for each in found]
    recorded = [replace(each.task, responses=each.responses) for each in found]
    reader = RecordedGenerator(model=str(chat_llama), depths=[0.5], device="cpu", batch_tokens=64)
    for later in (with_states(made, bare), with_states(reader, reader.generate(recorded, range(5)))):
        for first, second in zip(found, later, strict=True):
            assert first.query_states is not None and second.query_states is not None
            torch.testing.assert_close(first.query_states, second.query_states, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(first.response_states, second.response_states, atol=1e-4, rtol=1e-4)


def test_responses_known_as_texts_get_the_tokens_that_generation_would_have_given(chat_llama: Path) -> None:
    made = generator(chat_llama)
    end = AutoTokenizer.from_pretrained(chat_llama).eos_token_id
    texts = [Response("a", "read a file"), Response("b", "read a", finish="length"), Response("c", "", finish="stop")]
    (found,) = with_states(made, [Generated(TASKS[0], texts)])
    ids = made.chat.tokens("read a file")
    assert [response.tokens for response in found.responses] == [
        [*ids, end],
        ids[: len(made.chat.tokens("read a"))],
        [end],
    ]
    assert found.response_states is not None
    prompt = f"user: open the file{EOS}\nassistant: "
    for response, states in zip(found.responses, found.response_states, strict=True):
        expected = states_by_hand(chat_llama, prompt, list(response.tokens or ()))
        torch.testing.assert_close(states[0], expected, atol=1e-4, rtol=1e-4)


def test_later_numbers_are_those_of_one_call(chat_llama: Path) -> None:
    def texts(found: list[Generated]) -> list[list[str]]:
        return [[response.text for response in each.responses] for each in found]

    whole = texts(list(generator(chat_llama).generate(TASKS, range(8))))
    first = texts(list(generator(chat_llama, batch_size=2).generate(TASKS, range(3))))
    rest = texts(list(generator(chat_llama, depths=[]).generate(TASKS[::-1], range(3, 8))))[::-1]
    assert [a + b for a, b in zip(first, rest, strict=True)] == whole


def test_stop_strings_end_responses(chat_llama: Path) -> None:
    plain = next(iter(generator(chat_llama).generate(TASKS[:1], range(1)))).responses[0]
    stop = plain.text[2:4]
    cut = next(iter(generator(chat_llama, stop=[stop]).generate(TASKS[:1], range(1)))).responses[0]
    assert cut.text == plain.text[: plain.text.find(stop)] and cut.finish == "stop"
    assert cut.tokens is not None and plain.tokens is not None
    assert list(cut.tokens) == list(plain.tokens)[: len(cut.tokens)]


def test_a_too_long_prompt_is_refused_with_the_reason(chat_llama: Path) -> None:
    asked = [task("file " * 200), TASKS[0]]
    for options in ({}, {"num_beams": 4}):
        first, second = generator(chat_llama, num_responses=2, **options).generate(asked, range(2))
        assert (list(first.responses), first.refusal, first.query_states) == ([], "prompt too long", None)
        assert first.prompt_tokens is not None and first.prompt_tokens > 128
        assert len(second.responses) == 2 and second.refusal is None and second.query_states is not None


def test_responses_that_do_not_fit_are_dropped_and_counted(chat_llama: Path) -> None:
    long = Response("long", "file " * 120)
    made = RecordedGenerator(model=str(chat_llama), depths=[0.5], device="cpu")
    found = list(
        with_states(
            made,
            [
                Generated(TASKS[0], [Response("a", "a"), long, Response("b", "a")]),
                Generated(TASKS[1], [long]),
                Generated(task("file " * 200), [Response("a", "a")]),
                Generated(TASKS[2], []),
            ],
        )
    )
    assert [[response.id for response in each.responses] for each in found] == [["a", "b"], [], [], []]
    assert [each.dropped for each in found] == [1, 1, 1, 0]
    assert [each.refusal for each in found] == [None, "no response", "prompt too long", "no response"]
    assert found[0].response_states is not None and torch.equal(*found[0].response_states)


def test_recorded_responses_are_given_as_they_are() -> None:
    responses = [Response(name, f"text {name}", label=1.0) for name in "abcd"]
    made = RecordedGenerator()
    asked = [task("x", responses=responses), task("y")]
    first, second = made.generate(asked, range(1, 1 << 30))
    assert list(first.responses) == responses[1:] and first.refusal is None
    assert (list(second.responses), second.refusal) == ([], "no response")


def test_beams_come_best_first_with_their_states(chat_llama: Path) -> None:
    made = generator(chat_llama, num_beams=4, num_responses=3)
    (found,) = made.generate(TASKS[:1], range(3))
    assert [response.id for response in found.responses] == ["0", "1", "2"]
    prompt = f"user: open the file{EOS}\nassistant: "
    assert found.response_states is not None
    for response, states in zip(found.responses, found.response_states, strict=True):
        expected = states_by_hand(chat_llama, prompt, list(response.tokens or ()))
        torch.testing.assert_close(states[0], expected, atol=1e-4, rtol=1e-4)
    (later,) = made.generate(TASKS[:1], range(1, 2))
    assert later.responses[0].text == found.responses[1].text


def test_a_model_without_template_names_the_option_for_one(tiny_llama: Path) -> None:
    with pytest.raises(ConfigError, match=r"^features.generator.template: the model has no chat template") as caught:
        list(generator(tiny_llama).generate(TASKS, range(1)))
    assert "template: plain" in str(caught.value)


def test_templates_of_ones_own_need_none_of_the_models(tiny_llama: Path) -> None:
    messages = [{"role": "system", "content": "sort"}, {"role": "user", "content": "a list"}]
    plain = generator(tiny_llama, template="plain").chat
    assert plain.text(plain.prompt(messages)) == "sort\n\na list"
    own = generator(tiny_llama, template="Q: {{ messages[-1].content }}{{ mark }}", template_options={"mark": "?"}).chat
    assert own.text(own.prompt(messages)) == "Q: a list?"


def test_messages_that_a_template_refuses_are_an_error(chat_llama: Path) -> None:
    asked = Task("q", "q", [{"role": "system", "content": "x"}, {"role": "user", "content": "y"}])
    with pytest.raises(ConfigError, match=r"no system here") as caught:
        list(generator(chat_llama).generate([asked], range(1)))
    assert "system, user" in str(caught.value)


def test_the_token_that_ends_a_turn_is_what_the_template_puts_there(tiny_llama: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<turn>"]})
    turn = tokenizer.convert_tokens_to_ids("<turn>")
    template = "{% for message in messages %}{{ message.content }} <turn>\n{% endfor %}"
    reader = ChatTemplate(tokenizer, template, ends=[3])
    assert reader.turn_end == turn
    assert reader.ends == {3, turn, tokenizer.eos_token_id}
    without_responses = "<turn>{{ messages[0].content }}\n"
    for other in ("plain", without_responses):
        assert ChatTemplate(tokenizer, other).turn_end == tokenizer.eos_token_id


def test_settings_are_what_a_response_depends_on(chat_llama: Path) -> None:
    made = generator(chat_llama)
    for same in ({"num_responses": 3}, {"batch_size": 3}, {"device": "cuda"}, {"depths": [1.0]}, {"batch_tokens": 9}):
        assert replace(made, **same).settings() == made.settings()
    for other in ({"seed": 1}, {"temperature": 0.5}, {"dtype": "bfloat16"}, {"template": "plain"}, {"stop": ["a"]}):
        assert replace(made, **other).settings() != made.settings()


def test_a_yaml_makes_the_generator(chat_llama: Path) -> None:
    node = {"name": "transformers", "model": str(chat_llama), "num_responses": 3, "depths": [0.5]}
    assert GENERATORS.build(node) == TransformersGenerator(model=str(chat_llama), num_responses=3, depths=[0.5])
    with pytest.raises(ConfigError, match="num_beams"):
        GENERATORS.build({**node, "num_beams": 2})
    with pytest.raises(ConfigError, match="max_new_tokens: expected int from 1 to 1,000,000, got 0"):
        GENERATORS.build({**node, "max_new_tokens": 0})
    with pytest.raises(ConfigError, match=r"stop\[0\]: expected str, not empty"):
        GENERATORS.build({**node, "stop": [""]})


def test_a_model_without_its_head_is_refused(tiny_llama: Path) -> None:
    with pytest.raises(ConfigError, match="lm_head"):
        list(generator(tiny_llama, template="plain").generate(TASKS, range(1)))


def test_a_depth_without_layer_is_the_users_mistake(chat_llama: Path) -> None:
    with pytest.raises(ConfigError, match=r"^features.generator.depths: depth 1.5"):
        list(generator(chat_llama, depths=[1.5]).generate(TASKS, range(1)))


def test_a_stop_string_that_is_a_special_token_ends_a_response(chat_llama: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(chat_llama)
    special = tokenizer.convert_ids_to_tokens(tokenizer.all_special_ids)
    ends = generator(chat_llama).chat.ends
    other = next(token for token in special if tokenizer.convert_tokens_to_ids(token) not in ends)
    chat = generator(chat_llama).chat
    assert chat.ends_with([other, "no such token", "a"]) == ends | {tokenizer.convert_tokens_to_ids(other)}
