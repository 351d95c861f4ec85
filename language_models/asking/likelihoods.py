"""Likelihoods: how probable a causal model finds each of a few given answers to a prompt."""

from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from language_models.sampling.prompt_sharing import filled
from language_models.states.block_states import keeps_logits

T = TypeVar("T")


@torch.no_grad()
def answer_likelihoods(
    model: Any, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], batch_tokens: int
) -> list[list[float]]:
    """The log-probability of each answer after each prompt, in nats, less that of their common first tokens.

    If the answers differ in one token, such as `Passage A` and `Passage B`, each prompt is read once.

    Args:
        model: A causal model of the transformers library with its language head.
        prompts: Tokens of each prompt; none may be empty.
        answers: Tokens of each answer; all must differ, and none may begin another.
        batch_tokens: The most tokens in a pass, padding included.
    """
    shared = sum(1 for _ in takewhile(lambda tokens: len(set(tokens)) == 1, zip(*answers, strict=False)))
    tails = [list(answer[shared:]) for answer in answers]
    if not all(tails):
        raise ValueError("one answer begins another, so they cannot be compared")
    begun = [[*prompt, *answers[0][:shared]] for prompt in prompts]
    if all(len(tail) == 1 for tail in tails):
        tokens = torch.tensor([tail[0] for tail in tails])
        return list(_read(model, begun, 1, batch_tokens, lambda row, found: found[0, tokens].tolist()))

    def total(row: int, found: Float[Tensor, "T V"]) -> float:
        tail = tails[row % len(tails)]
        return float(found[torch.arange(-len(tail) - 1, -1), tail].sum())

    texts = [[*text, *tail] for text in begun for tail in tails]
    totals = _read(model, texts, 1 + max(map(len, tails)), batch_tokens, total)
    return [totals[row : row + len(tails)] for row in range(0, len(totals), len(tails))]


def _read(
    model: Any,
    texts: Sequence[Sequence[int]],
    num_last: int,
    batch_tokens: int,
    take: Callable[[int, Float[Tensor, "T V"]], T],
) -> list[T]:
    """What `take` makes of a text's row and the log-probabilities of the next token at its last few tokens."""
    device = model.get_input_embeddings().weight.device
    found: dict[int, T] = {}
    order = sorted(range(len(texts)), key=lambda place: -len(texts[place]))
    kept = {"logits_to_keep": num_last} if keeps_logits(model) else {}
    while order:
        width = len(texts[order[0]])
        size = max(1, batch_tokens // width)
        rows, order = order[:size], order[size:]
        ids, seen = filled([texts[row] for row in rows], width, left=True, device=device)
        positions = (seen.long().cumsum(dim=1) - 1).clamp(min=0)
        given = {"input_ids": ids, "attention_mask": seen.long(), "position_ids": positions, "use_cache": False}
        logits = model(**given, **kept).logits[:, -num_last:].float().log_softmax(dim=-1).cpu()
        found.update((row, take(row, each)) for row, each in zip(rows, logits, strict=True))
    return [found[row] for row in range(len(texts))]
