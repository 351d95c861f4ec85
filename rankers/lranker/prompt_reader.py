"""PromptReader: runs a backbone on prompts and pools its hidden states."""

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
        prompt: The tokens around the queries.
        injection: Where a context's embeddings go: at the `placeholder`, or in a `prefix` before all tokens.
        pooling: The tokens whose hidden states are averaged: `query_eos` for the query's own tokens and the last one
            (LRanker, Eq. 7), `mean` for all tokens, or `last` for the last one.
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
        """The pooled states of B queries, each in one context.

        Args:
            tokens: The queries' own tokens, padded on the right.
            lengths: How many tokens each query has.
            embeddings: The embeddings of the contexts; None without contexts.
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
        """The last hidden states, after the backbone's final norm."""
        given = inputs.get("inputs_embeds")
        if given is not None and not len(given):
            # A process that has judged its queries has a batch without texts. Backbones cannot read such a batch, and
            # with FSDP2 every process has to call them.
            one = self.backbone(inputs_embeds=given.new_zeros(1, 1, given.shape[2]), use_cache=False).last_hidden_state
            return one.new_zeros(*given.shape[:2], one.shape[2])
        return self.backbone(**inputs).last_hidden_state


def total(states: Float[Tensor, "*B L H"], chosen: Bool[Tensor, "*B L"]) -> Float[Tensor, "*B H"]:
    """The sum of the chosen states, in fp32."""
    return states.float().masked_fill(~chosen.unsqueeze(-1), 0).sum(dim=-2)
