"""Samples are what the model's own distribution and the response's own numbers make them, in whatever company."""

import math
from collections.abc import Callable, Sequence

import pytest
import torch
import transformers
from tiny_causal import MODELS, texts_of, tiny_causal
from tokenizers import Tokenizer, decoders, models

from language_models.sampling.prompt import Drawing, Prompt, StopTexts
from language_models.sampling.prompt_cache import ATTENTION, PromptCache
from language_models.sampling.prompt_sharing import PromptSharing
from language_models.sampling.sampler import GrowingBatch, Sample, Sampled, Sampler
from language_models.sampling.token_choice import TokenChoice, numbers_of
from registry import ConfigError

ENDS = {2, 5, 9}
LAYERS = [2, 4]


def sampler(name: str, *, layers: Sequence[int] = LAYERS, batch_size: int = 64, **options: object) -> Sampler:
    model, usual = tiny_causal(name), {"end_tokens": ENDS, "max_new_tokens": 24, "context": 128}
    return Sampler(model, TokenChoice(), layers=layers, batch_size=batch_size, **{**usual, **options})  # type: ignore[arg-type]


def prompts() -> list[Prompt]:
    return [Prompt(f"q{place}", tokens) for place, tokens in enumerate(texts_of([11, 3, 20], seed=5))]


def check(name: str, sampled: Sampled, most: int, choice: TokenChoice, layers: Sequence[int]) -> None:
    """Every token is the one that the plain forward's distribution and the response's numbers give."""
    model, prompt = tiny_causal(name), list(sampled.prompt.tokens)
    for sample in sampled.samples:
        with torch.no_grad():
            plain = model(input_ids=torch.tensor([prompt + sample.tokens]), output_hidden_states=True)
        logits = plain.logits[0, len(prompt) - 1 : -1]
        numbers = numbers_of(0, sampled.prompt.id, sample.number, most)
        expected, log_probabilities, _ = choice(logits, torch.from_numpy(numbers[: len(logits)]))
        assert sample.tokens == expected.tolist()
        assert sample.log_probability == pytest.approx(log_probabilities.sum().item(), abs=1e-3)
        # -1 / (n V) sum_i sum_j log(V p(j | y_<i)), arXiv 2502.18581, Eq. 5.
        certainty = -(logits.double().log_softmax(dim=-1) + math.log(logits.shape[1])).mean()
        assert sample.self_certainty == pytest.approx(float(certainty), abs=1e-3)
        assert sample.finish == ("stop" if sample.tokens[-1] in ENDS else "length")
        assert not ENDS & set(sample.tokens[:-1]) and len(sample.tokens) <= most
        if layers:
            states = torch.stack([plain.hidden_states[layer][0, -1] for layer in layers])
            assert sample.states is not None and sampled.states is not None
            torch.testing.assert_close(sample.states, states, atol=1e-3, rtol=1e-3)
            states = torch.stack([plain.hidden_states[layer][0, len(prompt) - 1] for layer in layers])
            torch.testing.assert_close(sampled.states, states, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_samples_and_their_states_are_those_of_plain_forwards(
    name: str, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = PromptSharing.steps
    if not shared:
        monkeypatch.setattr(PromptSharing, "steps", lambda self, **how: not how["shared"] and steps(self, **how))
    try:
        with_states = sampler(name)
    except ConfigError:
        assert transformers.__version__ < "5"
        pytest.skip("this version of transformers has another cache for this model")
    if shared and transformers.__version__ >= "5":
        assert with_states.shared
    found = list(with_states.sample(prompts(), range(6)))
    assert [len(each.samples) for each in found] == [6, 6, 6]
    assert len({len(sample.tokens) for each in found for sample in each.samples}) > 2
    for each in found:
        check(name, each, 24, TokenChoice(), LAYERS)


@pytest.fixture(scope="module")
def usual() -> list[list[Sample]]:
    """Six samples of each prompt, all in one batch."""
    return [each.samples for each in sampler("llama").sample(prompts(), range(6))]


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 5])
@pytest.mark.parametrize("layers", [(), LAYERS])
def test_a_response_does_not_depend_on_its_company(
    usual: list[list[Sample]], layers: Sequence[int], batch_size: int
) -> None:
    other = [
        each.samples for each in sampler("llama", layers=layers, batch_size=batch_size).sample(prompts(), range(6))
    ]
    assert [[sample.tokens for sample in each] for each in other] == [
        [sample.tokens for sample in each] for each in usual
    ]


@pytest.mark.slow
def test_later_samples_are_those_that_all_at_once_have(usual: list[list[Sample]]) -> None:
    later = [each.samples for each in sampler("llama").sample(prompts()[1:2], range(3, 6))]
    assert [sample.number for sample in later[0]] == [3, 4, 5]
    assert [sample.tokens for sample in later[0]] == [sample.tokens for sample in usual[1][3:]]


def test_the_same_call_gives_the_same_to_the_last_bit() -> None:
    def numbers() -> list[tuple[list[int], float]]:
        found = sampler("llama", batch_size=7).sample(prompts(), range(4))
        return [(sample.tokens, sample.log_probability) for each in found for sample in each.samples]

    assert numbers() == numbers()


