"""Mlp: a block that maps each vector independently, like the feed-forward half of a Transformer block."""

from jaxtyping import Bool, Float
from torch import Tensor, nn

from registry import BLOCKS
from registry.ranges import Dropout, FeatureDim, Ratio


@BLOCKS.register("mlp")
class Mlp(nn.Module):
    """Two linear layers around a GELU, pre-normed, with a residual (Language Ranker, Eq. 3).

    x + contract(GELU(expand(LayerNorm(x))))

    Args:
        dim: Size of the vectors.
        ratio: How many times wider the hidden layer is than the vectors.
        dropout: Share of the hidden values and of the last layer's outputs set to 0 in training.
        identity_init: Initialise the last layer with zeros, so the block starts as the identity.
    """

    def __init__(self, dim: FeatureDim, ratio: Ratio = 4, dropout: Dropout = 0.0, identity_init: bool = False) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.expand = nn.Linear(dim, ratio * dim)
        self.contract = last_linear(ratio * dim, dim, zero=identity_init)
        self.activation, self.dropout = nn.GELU(), nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"]) -> Float[Tensor, "B N D"]:
        """Map each vector independently; the mask is ignored."""
        hidden = self.dropout(self.activation(self.expand(self.norm(x))))
        return x + self.dropout(self.contract(hidden))


def last_linear(hidden_dim: int, dim: int, *, zero: bool) -> nn.Linear:
    """The last layer of a residual branch; if it is zero, the block starts as the identity."""
    linear = nn.Linear(hidden_dim, dim)
    if zero:
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
    return linear
