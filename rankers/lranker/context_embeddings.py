"""ContextEmbeddings: sets of candidates as input embeddings of a backbone (LRanker, Eqs. 5-6)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rankers.lranker.prompt_reader import Injection
from rankers.lranker.reference_norm import ReferenceNorm
from ranking.pools.pool_batch import Contexts
from registry import PROJECTORS, Node

# The number of sets from which a batch norm takes its statistics.
_NUM_REFERENCES = 128
# Sets with a smaller relative difference are equal up to rounding; sets of large pools differ by about 0.001.
_ROUNDING = 1e-4


class ContextEmbeddings(nn.Module):
    """Applies a projector to all centroids of a set together (`placeholder`) or to each of them (`prefix`).

    Its outputs start with the root mean square of the backbone's input embeddings, whatever the scale of the features.

    Args:
        projector: Maps centroids to input embeddings.
        injection: Where the outputs enter the prompt: `placeholder` or `prefix`.
        feature_dim: Size D of a centroid.
        num_centroids: K, the number of centroids of a set.
        dim: Width H of the backbone.
        scale: Root mean square of the backbone's input embeddings.

    Note:
        The paper does not give the scale of these embeddings. Without scaling, a projector's outputs are some
        hundred times as large as the token embeddings of common backbones, and dominate the other tokens.

    Note:
        A batch norm takes its statistics from `references`: from the table of all sets that training draws from. The
        queries of one step are not suitable: they often share one set, whose variance is zero, and they differ between
        processes.
    """

    def __init__(
        self,
        projector: Node,
        injection: Injection,
        feature_dim: int,
        num_centroids: int,
        dim: int,
        scale: float,
    ) -> None:
        super().__init__()
        self._each = injection == "prefix"
        num_together = 1 if self._each else num_centroids
        self.projector = PROJECTORS.build(
            projector, path="ranker.projector", feature_dim=feature_dim, num_centroids=num_together, dim=dim
        )
        ReferenceNorm.replace_in(self.projector)
        self._target, self._varied = scale, True
        self.scale: Tensor
        self.calibrated: Tensor
        self.register_buffer("scale", torch.tensor(scale))
        self.register_buffer("calibrated", torch.tensor(False))

    def forward(self, contexts: Contexts, references: Contexts | None = None) -> Float[Tensor, "P N H"]:
        """One embedding per set, or one per centroid; arbitrary where a centroid does not exist.

        Args:
            contexts: The contexts of P sets.
            references: Sets that are used only for the statistics of a batch norm.
        """
        count = len(contexts.centroids)
        if references is not None and self.training and self._norms():
            for norm in self._norms():
                norm.num_own = int(contexts.mask.sum()) if self._each else count
            step = -(-len(references.centroids) // _NUM_REFERENCES)
            contexts = Contexts(
                *(torch.cat([own, more[::step]]) for own, more in zip(contexts, references, strict=True))
            )
        outputs = self._project(contexts)[:count] * self.scale
        for norm in self._norms():
            norm.num_own = 0
        return outputs

    def train(self, mode: bool = True) -> "ContextEmbeddings":
        """Set the mode; a batch norm stays in evaluation mode if all sets are equal."""
        super().train(mode)
        if not self._varied:
            for norm in self._norms():
                norm.eval()
        return self

    @torch.no_grad()
    def calibrate(self, contexts: Contexts) -> None:
        """Set the scale and running statistics from these sets, once, before training.

        A single set is not enough: then a later call sets them. If all sets are equal, a batch norm has no variance to
        divide by: scale and running statistics stay as they are, in training too.
        """
        self._varied = not (self._norms() and self._all_same(contexts))
        self.train(self.training)
        if self.calibrated or len(contexts.centroids) < 2:
            return
        self.calibrated.fill_(True)
        if not self._varied:
            return
        before = self.training, [(norm, norm.momentum) for norm in self._norms()]
        self.train()
        for norm in self._norms():
            norm.momentum = 1.0
        outputs = self._project(contexts)
        self.train(before[0])
        for norm, momentum in before[1]:
            norm.momentum = momentum
        there = outputs[contexts.mask] if self._each else outputs
        self.scale.copy_(self._target / there.square().mean().sqrt().clamp(min=1e-12))

    def _project(self, contexts: Contexts) -> Float[Tensor, "P N H"]:
        centroids = contexts.centroids.float().masked_fill(~contexts.mask.unsqueeze(-1), 0)
        if not self._each:
            return self.projector(centroids).unsqueeze(1)
        there = self.projector(centroids[contexts.mask].unsqueeze(1))
        return _scatter(there, contexts.mask)

    def _all_same(self, contexts: Contexts) -> bool:
        """Whether all inputs of a batch norm would be equal."""
        centroids = contexts.centroids.float().masked_fill(~contexts.mask.unsqueeze(-1), 0)
        inputs = centroids[contexts.mask] if self._each else centroids.flatten(1)
        spread = (inputs - inputs.mean(dim=0)).square().mean()
        return bool(spread <= _ROUNDING**2 * inputs.square().mean())

    def _norms(self) -> list[ReferenceNorm]:
        return [module for module in self.modules() if isinstance(module, ReferenceNorm)]


def _scatter(rows: Float[Tensor, "R H"], mask: Bool[Tensor, "P N"]) -> Float[Tensor, "P N H"]:
    return rows.new_zeros(*mask.shape, rows.shape[1]).index_put(mask.nonzero(as_tuple=True), rows)
