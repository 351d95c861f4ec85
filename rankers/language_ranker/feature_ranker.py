"""FeatureRanker: the base of ListRanker and PointRanker: a projection, blocks, and a scaled similarity."""

import math
from typing import Annotated, Any, Literal, Unpack

import torch
from annotated_types import Interval
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rankers.base import Ranker, Training
from rankers.language_ranker.extra import Extra, ExtraName
from ranking.batch import FeatureBatch
from registry import BLOCKS, PROJECTIONS, SIMILARITIES, Node
from registry.ranges import FeatureDim, Temperature


class FeatureOptions(Training, total=False):
    """Options to build and train a ranker on stored vectors.

    Args:
        projection: Maps vectors from size D to the size of the blocks; null to use the stored vectors directly.
        num_blocks: Number of blocks, each with its own weights.
        query: `feature` for the query's stored vector, or `learned` for one vector trained for all queries (the paper's
            ablation).
        similarity: Computes the score from a query's vector and a candidate's.
        temperature: Scores are divided by it; 1 in the paper. A cosine lies in [-1, 1], and a softmax over such values
            is nearly flat; a smaller temperature makes it sharper.
        learn_temperature: Train the temperature, starting from the given value.
        extra: What sampling knew of each candidate, as further inputs: `log_probability`, `num_tokens`,
            `self_certainty` and `agreement`, the share of the group's candidates with the same answer. They are
            normalised within the group, mapped linearly and added to the candidate's projected vector.
    """

    projection: Annotated[Node, PROJECTIONS] | None
    num_blocks: Annotated[int, Interval(ge=0, le=256)]
    query: Literal["feature", "learned"]
    similarity: Annotated[Node, SIMILARITIES]
    temperature: Temperature
    learn_temperature: bool
    extra: list[ExtraName]


class FeatureRanker(Ranker[FeatureBatch]):
    """A ranker that projects stored vectors, refines them with blocks, and compares query and candidates.

    A subclass implements `forward`.
    """

    def __init__(
        self,
        feature_dim: FeatureDim,
        block: Node,
        projection: Node | None = "linear",
        num_blocks: int = 1,
        query: Literal["feature", "learned"] = "feature",
        similarity: Node = "cosine",
        temperature: float = 1.0,
        learn_temperature: bool = False,
        extra: list[ExtraName] = [],  # noqa: B006
        **training: Unpack[Training],
    ) -> None:
        super().__init__(**training)
        self.layers = Layers(feature_dim, projection, block, num_blocks)
        self.query = nn.Parameter(torch.randn(self.layers.dim)) if query == "learned" else None
        self.similarity = ScaledSimilarity(similarity, self.layers.dim, temperature, learn_temperature)
        self.extra = tuple(extra)
        self.extra_inputs = Extra(extra, self.layers.dim) if extra else None

    def projected_candidates(self, batch: FeatureBatch) -> Float[Tensor, "B K d"]:
        """The projected vector of each candidate, with the further inputs, if any."""
        vectors = self.layers.project(batch.unique_candidates)[batch.candidate_index]
        return vectors if self.extra_inputs is None else vectors + self.extra_inputs(batch)


class Layers(nn.Module):
    """A projection from size D to size d, then blocks of size d."""

    def __init__(self, feature_dim: int, projection: Node | None, block: Node, num_blocks: int) -> None:
        super().__init__()
        self.projection, self.dim = None, feature_dim
        if projection is not None:
            built: Any = PROJECTIONS.build(projection, path="ranker.projection", feature_dim=feature_dim)
            self.projection, self.dim = built, built.dim
        blocks = (BLOCKS.build(block, path="ranker.block", dim=self.dim) for _ in range(num_blocks))
        self.blocks = nn.ModuleList(blocks)

    def project(self, vectors: Float[Tensor, "N D"]) -> Float[Tensor, "N d"]:
        """Convert each vector from its stored dtype to the dtype of the weights, and project it."""
        weight = next(self.parameters(), None)
        vectors = vectors.float() if weight is None else vectors.to(weight.dtype)
        return vectors if self.projection is None else self.projection(vectors)

    def refine(self, vectors: Float[Tensor, "B N d"], mask: Bool[Tensor, "B N"]) -> Float[Tensor, "B N d"]:
        """Apply all blocks; outputs are arbitrary where the mask is False."""
        for block in self.blocks:
            vectors = block(vectors, mask)
        return vectors


class ScaledSimilarity(nn.Module):
    """Sim(q, c) / temperature; a learned temperature is stored as its logarithm, so it stays positive."""

    def __init__(self, similarity: Node, dim: int, temperature: float, learned: bool) -> None:
        super().__init__()
        self.similarity = SIMILARITIES.build(similarity, dim=dim, path="ranker.similarity")
        log_temperature = torch.tensor(math.log(temperature))
        if learned:
            self.log_temperature = nn.Parameter(log_temperature)
        else:
            self.register_buffer("log_temperature", log_temperature, persistent=False)

    def forward(self, queries: Float[Tensor, "G Q d"], candidates: Float[Tensor, "G K d"]) -> Float[Tensor, "G Q K"]:
        """Score Q queries against K candidates in each of G groups."""
        return self.similarity(queries, candidates) * torch.exp(-self.log_temperature)
