"""Mlp: a block that maps each vector on its own, as the feed-forward half of a Transformer block does."""

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
        ratio: How many times wider the hidden layer is.
        dropout: Share of the hidden values, and of the last layer's, dropped in training.
        identity_init: Start as the identity, with a last layer of zeros.
    """

    def __init__(self, dim: FeatureDim, ratio: Ratio = 4, dropout: Dropout = 0.0, identity_init: bool = False) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.expand = nn.Linear(dim, ratio * dim)
        self.contract = last_linear(ratio * dim, dim, zero=identity_init)
        self.activation, self.dropout = nn.GELU(), nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"]) -> Float[Tensor, "B N D"]:
        """Each vector on its own; the mask does not matter."""
        hidden = self.dropout(self.activation(self.expand(self.norm(x))))
        return x + self.dropout(self.contract(hidden))


def last_linear(hidden_dim: int, dim: int, *, zero: bool) -> nn.Linear:
    """The layer that ends a residual branch; with zeros in it, the block starts as the identity."""
    linear = nn.Linear(hidden_dim, dim)
    if zero:
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
    return linear
