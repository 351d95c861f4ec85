"""Gated: a block that maps each vector independently, with a gate on its hidden values."""

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rankers.language_ranker.blocks.mlp import last_linear
from registry import BLOCKS
from registry.ranges import Dropout, FeatureDim, Ratio


@BLOCKS.register("gated")
class Gated(nn.Module):
    """Gated linear unit, pre-normed, with a residual (SwiGLU, Shazeer 2020).

    x + contract(SiLU(gate(y)) * expand(y)) with y = LayerNorm(x)

    Args:
        dim: Size of the vectors.
        ratio: The hidden layer is 2/3 * ratio times wider, which gives as many parameters as `mlp` with this ratio.
        dropout: Share of the hidden values and of the last layer's outputs set to 0 in training.
        identity_init: Initialise the last layer with zeros, so the block starts as the identity.
    """

    def __init__(self, dim: FeatureDim, ratio: Ratio = 4, dropout: Dropout = 0.0, identity_init: bool = False) -> None:
        super().__init__()
        hidden_dim = 2 * ratio * dim // 3
        self.norm = nn.LayerNorm(dim)
        self.gate_and_expand = nn.Linear(dim, 2 * hidden_dim)
        self.contract = last_linear(hidden_dim, dim, zero=identity_init)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"]) -> Float[Tensor, "B N D"]:
        """Map each vector independently; the mask is ignored."""
        gate, value = self.gate_and_expand(self.norm(x)).chunk(2, dim=-1)
        return x + self.dropout(self.contract(self.dropout(F.silu(gate) * value)))
