"""ContextEmbeddings: what is known of sets of candidates, as input embeddings of a backbone (LRanker, Eqs. 5-6)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rankers.lranker.prompt_reader import Injection
from rankers.lranker.reference_norm import ReferenceNorm
from ranking.pool_batch import Contexts
from registry import PROJECTORS, Node

# Enough sets for the statistics of a norm over the batch.
_NUM_REFERENCES = 128
# Sets that differ by less, relative to their size, differ by rounding; those of large pools do by a thousandth.
_ROUNDING = 1e-4


class ContextEmbeddings(nn.Module):
    """A projector, once for all centroids of a set together (`placeholder`) or for each of them (`prefix`).

    Its outputs start with the root mean square of the backbone's own input embeddings, whatever the features' scale.

    Args:
        projector: The projector.
        injection: Where its outputs will stand.
        feature_dim: Size D of a centroid.
        num_centroids: K.
        dim: Width H of the backbone.
        scale: Root mean square of the backbone's input embeddings.

    Note:
        The paper does not say on what scale centroids enter. Without any, a projector's outputs are some hundred times
        as large as the embeddings of usual backbones, and drown the tokens around them.

    Note:
        A norm over the batch takes its statistics from `references`, that is from the table of all that training draws
        from. The queries of a step often share one set, and its variance is zero; and they are other ones in each
        process.
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
        """One embedding a set, or one a centroid; anything where a centroid does not exist.

        Args:
            contexts: P sets.
            references: Sets that only give a norm over the batch its statistics.
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
        """As ever; but a norm over a batch of sets that are all the same keeps its statistics."""
        super().train(mode)
        if not self._varied:
            for norm in self._norms():
                norm.eval()
        return self

    @torch.no_grad()
    def calibrate(self, contexts: Contexts) -> None:
        """Set scale and running statistics so that these sets come out as they should; once, before training.

        One set alone says nothing: it is left for later. Sets that are all the same have no variance that a norm over
        the batch could divide by: scale and statistics stay as they are, in training as well.
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
        """Whether a norm over the batch would see one and the same input again and again."""
        centroids = contexts.centroids.float().masked_fill(~contexts.mask.unsqueeze(-1), 0)
        inputs = centroids[contexts.mask] if self._each else centroids.flatten(1)
        spread = (inputs - inputs.mean(dim=0)).square().mean()
        return bool(spread <= _ROUNDING**2 * inputs.square().mean())

    def _norms(self) -> list[ReferenceNorm]:
        return [module for module in self.modules() if isinstance(module, ReferenceNorm)]


def _scatter(rows: Float[Tensor, "R H"], mask: Bool[Tensor, "P N"]) -> Float[Tensor, "P N H"]:
    return rows.new_zeros(*mask.shape, rows.shape[1]).index_put(mask.nonzero(as_tuple=True), rows)
