"""Transformer: a block in which the vectors of a group attend to each other."""

import math

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rankers.language_ranker.blocks.mlp import Mlp, last_linear
from registry import BLOCKS
from registry.ranges import Dropout, FeatureDim, Ratio, Width


@BLOCKS.register("transformer")
class Transformer(nn.Module):
    """Self-attention without positions, then `mlp`, both pre-normed with a residual (Language Ranker, Eq. 1).

    y = x + out(attention(LayerNorm(x))); y + contract(GELU(expand(LayerNorm(y))))

    Without positions, permuting the inputs permutes the outputs. No vector attends to masked ones.

    Args:
        dim: Size of the vectors.
        num_heads: Number of attention heads; null for 4, or the next smaller number that divides `dim`.
        ratio: How many times wider the hidden layer of the `mlp` half is than the vectors.
        dropout: Share of attention weights, hidden values and outputs of both halves set to 0 in training.
        identity_init: Initialise the last layer of both halves with zeros, so the block starts as the identity.

    Raises:
        ValueError: If `num_heads` does not divide `dim`.
    """

    def __init__(
        self,
        dim: FeatureDim,
        num_heads: Width | None = None,
        ratio: Ratio = 4,
        dropout: Dropout = 0.0,
        identity_init: bool = False,
    ) -> None:
        super().__init__()
        self.num_heads = math.gcd(dim, 4) if num_heads is None else num_heads
        if self.num_heads < 1 or dim % self.num_heads:
            divisors = ", ".join(str(n) for n in range(1, min(dim, 64) + 1) if dim % n == 0)
            raise ValueError(f"num_heads {num_heads} does not divide dim {dim}; what does: {divisors}")
        self.norm = nn.LayerNorm(dim)
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.out = last_linear(dim, dim, zero=identity_init)
        self.dropout = nn.Dropout(dropout)
        self.mlp = Mlp(dim, ratio, dropout, identity_init)

    def forward(self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"]) -> Float[Tensor, "B N D"]:
        """Map each vector, given the others of its group; outputs are finite but arbitrary where the mask is False."""
        # An attention weight of 0 does not hide a nan, so masked vectors are set to 0 too.
        x = x.masked_fill(~mask.unsqueeze(-1), 0)
        x = x + self.dropout(self.out(self._attend(self.norm(x), mask)))
        return self.mlp(x, mask)

    def _attend(self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"]) -> Float[Tensor, "B N D"]:
        query, key, value = self.query_key_value(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        # In a group without vectors, attend to all places: a softmax over nothing would be nan.
        seen = mask | ~mask.any(dim=-1, keepdim=True)
        mixed = F.scaled_dot_product_attention(
            query, key, value, attn_mask=seen[:, None, None, :], dropout_p=self.dropout.p if self.training else 0.0
        )
        return mixed.transpose(1, 2).flatten(-2)
