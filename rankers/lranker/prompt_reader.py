"""PromptReader: a backbone reading prompts, and what of their states makes an embedding."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rankers.lranker.prompt import Pooling, Prompt

Injection = Literal["placeholder", "prefix"]


@dataclass(frozen=True)
class PromptReader:
    """A backbone and the prompts it reads.

    Args:
        backbone: A model of the transformers library, without a head.
        prompt: What stands around the queries.
        injection: Where a context's embeddings go: to the `placeholder`, or to a `prefix` at the very front.
        pooling: Which states make an embedding: `query_eos` for the mean over the query's own tokens and the last one
            (LRanker, Eq. 7), `mean` over all tokens, or the `last`.
    """

    backbone: Any
    prompt: Prompt
    injection: Injection = "placeholder"
    pooling: Pooling = "query_eos"

    def read(
        self,
        tokens: Int[Tensor, "B T"],
        lengths: Int[Tensor, " B"],
        embeddings: Float[Tensor, "B N H"] | None = None,
        mask: Bool[Tensor, "B K"] | None = None,
    ) -> Float[Tensor, "B H"]:
        """Pooled states of B queries, each in one context.

        Args:
            tokens: The queries' own, filled up on the right.
            lengths: How many tokens each query has.
            embeddings: Of the contexts; None without any.
            mask: True where a context's centroid exists.
        """
        laid = self.prompt.lay(tokens, lengths)
        inputs, attended, pooled = self.embed(laid.ids), laid.mask, laid.pooled(self.pooling)
        if embeddings is not None and self.injection == "placeholder":
            place = torch.arange(len(inputs), device=inputs.device), self.prompt.places(lengths)
            inputs = inputs.index_put(place, embeddings[:, 0].to(inputs.dtype))
        elif embeddings is not None:
            assert mask is not None
            inputs = torch.cat([embeddings.to(inputs.dtype), inputs], dim=1)
            attended = torch.cat([mask, attended], dim=1)
            pooled = torch.nn.functional.pad(pooled, (mask.shape[1], 0), value=False)
        states = self.states(inputs_embeds=inputs, attention_mask=attended.long(), use_cache=False)
        return total(states, pooled) / pooled.sum(dim=1, keepdim=True)

    def embed(self, ids: Int[Tensor, "*B L"]) -> Float[Tensor, "*B L H"]:
        """The input embeddings of tokens."""
        return self.backbone.get_input_embeddings()(ids)

    def states(self, **inputs: Any) -> Float[Tensor, "B L H"]:
        """The last hidden states, normed as the backbone does."""
        return self.backbone(**inputs).last_hidden_state


def total(states: Float[Tensor, "*B L H"], chosen: Bool[Tensor, "*B L"]) -> Float[Tensor, "*B H"]:
    """The sum of the chosen states, in fp32."""
    return states.float().masked_fill(~chosen.unsqueeze(-1), 0).sum(dim=-2)
