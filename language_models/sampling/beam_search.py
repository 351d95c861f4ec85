"""Beam search: finds likely responses by keeping the most likely beginnings at each step."""

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import torch
import transformers
from jaxtyping import Float
from torch import Tensor

from language_models.sampling.prompt_sharing import filled
from language_models.states.block_states import keeps_logits

# Number of positions whose logits are converted to fp32 at a time.
_POSITIONS = 64


class _EndsText(transformers.StoppingCriteria):
    """Ends beams whose text is complete.

    Args:
        ends_text: Returns whether tokens end a response.
        width: Number of tokens before the response.
    """

    def __init__(self, ends_text: Callable[[Sequence[int]], bool], width: int) -> None:
        self._ends_text, self._width = ends_text, width

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        """Whether each beam has ended."""
        ended = [self._ends_text(row) for row in input_ids[:, self._width :].tolist()]
        return torch.tensor(ended, dtype=torch.bool, device=input_ids.device)


class Beam(NamedTuple):
    """A response: its tokens, including the end token, their total log-probability, and why it ended."""

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
    """The final beams of the transformers library, sorted by mean log-probability of their tokens, best first.

    Generation settings that come with the model, such as a repetition penalty, are ignored.

    Args:
        model: A causal model of the transformers library with its language head.
        prompts: The tokens of each prompt; all are searched in one batch.
        num_beams: Number of beams that each step keeps for a prompt.
        num_found: Number of best beams to return for a prompt.
        max_new_tokens: Longest response in tokens.
        end_tokens: Tokens that end a response.
        ends_text: Returns whether tokens end a response in another way, such as by a stop string.
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
    """A row without padding; one forward over it gives its log-probability."""
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
