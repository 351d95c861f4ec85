"""Plain scaling: a straightforward version of LRanker's test-time scaling, to compare ours with.

The backbone reads the whole prompt of every part, with the parts of a step as one batch. scikit-learn clusters one part
after the other. NumPy scores and sorts.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from torch import Tensor

from rankers.lranker.context_embeddings import ContextEmbeddings
from rankers.lranker.prompt import Prompt
from ranking.pools.pool_batch import Contexts


@dataclass(frozen=True)
class PlainScaling:
    """Ranks one query at a time.

    Args:
        backbone: A causal model of the transformers library.
        prompt: The text around a query.
        projection: Maps centroids to the input embedding at the placeholder.
        vectors: Vectors of the candidates, with length one.
        num_centroids: K, the number of centroids.
        assign_dim: Number of first dimensions that decide the cluster.
    """

    backbone: Any
    prompt: Prompt
    projection: ContextEmbeddings
    vectors: NDArray[np.float32]
    num_centroids: int
    assign_dim: int

    def rank(self, query: list[int], whole: Contexts, width: int, depth: int, seed: int = 0) -> NDArray[np.int64]:
        """The ten best candidates, best first."""
        draw = np.random.default_rng(seed)
        embeddings = [self.read(query, whole)[0].numpy()]
        rows = np.arange(len(self.vectors))
        for _ in range(depth):
            scores = self.vectors[rows] @ embeddings[-1]
            parts = np.array_split(draw.permutation(len(rows)), width)
            kept = [rows[part[np.argsort(-scores[part])[: -(-len(part) // 2)]]] for part in parts]
            fresh = self.read(query, Contexts(*map(torch.stack, zip(*map(self.summarise, kept), strict=True))))
            embeddings.append((embeddings[-1] + fresh.numpy().sum(axis=0)) / (width + 1))
            rows = np.concatenate(kept)
        return np.argsort(-(self.vectors @ np.mean(embeddings, axis=0)))[:10]

    def summarise(self, rows: NDArray[np.int64]) -> tuple[Float[Tensor, "K D"], Bool[Tensor, " K"]]:
        """The means of the clusters of a part, the largest cluster first."""
        vectors = self.vectors[rows]
        clusters = min(self.num_centroids, len(rows))
        labels = KMeans(clusters, random_state=0).fit_predict(vectors[:, : self.assign_dim])
        order = np.argsort(-np.bincount(labels, minlength=clusters))
        centroids = np.zeros((self.num_centroids, vectors.shape[1]), dtype=np.float32)
        centroids[:clusters] = [vectors[labels == cluster].mean(axis=0) for cluster in order]
        return torch.from_numpy(centroids), torch.arange(self.num_centroids) < clusters

    @torch.no_grad()
    def read(self, query: list[int], contexts: Contexts) -> Float[Tensor, "P E"]:
        """The query's embedding in each context; reads every prompt completely."""
        before, after = self.prompt.before, self.prompt.after
        assert self.prompt.placeholder is not None
        place = len(before) + len(query) + self.prompt.placeholder
        inputs = self.backbone.get_input_embeddings()(torch.tensor([*before, *query, *after]))
        inputs = inputs.repeat(len(contexts.mask), 1, 1)
        inputs[:, place] = self.projection(contexts)[:, 0]
        states = self.backbone(inputs_embeds=inputs, use_cache=False).last_hidden_state
        own = states[:, len(before) : len(before) + len(query)].sum(dim=1) + states[:, -1]
        return torch.nn.functional.normalize(own, dim=-1)
