"""Test-time scaling: reads a query with fewer and fewer candidates, part by part, and averages its embeddings.

LRanker, section 3.3. With width k, depth d and a share `keep`, where P starts as the whole pool and E[0] is the
query's embedding in the context of P:

    for t in 0 .. d-1:
        split P at random into k disjoint parts; in each keep the top keep * |part| by <E[t], h_c>; P = their union
        E[t+1] = (E[t] + sum over the k reduced parts m of embed(q, centroids(m))) / (k + 1)
    score(c) = mean over t of <E[t], h_c> = <mean over t of E[t], h_c>

So the final ranking is one scan of the pool with the mean embedding, and depth 0 is direct ranking. In each step, the
backbone reads all queries of a batch, all parts and all widths together.

Note:
    Pools larger than `limit` / `keep` differ from this: the first step keeps `limit` candidates of a query, an equal
    share per part, instead of the share `keep`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Interval
from jaxtyping import Float, Int
from torch import Tensor

from console.decimals import decimal
from rankers.lranker.aggregators import Aggregator
from rankers.lranker.query_embedder import QueryEmbedder
from rankers.lranker.scaling.elimination import Elimination
from ranking.figures import SHADES, new_figure, write_figure
from ranking.pools.pool_batch import Contexts
from ranking.vectors.search import AnyPool
from registry import ConfigError
from registry.ranges import Probability, Rows, Seed

Parts = Annotated[int, Interval(ge=0, le=1000)]
Steps = Annotated[int, Interval(ge=0, le=1000)]


@dataclass(frozen=True)
class Scaling:
    """Graph-based test-time scaling (LRanker, section 3.3): ranking with the mean of many embeddings of a query.

    Args:
        widths: The numbers of parts per step to try; validation chooses one of them, or direct ranking.
        max_depth: The largest number of steps to try.
        keep: Share of each part's candidates to keep, rounded up; at least one is kept.
        limit: The most candidates per query that the first step keeps, an equal share per part; for very large pools.
        seed: The seed of the random parts and of the clusterings.
        width: The width to use; null to choose width and depth on validation.
        depth: The depth to use; null to choose width and depth on validation.
        num_queries: Number of validation queries used for this choice; null for all.
        settled: Take no further step for a query whose best candidates, this many, are the same and in the same order
            as before the last step; null to take all steps. The choice on validation takes all.

    Note:
        The paper has no `limit`. In pools of more than `limit` / `keep` candidates (200,000 by default), the first step
        keeps a smaller share than `keep`.
    """

    widths: list[Parts] = field(default_factory=lambda: list(range(1, 11)))
    max_depth: Steps = 6
    keep: Probability = 0.5
    limit: Rows = 100_000
    seed: Seed = 0
    width: Parts | None = None
    depth: Steps | None = None
    num_queries: Rows | None = None
    settled: Rows | None = None

    def __post_init__(self) -> None:
        """Refuse an empty choice, and only one of width and depth."""
        if (self.width is None) != (self.depth is None):
            raise ConfigError("ranker.scaling", "one of width and depth is set.", cure="set both, or neither to choose")
        if not self.widths and self.width is None:
            raise ConfigError("ranker.scaling.widths", "there is none to choose.", cure="list some, or set width")


@torch.no_grad()
def scale(
    embed: QueryEmbedder,
    pool: AnyPool,
    aggregator: Aggregator,
    whole: Contexts,
    *,
    num_queries: int,
    width: int,
    depth: int,
    keep: float = 0.5,
    limit: int = 100_000,
    seed: int = 0,
    settled: int | None = None,
    inverse_norms: Float[Tensor, " N"] | None = None,
    own: Int[Tensor, "B L"] | None = None,
    removed: Int[Tensor, "R 2"] | None = None,
) -> Float[Tensor, "B steps E"]:
    """The embeddings E[0] .. E[depth] of each query; the mean of the first t + 1 is the ranking vector at depth t.

    A query's embeddings depend on the seed but, except for rounding, not on the other queries of the batch. The random
    parts of a step come from one order of the pool's rows, which is the same for every query and width. A query with
    fewer candidates than parts has empty parts; they are left out of the mean.

    Args:
        embed: Embeds the queries in contexts; the embeddings have length 1 if the ranker normalizes.
        pool: The candidates. A tensor should be on the device of the embeddings.
        aggregator: Computes the context of a part from the stored vectors of its candidates.
        whole: The context of the pool, `[1, K, D]`, or of each query's own candidates, `[B, K, D]`.
        num_queries: B, the number of queries.
        width: Parts per step; 0 is direct ranking.
        depth: Number of steps; 0 is direct ranking.
        keep: Share of each part to keep, rounded up; at least one candidate is kept.
        limit: The most candidates per query that the first step keeps, an equal share per part.
        seed: The seed of the random parts and of the clusterings.
        settled: A query takes no further step once its best candidates, this many of those that are left, are the same
            and in the same order by the mean embedding before and after a step. In place of the embeddings of the
            steps that it does not take stands their mean so far. None to take all steps.
        inverse_norms: 1 / length of each candidate vector, to score by cosine vectors whose length is not 1; None to
            score by inner product.
        own: Each query's own candidates, padded with -1, if it ranks only these; None to rank the pool.
        removed: Pairs (query of the batch, row) where the row is not a candidate of the query. They are removed after
            the pool is split.

    Note:
        The mean of unit vectors has a length below 1. E[t+1] is not scaled to length 1 again.
    """
    options = {"keep": keep, "limit": limit, "inverse_norms": inverse_norms, "own": own, "removed": removed}
    sets = embed, aggregator, whole, num_queries, [width], depth, pool
    return _embeddings(*sets, seed=seed, settled=settled, **options)[:, 0]


@torch.no_grad()
def scale_grid(
    embed: QueryEmbedder,
    pool: AnyPool,
    aggregator: Aggregator,
    whole: Contexts,
    *,
    num_queries: int,
    widths: Sequence[int],
    max_depth: int,
    keep: float = 0.5,
    limit: int = 100_000,
    seed: int = 0,
    inverse_norms: Float[Tensor, " N"] | None = None,
    own: Int[Tensor, "B L"] | None = None,
    removed: Int[Tensor, "R 2"] | None = None,
) -> Float[Tensor, "B W depths E"]:
    """The ranking vector at every width and every depth from 0 to `max_depth`: the means of what `scale` returns.

    Settings share their work: all widths share the first embedding and its scores, and all depths of one width share
    its steps.
    """
    options = {"keep": keep, "limit": limit, "inverse_norms": inverse_norms, "own": own, "removed": removed}
    embeddings = _embeddings(embed, aggregator, whole, num_queries, widths, max_depth, pool, seed=seed, **options)
    number = torch.arange(1, max_depth + 2, device=embeddings.device).unsqueeze(1)
    return embeddings.cumsum(dim=2) / number


def choose(values: Float[Tensor, "W depths"], widths: Sequence[int]) -> tuple[int, int]:
    """The width and depth with the highest value; at equal values, the fewest contexts, width * depth.

    Direct ranking is (0, 0).

    >>> choose(torch.tensor([[0.5, 0.7, 0.7], [0.5, 0.6, 0.7]]), widths=[2, 3])
    (2, 1)
    """
    cells = [(-value, width * depth, width, depth) for width, depth, value in _cells(values, widths)]
    _, contexts, width, depth = min(cells)
    return (width, depth) if contexts else (0, 0)


def heat_map(values: Float[Tensor, "W depths"], widths: Sequence[int], path: Path, metric: str) -> None:
    """Draw the metric of every width and depth as a PNG, with a frame around the chosen one.

    The file is written completely or not at all.

    Args:
        values: The metric's values on validation.
        widths: The width of each row.
        path: The file.
        metric: The metric's name.
    """
    from matplotlib.patches import Rectangle

    figure = new_figure(1.6 + 0.9 * values.shape[1], 1.2 + 0.4 * len(widths))
    axes = figure.subplots()
    image = axes.imshow(values.cpu().numpy(), aspect="auto", cmap=SHADES)
    axes.set(xlabel="depth", ylabel="width", title=f"{metric} on validation")
    axes.set_xticks(range(values.shape[1]))
    axes.set_yticks(range(len(widths)), labels=[str(width) for width in widths])
    middle = float(values.min() + values.max()) / 2
    for place, (_, depth, value) in enumerate(_cells(values, widths)):
        dark = value > middle
        axes.text(
            depth, place // values.shape[1], decimal(value, 4), color="w" if dark else "k", ha="center", va="center"
        )
    width, depth = choose(values, widths)
    row = list(widths).index(width) if width in widths else 0
    axes.add_patch(Rectangle((depth - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="red", linewidth=2.5))
    figure.colorbar(image)
    write_figure(figure, path)


def _embeddings(
    embed: QueryEmbedder,
    aggregator: Aggregator,
    whole: Contexts,
    num_queries: int,
    widths: Sequence[int],
    depth: int,
    pool: AnyPool,
    *,
    seed: int,
    settled: int | None = None,
    **options: Any,
) -> Float[Tensor, "B W steps E"]:
    """E[0] .. E[depth] of each query at each width; `options` are passed to `Elimination`."""
    whole = Contexts(*(part.expand(num_queries, *part.shape[1:]).unsqueeze(1) for part in whole))
    first = embed(whole).float()[:, 0]
    deep = [width for width in dict.fromkeys(widths) if width and depth and num_queries]
    found = {width: [first] if width in deep else [first] * (depth + 1) for width in widths}
    if deep:
        elimination = Elimination(pool, first.device, seed=seed, **options)
        rows = elimination.first(first, deep)
        going = torch.arange(num_queries, device=first.device)
        for step in range(depth):
            if step:
                rows = {width: elimination.next(found[width][-1][going], rows[width], width, step) for width in deep}
            contexts = [_contexts(elimination, aggregator, rows[width], first.shape[1], seed) for width in deep]
            fresh = embed(Contexts(*map(torch.hstack, zip(*contexts, strict=True)))).float()
            for width, part in zip(deep, fresh.split([rows[width].shape[1] for width in deep], dim=1), strict=True):
                there = (rows[width] >= 0).any(dim=2, keepdim=True)
                total = found[width][-1][going] + torch.where(there, part, 0).sum(dim=1)
                mean = torch.stack(found[width]).mean(dim=0)
                found[width].append(mean.index_copy(0, going, total / (1 + there.sum(dim=1))))
            if settled is None or step + 1 == depth:
                continue
            (width,) = deep
            before, after = (torch.stack(steps).mean(dim=0)[going] for steps in (found[width][:-1], found[width]))
            same = elimination.best(before, rows[width], settled) == elimination.best(after, rows[width], settled)
            left = (~same.all(dim=1)).nonzero().flatten()
            going, rows = going[left], {width: rows[width][left]}
            if not len(going):
                found[width] += [torch.stack(found[width]).mean(dim=0)] * (depth - step - 1)
                break
            if len(left) < len(same):
                embed.keep(left)
    return torch.stack([torch.stack(found[width], dim=1) for width in widths], dim=1)


def _contexts(
    elimination: Elimination, aggregator: Aggregator, rows: Int[Tensor, "B k c"], feature_dim: int, seed: int
) -> Contexts:
    """The context of each part, `[B, k, K, D]`."""
    found = []
    for few in elimination.portions(rows, feature_dim):
        parts = rows[few].flatten(0, 1)
        contexts = aggregator.summarise_rows(*elimination.vectors(parts), parts >= 0, seed)
        found.append([part.unflatten(0, (-1, rows.shape[1])) for part in contexts])
    return Contexts(*map(torch.cat, zip(*found, strict=True)))


def _cells(values: Float[Tensor, "W depths"], widths: Sequence[int]) -> Iterator[tuple[int, int, float]]:
    """Width, depth and value, row by row."""
    for width, row in zip(widths, values.tolist(), strict=True):
        yield from ((width, depth, value) for depth, value in enumerate(row))