@pytest.mark.parametrize(
    "choice", [TokenChoice(1.5), TokenChoice(0.8, top_p=0.9), TokenChoice(top_k=5), TokenChoice(0.0)]
)
def test_choices_are_followed(choice: TokenChoice) -> None:
    made = Sampler(tiny_causal("llama"), choice, end_tokens=ENDS, max_new_tokens=12)
    for each in made.sample(prompts(), range(4)):
        check("llama", each, 12, choice, ())


def test_a_prompt_may_join_and_leave_while_others_grow() -> None:
    made = sampler("llama", batch_size=9, max_new_tokens=24)
    alone = [next(made.sample([prompt], range(4))) for prompt in prompts()]
    batch = GrowingBatch(made, lambda responses, tokens: None)
    first, left = batch.add(prompts()[0], range(4)), batch.add(prompts()[1], range(4))
    for _ in range(3):
        batch.advance()
    batch.drop(left)
    later = batch.add(prompts()[2], range(4))
    while not (first.has_ended and later.has_ended):
        batch.advance()
    for found, expected in ((first, alone[0]), (later, alone[2])):
        assert [each.tokens for each in found.samples] == [each.tokens for each in expected.samples]
        for each, other in zip(found.samples, expected.samples, strict=True):
            assert each.states is not None and other.states is not None
            torch.testing.assert_close(each.states, other.states, atol=1e-4, rtol=1e-4)
    assert not left.has_ended and max(len(each.tokens) for each in left.samples) <= 4


def test_each_prompt_may_have_its_own_drawing() -> None:
    made = sampler("llama", batch_size=7)
    drawings = [
        Drawing(TokenChoice(0.0), {2}, max_new_tokens=4),
        Drawing(TokenChoice(1.3, top_p=0.9), ENDS, max_new_tokens=9, seed=5),
        None,
    ]
    asked = [prompt._replace(drawing=drawing) for prompt, drawing in zip(prompts(), drawings, strict=True)]
    for prompt, drawing, found in zip(prompts(), drawings, made.sample(asked, range(5)), strict=True):
        usual = {} if drawing is None else {"end_tokens": drawing.end_tokens}
        usual |= {} if drawing is None else {"max_new_tokens": drawing.max_new_tokens, "seed": drawing.seed}
        choice = TokenChoice() if drawing is None else drawing.choice
        own = {"end_tokens": ENDS, "max_new_tokens": 24, "context": 128, "layers": LAYERS, **usual}
        (alone,) = Sampler(tiny_causal("llama"), choice, **own).sample([prompt], range(5))
        assert [each.tokens for each in found.samples] == [each.tokens for each in alone.samples]
        assert [each.finish for each in found.samples] == [each.finish for each in alone.samples]


def test_prompts_are_read_once_and_ended_responses_leave() -> None:
    model, shapes = tiny_causal("llama"), []
    made = sampler("llama", layers=())
    hook = model.model.embed_tokens.register_forward_hook(
        lambda _, inputs, output: shapes.append(tuple(output.shape[:2]))
    )
    found = list(made.sample(prompts(), range(8)))
    hook.remove()
    samples = [sample for each in found for sample in each.samples]
    assert shapes[0] == (3, 20)
    grown = [sum(len(sample.tokens) > step for sample in samples) for step in range(1, 24)]
    assert shapes[1:] == [(count, 1) for count in grown if count]


def test_responses_that_wait_take_free_places() -> None:
    model, rows = tiny_causal("llama"), []
    made = sampler("llama", layers=(), batch_size=8)
    hook = model.model.embed_tokens.register_forward_hook(
        lambda _, inputs, output: rows.append(tuple(output.shape[:2]))
    )
    found = list(made.sample(prompts(), range(16)))
    hook.remove()
    steps = [count for count, length in rows if length == 1]
    assert max(steps) == 8 and sum(steps) < 1.5 * 8 * len(steps)
    assert sum(length > 1 for _, length in rows) >= 2
    assert len(steps) < 6 * max(len(sample.tokens) for each in found for sample in each.samples)


def test_too_long_a_prompt_gets_no_response_and_room_is_never_exceeded() -> None:
    asked = [Prompt(str(length), tokens) for length, tokens in enumerate(texts_of([120, 128, 200, 127]))]
    made = Sampler(tiny_causal("llama"), TokenChoice(), end_tokens=(), max_new_tokens=24, context=128, layers=[1])
    lengths = [
        [len(sample.tokens) for sample in each.samples] for each in made.sample([*asked, Prompt("", [])], range(2))
    ]
    assert lengths == [[8, 8], [], [], [1, 1], []]


def test_no_problems_or_no_numbers_give_nothing() -> None:
    assert list(sampler("llama").sample([], range(3))) == []
    assert [each.samples for each in sampler("llama").sample(prompts(), range(0))] == [[], [], []]


