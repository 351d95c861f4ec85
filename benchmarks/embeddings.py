"""Embeddings: a picture of one query's embeddings in parts of the pool, as LRanker's Figure 2: python -m benchmarks."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rankers.checkpoint import load_ranker
from rankers.lranker.lranker import LRanker
from ranking.figures import new_figure, write_figure
from ranking.pools.pool_batch import Contexts
from registry import ConfigError, load_config
from training import run as runs

NUM_PARTS, NUM_CANDIDATES = 10, 300


@dataclass(frozen=True)
class QueryEmbeddings:
    """A query's embeddings in parts of a pool, and candidates beside it.

    Args:
        text: The query.
        parts: Its embeddings, one for each part.
        whole: Its embedding in the context of the whole pool.
        candidates: The vectors of some candidates; the first ones are right.
        num_right: How many are right.
    """

    text: str
    parts: Float[Tensor, "P E"]
    whole: Float[Tensor, " E"]
    candidates: Float[Tensor, "C E"]
    num_right: int

    @classmethod
    @torch.no_grad()
    def of(cls, folder: Path, query_id: str | None = None) -> "QueryEmbeddings":
        """Embed a test query of a finished run, by default the first.

        Raises:
            ConfigError: If the run is no LRanker with centroids, or no test query has this id.
        """
        config, ranker = load_config(folder / runs.CONFIG), load_ranker(folder)
        if not isinstance(ranker, LRanker) or ranker.aggregator is None:
            raise ConfigError(str(folder), "this run has no LRanker with centroids.", cure="a run of lranker")
        datamodule = runs.datamodule_of(config)
        pool, queries = datamodule.pool, datamodule.queries("test").tolist()  # type: ignore[attr-defined]
        ids = [pool.queries.id(query) for query in queries]
        if query_id is not None and query_id not in ids:
            raise ConfigError("query", f"no test query is called {query_id!r}.", given=query_id, known=ids)
        query = queries[ids.index(query_id) if query_id is not None else 0]
        ranker.prepare(pool, datamodule.partitions)  # type: ignore[attr-defined]
        tokens = torch.tensor(ranker.tokenize([pool.queries.text(query)]))
        embed = ranker.embedder(tokens, torch.tensor([tokens.shape[1]]))
        table = ranker.partition_contexts
        shown = [*range(min(NUM_PARTS, len(table.mask) - 1)), len(table.mask) - 1]
        found = embed(Contexts(*(part[shown].unsqueeze(0) for part in table)))[0]
        start, end = pool.queries.relevant_offsets[query : query + 2].tolist()
        right = pool.queries.relevant[start:end].long()
        others = _spread(pool.num_candidates, right)
        vectors = ranker.candidate_vectors(pool.features(torch.cat([right, others])))
        return cls(pool.queries.text(query), found[:-1], found[-1], vectors, len(right))

    def flat(self, seed: int = 0) -> Float[Tensor, "points 2"]:
        """The parts' embeddings, their mean, that of the whole pool, and the candidates, in the plane by t-SNE."""
        from sklearn.manifold import TSNE

        mean = self.parts.mean(dim=0)
        points = torch.cat([self.parts, torch.stack([mean, self.whole]), self.candidates])
        perplexity = min(30.0, (len(points) - 1) / 3)
        plane = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(points.numpy())
        return torch.from_numpy(plane)

    def draw(self, path: Path) -> None:
        """Write the picture as a PNG."""
        plane, count = self.flat().numpy(), len(self.parts)
        right = count + 2 + self.num_right
        figure = new_figure(5.6, 4.6)
        axes = figure.subplots()
        for some, name, marker, shade, size in (
            (plane[right:], "candidates", ".", "0.75", 12),
            (plane[:count], "in a part of the pool", "o", "0.45", 22),
            (plane[count + 1 : count + 2], "in the whole pool", "s", "0.2", 40),
            (plane[count : count + 1], "mean of the parts", "D", "0", 50),
            (plane[count + 2 : right], "right candidates", "*", "red", 110),
        ):
            axes.scatter(some[:, 0], some[:, 1], label=name, marker=marker, color=shade, s=size)
        axes.set(xticks=[], yticks=[], title=self.text[:60])
        figure.legend(loc="outside lower center", ncols=2)
        write_figure(figure, path)


def _spread(num_candidates: int, right: Int[Tensor, " r"]) -> Int[Tensor, " n"]:
    """Rows of candidates, evenly spread over the pool, without the right ones."""
    rows = torch.linspace(0, num_candidates - 1, min(NUM_CANDIDATES, num_candidates)).long()
    return rows[~torch.isin(rows, right)]
