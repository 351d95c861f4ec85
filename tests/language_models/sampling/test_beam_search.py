"""Beam search finds what a search by hand finds, with the log-probabilities of the plain forward."""

import heapq

import pytest
import torch
import transformers
from tiny_causal import MODELS, texts_of, tiny_causal

from language_models.sampling.beam_search import search


def by_hand(prompt: list[int], num_beams: int, most: int, ends: set[int]) -> list[tuple[float, list[int]]]:
    """Beginnings by total log-probability, ended ones kept by the mean; the best ones at the end."""
    model = tiny_causal("llama")
    beginnings: list[tuple[float, list[int]]] = [(0.0, [])]
    ended: list[tuple[float, list[int]]] = []
    for _ in range(most):
        grown = []
        for total, tokens in beginnings:
            with torch.no_grad():
                added = model(input_ids=torch.tensor([prompt + tokens])).logits[0, -1].log_softmax(dim=0)
            grown += [(total + float(value), [*tokens, token]) for token, value in enumerate(added)]
        best = heapq.nlargest(2 * num_beams, grown)
        ended += [(total / len(tokens), tokens) for total, tokens in best[:num_beams] if tokens[-1] in ends]
        beginnings = [each for each in best if each[1][-1] not in ends][:num_beams]
    ended += [(total / most, tokens) for total, tokens in beginnings]
    return heapq.nlargest(num_beams, ended)


@pytest.mark.parametrize("ends", [{2}, {2, 5, 9, 30, 31, 32, 33}, set()])
def test_beams_are_those_of_a_search_by_hand(ends: set[int]) -> None:
    (prompt,) = texts_of([6])
    (found,) = search(tiny_causal("llama"), [prompt], 3, 3, 7, ends)
    expected = by_hand(prompt, 3, 7, ends)
    assert found[0].tokens == expected[0][1]
    for beam in found:
        with torch.no_grad():
            logits = tiny_causal("llama")(input_ids=torch.tensor([prompt + beam.tokens])).logits[0, 5:-1]
        total = logits.log_softmax(dim=1)[range(len(beam.tokens)), beam.tokens].sum().item()
        assert beam.log_probability == pytest.approx(total, abs=1e-4)
        assert beam.finish == ("stop" if beam.tokens[-1] in ends else "length")
        assert len(beam.tokens) == 7 or beam.tokens[-1] in ends
    means = [beam.log_probability / len(beam.tokens) for beam in found]
    assert means == sorted(means, reverse=True)


def test_settings_that_come_with_the_model_are_not_used() -> None:
    model, (prompt,) = tiny_causal("llama"), texts_of([6])
    plain = search(model, [prompt], 2, 2, 7, {2})
    own = transformers.GenerationConfig(repetition_penalty=9.0, temperature=0.1, do_sample=True)
    usual, model.generation_config = model.generation_config, own
    try:
        assert search(model, [prompt], 2, 2, 7, {2}) == plain
        assert model.generation_config is own
    finally:
        model.generation_config = usual


def test_a_stop_string_ends_a_beam_at_its_first_place() -> None:
    (prompt,) = texts_of([6])
    ((best,),) = search(tiny_causal("llama"), [prompt], 2, 1, 7, set(), lambda tokens: len(tokens) == 4)
    assert len(best.tokens) == 4 and best.finish == "stop"


def test_a_stop_string_ends_beams_as_a_token_does() -> None:
    model, prompts, ends = tiny_causal("llama"), texts_of([6, 3, 9]), {2, 5, 9, 30, 31, 32, 33}
    assert search(model, prompts, 3, 3, 7, set(), lambda tokens: tokens[-1] in ends) == search(
        model, prompts, 3, 3, 7, ends
    )


@pytest.mark.parametrize("name", MODELS)
def test_prompts_of_different_lengths_are_searched_together_as_each_alone(name: str) -> None:
    model, prompts = tiny_causal(name), texts_of([6, 3, 9])
    together = search(model, prompts, 3, 2, 7, {2, 5, 9, 30})
    for prompt, found in zip(prompts, together, strict=True):
        (alone,) = search(model, [prompt], 3, 2, 7, {2, 5, 9, 30})
        assert [beam.tokens for beam in found] == [beam.tokens for beam in alone]
        assert [beam.log_probability for beam in found] == pytest.approx([beam.log_probability for beam in alone])