def test_progress_counts_each_token_and_each_response_once() -> None:
    reports: list[tuple[int, int]] = []
    found = list(sampler("llama", batch_size=5).sample(prompts(), range(6), lambda *report: reports.append(report)))
    samples = [sample for each in found for sample in each.samples]
    assert tuple(map(sum, zip(*reports, strict=True))) == (18, sum(len(sample.tokens) for sample in samples))


def test_the_models_own_attention_is_back_afterwards() -> None:
    model = tiny_causal("llama")
    before, text = model.config._attn_implementation, torch.tensor([texts_of([9])[0]])
    with torch.no_grad():
        plain = model(input_ids=text).logits
        list(sampler("llama").sample(prompts(), range(2)))
        assert model.config._attn_implementation == before != ATTENTION
        assert torch.equal(model(input_ids=text).logits, plain)


def test_an_architecture_with_attention_of_its_own_falls_back() -> None:
    torch.manual_seed(0)
    config = transformers.FalconConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, initializer_range=0.3
    )
    model = transformers.FalconForCausalLM(config).eval()
    made = Sampler(model, TokenChoice(), end_tokens=ENDS, max_new_tokens=10)
    assert not made.shared
    for each in made.sample(prompts(), range(3)):
        for sample in each.samples:
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([[*each.prompt.tokens, *sample.tokens]])).logits[0]
            numbers = torch.from_numpy(numbers_of(0, each.prompt.id, sample.number, 10)[: len(sample.tokens)])
            assert sample.tokens == TokenChoice()(logits[len(each.prompt.tokens) - 1 : -1], numbers)[0].tolist()


def test_a_model_that_sees_ahead_is_refused() -> None:
    sizes = {
        "vocab_size": 64,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
    }
    model = transformers.BertLMHeadModel(transformers.BertConfig(**sizes)).eval()
    with pytest.raises(ConfigError, match="BertLMHeadModel does not support the key-value cache") as caught:
        Sampler(model, TokenChoice(), end_tokens=())
    assert "What to do" in str(caught.value)


def test_attention_windows_are_respected_without_an_argument_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    attend = PromptCache.attend
    monkeypatch.setattr(
        PromptCache, "attend", lambda self, query, scaling, softcap, window: attend(self, query, scaling, softcap, None)
    )
    model = tiny_causal("mistral")
    assert not PromptSharing(model).steps(shared=True, longest=128)
    model.config.sliding_window = 64
    try:
        sharing = PromptSharing(model)
        assert sharing.steps(shared=True, longest=64) and not sharing.steps(shared=True, longest=65)
        assert not sharing.steps(shared=True)
    finally:
        model.config.sliding_window = 6


@pytest.mark.parametrize("batch_size", [0, -1])
def test_impossible_sizes_are_refused(batch_size: int) -> None:
    with pytest.raises(ValueError, match="batch_size"):
        sampler("llama", batch_size=batch_size)


def letters(tokens: Sequence[int]) -> str:
    return "".join(chr(96 + token) for token in tokens)


@pytest.mark.parametrize(
    ("stop", "tokens", "ends", "text"),
    [
        (["c"], [1, 2, 3], True, "ab"),
        (["bc"], [1, 2, 3], True, "a"),
        (["bc", "abc"], [1, 2, 3], True, ""),
        (["bc"], [2, 3, 1, 1, 1, 1], False, ""),
        (["z"], [1, 2], False, "ab"),
        ([], [1, 2], False, "ab"),
    ],
)
def test_a_stop_string_ends_a_response_and_is_no_part_of_it(
    stop: list[str], tokens: list[int], ends: bool, text: str
) -> None:
    stops = StopTexts(stop, letters)
    assert stops(tokens) == ends
    assert stops.cut(letters(tokens)) == text


@pytest.mark.parametrize(
    ("text", "stop"), [("\N{GRINNING FACE}\n", "\n"), ("é\n\n", "\n\n"), ("中中中。", "。"), ("中文\n", "\n")]
)
def test_stop_strings_are_found_behind_characters_of_several_tokens(text: str, stop: str) -> None:
    # As the tokenizers of Llama 2, Mistral and Gemma write what they have no token for.
    tokenizer = Tokenizer(models.BPE({f"<0x{byte:02X}>": byte for byte in range(256)}, [], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokens, stops = list(text.encode()), StopTexts([stop], tokenizer.decode)
    assert [stops(tokens[:length]) for length in range(1, len(tokens) + 1)] == [False] * (len(tokens) - 1) + [True]


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(ValueError, match="empty stop string"):
        StopTexts(["a", ""], letters)


def test_other_ends_than_tokens_end_a_response() -> None:
    def ends_text(tokens: Sequence[int]) -> bool:
        return len(tokens) == 3

    ends: Callable[[Sequence[int]], bool] = ends_text
    found = list(sampler("llama", end_tokens=(), ends_text=ends).sample(prompts(), range(2)))
    samples: list[Sample] = [sample for each in found for sample in each.samples]
    assert {(len(sample.tokens), sample.finish) for sample in samples} == {(3, "stop")}
