"""Beam search: the likeliest responses that can be found by keeping the best beginnings."""

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import torch
import transformers
from jaxtyping import Float
from torch import Tensor

from language_models.block_states import keeps_logits
from language_models.sampling.prompt_sharing import filled

# Positions whose logits are in fp32 at a time.
_POSITIONS = 64


class _EndsText(transformers.StoppingCriteria):
    """Ends beams whose text ends.

    Args:
        ends_text: Whether tokens end a response.
        width: Tokens before the response.
    """

    def __init__(self, ends_text: Callable[[Sequence[int]], bool], width: int) -> None:
        self._ends_text, self._width = ends_text, width

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        """For each beam."""
        ended = [self._ends_text(row) for row in input_ids[:, self._width :].tolist()]
        return torch.tensor(ended, dtype=torch.bool, device=input_ids.device)


class Beam(NamedTuple):
    """A response: its tokens, the one that ended it included, the log-probability of all together, and its end."""

    tokens: list[int]
    log_probability: float
    finish: str


@torch.no_grad()
def search(
    model: Any,
    prompts: Sequence[Sequence[int]],
    num_beams: int,
    num_found: int,
    max_new_tokens: int,
    end_tokens: Collection[int],
    ends_text: Callable[[Sequence[int]], bool] | None = None,
) -> list[list[Beam]]:
    """The beams that the transformers library ends with, by mean log-probability of their tokens, best first.

    Settings that come with the model, such as a penalty on repetition, are not used.

    Args:
        model: A causal model of the transformers library with its language head.
        prompts: The tokens of each, worked on together.
        num_beams: How many beginnings of each are kept.
        num_found: How many of the best there are for each prompt.
        max_new_tokens: Longest response.
        end_tokens: Each of them ends a response.
        ends_text: Whether tokens end a response in another way.
    """
    ends, device = sorted(end_tokens), model.get_input_embeddings().weight.device
    width = max(map(len, prompts))
    ids, seen = filled(prompts, width, left=True, device=device)
    usual = model.generation_config
    model.generation_config = transformers.GenerationConfig(
        do_sample=False,
        num_beams=num_beams,
        num_return_sequences=num_found,
        max_new_tokens=max_new_tokens,
        eos_token_id=ends or None,
        pad_token_id=ends[0] if ends else 0,
    )
    try:
        criteria = [] if ends_text is None else [_EndsText(ends_text, width)]
        found = model.generate(
            ids, attention_mask=seen.long(), stopping_criteria=transformers.StoppingCriteriaList(criteria)
        )
    finally:
        model.generation_config = usual
    rows = iter(found[:, width:].tolist())
    return [[_beam(model, prompt, next(rows), end_tokens, ends_text) for _ in range(num_found)] for prompt in prompts]


def _beam(
    model: Any,
    prompt: Sequence[int],
    row: list[int],
    end_tokens: Collection[int],
    ends_text: Callable[[Sequence[int]], bool] | None,
) -> Beam:
    """A row without what fills it up; its log-probability is found by reading it once."""
    ends = (
        place
        for place in range(1, len(row) + 1)
        if row[place - 1] in end_tokens or (ends_text is not None and ends_text(row[:place]))
    )
    length = next(ends, None)
    tokens = row[:length]
    device = model.get_input_embeddings().weight.device
    ids = torch.tensor([[*prompt, *tokens]], device=device)
    wanted = {"logits_to_keep": len(tokens) + 1} if keeps_logits(model) else {}
    logits = model(input_ids=ids, use_cache=False, **wanted).logits[0, -len(tokens) - 1 : -1]
    return Beam(
        tokens, _log_probability(logits, ids[0, len(prompt) :].to(logits.device)), "stop" if length else "length"
    )


def _log_probability(logits: Float[Tensor, "T V"], tokens: Tensor) -> float:
    total = 0.0
    for part, chosen in zip(logits.split(_POSITIONS), tokens.split(_POSITIONS), strict=True):
        total += float(part.float().log_softmax(dim=-1).gather(1, chosen.unsqueeze(1)).double().sum())
    return total
