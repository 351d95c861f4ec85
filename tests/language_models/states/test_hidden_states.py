"""States are those of a plain forward with output_hidden_states=True, one text at a time."""

from collections.abc import Callable

import pytest
import torch
from tiny_causal import MODELS, texts_of, tiny_causal
from torch import Tensor

from language_models.conversation import Conversation
from language_models.sampling.prompt_sharing import PromptSharing
from language_models.states.block_states import BlockStates, layers_of, num_layers_of
from language_models.states.hidden_states import HiddenStates
from registry import ConfigError

LAYERS = [2, 4, 1]


def plain(model: torch.nn.Module, tokens: list[int], layers: list[int]) -> Tensor:
    """`hidden_states[l]` at the last token; only for l below the number of layers, for the last one is normed."""
    with torch.no_grad():
        states = model(input_ids=torch.tensor([tokens]), output_hidden_states=True).hidden_states
    return torch.stack([states[layer][0, -1] for layer in layers])


def conversations() -> list[Conversation]:
    prompts, lengths = texts_of([9, 4, 17], seed=1), ([3, 12, 1, 12], [30], [5, 2])
    return [
        Conversation(prompt, texts_of(sizes, seed=len(sizes))) for prompt, sizes in zip(prompts, lengths, strict=True)
    ]


@pytest.mark.parametrize("batch_tokens", [1, 40, 10_000])
@pytest.mark.parametrize("name", MODELS)
def test_states_are_those_of_a_plain_forward_of_each_text_alone(name: str, batch_tokens: int) -> None:
    model, asked = tiny_causal(name), conversations()
    found = list(HiddenStates(model, LAYERS, batch_tokens).read(asked))
    assert len(found) == len(asked)
    for states, (prompt, responses) in zip(found, asked, strict=True):
        torch.testing.assert_close(states.query, plain(model, list(prompt), LAYERS), atol=5e-4, rtol=1e-4)
        for state, response in zip(states.responses, responses, strict=True):
            expected = plain(model, [*prompt, *response], LAYERS)
            torch.testing.assert_close(state, expected, atol=5e-4, rtol=1e-4)


def test_where_prompts_cannot_be_shared_whole_texts_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    model, asked = tiny_causal("llama"), conversations()
    shared = list(HiddenStates(model, LAYERS).read(asked))
    monkeypatch.setattr(PromptSharing, "continues", lambda self: False)
    for whole, found in zip(HiddenStates(model, LAYERS, 50).read(asked), shared, strict=True):
        torch.testing.assert_close(whole.query, found.query, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(whole.responses, found.responses, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "gpt2", "gemma", "mistral"])
