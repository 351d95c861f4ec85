"""TokenChoice: chooses the next token of each response, given a random number in [0, 1)."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from language_models.sampling.seeds import seed_of
from registry import ConfigError

# Probabilities are summed in blocks of this many tokens; then only one block is summed token by token.
_BLOCK = 256
# The tokens that top_p keeps are mostly among this many likeliest; all tokens are sorted only if they are not.
_LIKELY = 1024


class Chosen(NamedTuple):
    """One token per row, and two values of the model's own distribution p over V tokens, both in nats.

    Args:
        tokens: The chosen tokens.
        log_probability: log p of the chosen token.
        certainty: KL(U || p) = -1/V sum_j log(V p_j), how far p is from the uniform distribution U: the summand of
            self-certainty (Kang et al. 2025, arXiv 2502.18581). It is infinite if p is 0 for a token.
    """

    tokens: Int[Tensor, " S"]
    log_probability: Float[Tensor, " S"]
    certainty: Float[Tensor, " S"]


@dataclass(frozen=True)
class TokenChoice:
    """Draws from the model's distribution, sharpened and truncated; equal numbers give equal tokens.

    Args:
        temperature: Divisor of the logits; 0 always takes the likeliest token.
        top_p: Draw only from the likeliest tokens that together have this probability, after temperature and top_k.
        top_k: Draw only from this many likeliest tokens; 0 for all.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0

    def __call__(self, logits: Float[Tensor, "S V"], numbers: Float[Tensor, " S"]) -> Chosen:
        """A token for each row.

        Args:
            logits: Logits in fp32.
            numbers: Random numbers in [0, 1), one per row.

        Raises:
            ConfigError: If the logits are not finite, because the model left the range of its number format.
        """
        total = logits.logsumexp(dim=-1)
        if not total.isfinite().all():
            cure = "set bfloat16 or float32 if it is float16, whose range is too small for some models"
            raise ConfigError("features.generator.dtype", "the model's logits are not finite.", cure=cure)
        if self.temperature == 0:
            tokens = logits.argmax(dim=-1)
        else:
            scaled = logits if self.temperature == 1 else logits / self.temperature
            tokens = inverse(self._cut(scaled), numbers)
        chosen = logits.gather(1, tokens.unsqueeze(1)).squeeze(1)
        return Chosen(tokens, chosen - total, total - logits.mean(dim=-1) - math.log(logits.shape[1]))

    def _cut(self, logits: Float[Tensor, "S V"]) -> Float[Tensor, "S V"]:
        """Logits with -inf for tokens that top_k and top_p exclude; tokens with equal logits are treated alike."""
        if 0 < self.top_k < logits.shape[1]:
            least = logits.topk(self.top_k).values[:, -1:]
            logits = logits.masked_fill(logits < least, -torch.inf)
        if self.top_p < 1:
            probabilities = logits.softmax(dim=-1)
            likely = probabilities.topk(min(_LIKELY, logits.shape[1])).values
            least = self._least(likely)
            wide = (likely.sum(dim=-1) < self.top_p).nonzero().squeeze(1)
            if len(wide):
                least[wide] = self._least(probabilities[wide].sort(dim=-1, descending=True).values)
            logits = logits.masked_fill(probabilities < least, -torch.inf)
        return logits

    def _least(self, likely: Float[Tensor, "S N"]) -> Float[Tensor, "S 1"]:
        """The smallest probability that top_p keeps, given the largest probabilities in descending order."""
        before = likely.cumsum(dim=-1) - likely
        kept = (before < self.top_p).sum(dim=-1, keepdim=True)
        return likely.gather(1, kept - 1)


def inverse(logits: Float[Tensor, "S V"], numbers: Float[Tensor, " S"]) -> Int[Tensor, " S"]:
    """The inverse of each row's cumulative distribution over token ids; never a token with probability 0.

    >>> inverse(torch.tensor([[0.25, 0.5, 0.0, 0.25]]).log().expand(4, 4), torch.tensor([0.0, 0.3, 0.74, 0.76]))
    tensor([0, 1, 1, 3])
    """
    (rows, tokens), every = logits.shape, torch.arange(len(logits), device=logits.device)
    weights = logits.new_empty(rows, -(-tokens // _BLOCK) * _BLOCK)
    weights[:, tokens:] = 0
    torch.sub(logits, logits.amax(dim=-1, keepdim=True), out=weights[:, :tokens])
    weights[:, :tokens].exp_()
    blocks = weights.view(rows, -1, _BLOCK)
    sums = blocks.sum(dim=-1).double().cumsum(dim=-1)
    total = sums[:, -1:].contiguous()
    target = numbers.double().unsqueeze(1) * total
    # Rounding can put a target at the end of all blocks, or beyond the last sum inside its block.
    block = torch.minimum(torch.searchsorted(sums, target, right=True), torch.searchsorted(sums, total))
    target = target - torch.where(block > 0, sums.gather(1, (block - 1).clamp(min=0)), 0)
    inside = blocks[every, block.squeeze(1)]
    place = torch.searchsorted(inside.double().cumsum(dim=-1), target, right=True)
    last = _BLOCK - 1 - (inside > 0).flip(-1).to(torch.uint8).argmax(dim=-1, keepdim=True)
    return (block * _BLOCK + torch.minimum(place, last)).squeeze(1)


def numbers_of(seed: int, query_id: str, number: int, count: int) -> np.ndarray:
    """The first random numbers in [0, 1) of a response; they depend only on the seed, its query and its number.

    >>> numbers_of(0, "q", 3, 2).tolist() == numbers_of(0, "q", 3, 5)[:2].tolist()
    True
    """
    return np.random.Generator(np.random.Philox(key=seed_of(seed, query_id, number, 16))).random(count)
