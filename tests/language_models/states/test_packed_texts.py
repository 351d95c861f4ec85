"""Packed texts hold each token once where prompts are shared, and each text attends to its own tokens in order."""

import random

import pytest
import torch

from language_models.conversation import Conversation
from language_models.states.packed_texts import PackedTexts


def draw(generator: random.Random) -> list[Conversation]:
    def tokens(length: int) -> list[int]:
        return [generator.randrange(50) for _ in range(length)]

    choice = generator.choice
    drawn = [
        Conversation(tokens(choice([0, 1, 4, 9])), [tokens(choice([1, 2, 7])) for _ in range(choice([0, 1, 3]))])
        for _ in range(3)
    ]
    return [*drawn, Conversation([3, 4], [[5]])]


@pytest.mark.parametrize("shared", [True, False])
def test_the_places_of_random_texts_are_those_of_a_loop_over_their_tokens(shared: bool) -> None:
    generator = random.Random(0)
    for _ in range(50):
        conversations = draw(generator)
        packed = PackedTexts(conversations, shared=shared, device=torch.device("cpu"))
        texts = [[*prompt, *response] for prompt, responses in conversations for response in responses]
        prompts = [prompt for prompt, _ in conversations]
        read = sum(len(text) for text in texts)
        if shared:
            read = sum(map(len, prompts)) + sum(len(each) for _, responses in conversations for each in responses)
        assert len(packed.ids) == read
        for places, text in zip(packed.texts.tolist(), texts, strict=True):
            found = [place for place in places if place >= 0]
            assert packed.ids[found].tolist() == text
            assert packed.positions[found].tolist() == list(range(len(text)))
        own = [place for part in packed._parts for place in part.own.flatten().tolist() if place >= 0]
        assert sorted(own) == list(range(read))
        for part in packed._parts:
            for tokens, seen in zip(part.own.tolist(), part.seen.tolist(), strict=True):
                tokens, seen = ([place for place in each if place >= 0] for each in (tokens, seen))
                assert seen[len(seen) - len(tokens) :] == tokens
                assert packed.positions[seen].tolist() == list(range(len(seen)))