def test_states_are_those_of_a_plain_forward_padded_on_either_side(name: str, side: str) -> None:
    model, texts = tiny_causal(name), texts_of([12, 5, 8])
    ids, mask = torch.zeros(3, 12, dtype=torch.long), torch.zeros(3, 12, dtype=torch.long)
    for row, text in enumerate(texts):
        part = slice(12 - len(text), 12) if side == "left" else slice(len(text))
        ids[row, part], mask[row, part] = torch.tensor(text), 1
    places = (mask.cumsum(dim=1) - 1).clamp(min=0)
    with torch.no_grad():
        padded = model(input_ids=ids, attention_mask=mask, position_ids=places, output_hidden_states=True)
    last = [11 if side == "left" else len(text) - 1 for text in texts]
    asked = [Conversation(text[:3], [text[3:]]) for text in texts]
    for row, states in enumerate(HiddenStates(model, LAYERS).read(asked)):
        expected = torch.stack([padded.hidden_states[layer][row, last[row]] for layer in LAYERS])
        torch.testing.assert_close(states.responses[0], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_last_layers_state_is_not_normed(name: str) -> None:
    model, text = tiny_causal(name), texts_of([7])[0]
    kept: list[Tensor] = []
    norm = model.base_model.norm if name == "llama" else model.base_model.ln_f
    hook = norm.register_forward_pre_hook(lambda module, inputs: kept.append(inputs[0][0, -1]))
    with torch.no_grad():
        normed = model.base_model(input_ids=torch.tensor([text])).last_hidden_state[0, -1]
    hook.remove()
    states = next(iter(HiddenStates(model, [5]).read([Conversation(text, [])])))
    torch.testing.assert_close(states.query[0], kept[0], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(states.query[0], normed, atol=1e-2)


def test_empty_and_identical_responses_have_states(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (prompt, response) = tiny_causal("llama"), texts_of([6, 4])
    read, forward = [], model.base_model.forward

    def counted(*arguments: object, **inputs: Tensor) -> object:
        read.append(inputs["input_ids"].numel())
        return forward(*arguments, **inputs)

    reader = HiddenStates(model, [3])
    monkeypatch.setattr(model.base_model, "forward", counted)
    asked = [Conversation(prompt, [response, [], response, response]), Conversation(response, [])]
    first, second = reader.read(asked)
    assert read == [2 * 6, 4]
    assert torch.equal(first.responses[1], first.query)
    assert torch.equal(first.responses[0], first.responses[2]) and torch.equal(first.responses[0], first.responses[3])
    assert second.responses.shape == (0, 1, 32)


def test_layers_above_the_deepest_one_and_the_head_are_not_computed() -> None:
    model, computed = tiny_causal("llama"), []
    hooks = [
        layer.register_forward_hook(lambda *_, number=number: computed.append(number))
        for number, layer in enumerate(model.model.layers, start=1)
    ]
    reader = HiddenStates(model, [1, 3])
    hooks.append(model.lm_head.register_forward_hook(lambda *_: computed.append(99)))
    computed.clear()
    list(reader.read(conversations()))
    for hook in hooks:
        hook.remove()
    assert set(computed) == {1, 2, 3}
    assert len(model.model.layers) == 5


def test_progress_counts_each_response_and_each_token_once() -> None:
    reports: list[tuple[int, int]] = []
    asked = conversations()
    list(HiddenStates(tiny_causal("llama"), [2], 30).read(asked, lambda *report: reports.append(report)))
    responses, tokens = map(sum, zip(*reports, strict=True))
    assert responses == 7
    assert tokens == sum(len(each.prompt) + sum(map(len, each.responses)) for each in asked)


def test_a_prompt_without_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="a prompt has no tokens"):
        list(HiddenStates(tiny_causal("llama"), [2]).read([Conversation([], [[3]])]))


@pytest.mark.parametrize("make", [lambda: tiny_causal("gpt2").base_model, lambda: tiny_causal("llama").base_model])
def test_a_model_without_head_serves_as_well(make: Callable[[], torch.nn.Module]) -> None:
    asked = conversations()[:1]
    (found,) = HiddenStates(make(), [2]).read(asked)
    assert found.responses.shape == (4, 1, 32)


@pytest.mark.parametrize(("depth", "offset", "layer"), [(0.6, 0, 17), (0.6, -1, 16), (1.0, 0, 28), (0.02, 0, 1)])
def test_a_depth_names_a_block_counted_from_one(depth: float, offset: int, layer: int) -> None:
    assert layers_of([depth], 28, offset) == [layer]


@pytest.mark.parametrize(("depth", "offset"), [(0.0, 0), (1.2, 0), (0.01, 0), (1.0, 1), (0.04, -1), (-0.5, 0)])
def test_a_depth_without_block_is_refused(depth: float, offset: int) -> None:
    with pytest.raises(ValueError, match=f"depth {depth}"):
        layers_of([depth], 28, offset)


def test_a_model_without_recognizable_blocks_is_refused() -> None:
    model = tiny_causal("llama")
    model.config.num_hidden_layers = 4
    try:
        assert num_layers_of(model) == 4
        with pytest.raises(ConfigError, match="cannot find the transformer blocks of LlamaForCausalLM"):
            BlockStates(model, [1])
    finally:
        model.config.num_hidden_layers = 5
