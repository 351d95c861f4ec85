"""Test-time scaling: a query is read beside ever fewer candidates, part by part, and its embeddings are averaged.

LRanker, section 3.3. With width k, depth d and a share `keep`, P being the whole pool at first and E[0] the query's
embedding in it:

    for t in 0 .. d-1:
        split P at random into k disjoint parts; in each keep the top keep * |part| by <E[t], h_c>; P = their union
        E[t+1] = (E[t] + sum over the k reduced parts m of embed(q, centroids(m))) / (k + 1)
    score(c) = mean over t of <E[t], h_c> = <mean over t of E[t], h_c>

So the final ranking is one scan of the pool with the mean embedding, and depth 0 is direct ranking. All queries of a
batch, all parts and all widths go through the backbone together, step by step.

Note:
    Pools larger than `limit` / `keep` depart from this: the first step keeps `limit` candidates of a query, an equal
    share a part, rather than `keep` of all.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
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
from ranking.pool_batch import Contexts
from ranking.stores.files import write_file
from ranking.vectors.search import AnyPool
from registry import ConfigError
from registry.ranges import Probability, Rows, Seed

Parts = Annotated[int, Interval(ge=0, le=1000)]
Steps = Annotated[int, Interval(ge=0, le=1000)]


@dataclass(frozen=True)
class Scaling:
    """Graph-based test-time scaling (LRanker, section 3.3): ranking with the mean of many embeddings of a query.

    Args:
        widths: Into how many parts a step may split the candidates; validation chooses among them and direct ranking.
        max_depth: How many steps it may take.
        keep: Share of each part's candidates that stays, rounded up; at least one does.
        limit: Candidates that the first step leaves a query at most, an equal share a part: for pools of millions.
        seed: Of the random parts and of the clusterings.
        width: The one width to use; null to choose it on validation, and the depth with it.
        depth: The one depth to use; null to choose it on validation, and the width with it.
        num_queries: Validation queries that the choice is made on; null for all.

    Note:
        The paper has no `limit`. With it, pools of more than `limit` / `keep` candidates, 200,000 by default, lose more
        in the first step than the share that `keep` would leave them.
    """

    widths: list[Parts] = field(default_factory=lambda: list(range(1, 11)))
    max_depth: Steps = 6
    keep: Probability = 0.5
    limit: Rows = 100_000
    seed: Seed = 0
    width: Parts | None = None
    depth: Steps | None = None
    num_queries: Rows | None = None

    def __post_init__(self) -> None:
        """Refuse to choose among nothing, and one of two things."""
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
    inverse_norms: Float[Tensor, " N"] | None = None,
    own: Int[Tensor, "B L"] | None = None,
    removed: Int[Tensor, "R 2"] | None = None,
) -> Float[Tensor, "B steps E"]:
    """The embeddings E[0] .. E[depth] of each query; the mean of the first t + 1 is the ranking vector at depth t.

    What a query gets depends on the seed alone, not on the queries beside it, but for the rounding of other shapes: the
    random parts of a step come from one order of the pool's rows, the same for every query and width. A part whose
    candidates are too few for all parts may be empty; it is left out of the mean.

    Args:
        embed: Reads the queries in contexts; its embeddings are of length one where the ranker normalizes.
        pool: The candidates. A tensor is best on the device of the embeddings.
        aggregator: What makes a context of the candidates of a part, from their vectors as they are stored.
        whole: The context of the pool, `[1, K, D]`, or of each query's own candidates, `[B, K, D]`.
        num_queries: B.
        width: Parts a step; 0 is direct ranking.
        depth: Steps; 0 is direct ranking.
        keep: Share of each part that stays, rounded up; at least one candidate does.
        limit: Candidates that the first step leaves a query at most, an equal share a part.
        seed: Of the random parts and of the clusterings.
        inverse_norms: One over each candidate's length, where scores are to be cosines and vectors are not of length
            one.
        own: Each query's own candidates, -1 beyond their end, where it ranks only these.
        removed: Pairs (query of the batch, row): no candidates for that query. The pool is split before they are taken
            out.

    Note:
        Means of unit vectors are shorter than one, and are taken as they are: E[t+1] is not scaled to length one again.
    """
    options = {"keep": keep, "limit": limit, "inverse_norms": inverse_norms, "own": own, "removed": removed}
    return _embeddings(embed, aggregator, whole, num_queries, [width], depth, pool, seed=seed, **options)[:, 0]


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
    """The ranking vector at every width and every depth from 0 to `max_depth`: the means of what `scale` gives.

    The work of smaller settings is shared: the first embedding and its scores by all widths, the steps of a width by
    all its depths.
    """
    options = {"keep": keep, "limit": limit, "inverse_norms": inverse_norms, "own": own, "removed": removed}
    embeddings = _embeddings(embed, aggregator, whole, num_queries, widths, max_depth, pool, seed=seed, **options)
    number = torch.arange(1, max_depth + 2, device=embeddings.device).unsqueeze(1)
    return embeddings.cumsum(dim=2) / number


def choose(values: Float[Tensor, "W depths"], widths: Sequence[int]) -> tuple[int, int]:
    """The width and depth of the highest value; of equal ones, that with the fewest contexts, width * depth.

    Direct ranking is (0, 0).

    >>> choose(torch.tensor([[0.5, 0.7, 0.7], [0.5, 0.6, 0.7]]), widths=[2, 3])
    (2, 1)
    """
    cells = [(-value, width * depth, width, depth) for width, depth, value in _cells(values, widths)]
    _, contexts, width, depth = min(cells)
    return (width, depth) if contexts else (0, 0)


def heat_map(values: Float[Tensor, "W depths"], widths: Sequence[int], path: Path, metric: str) -> None:
    """Draw the metric of every width and depth as a PNG, the chosen one framed; written whole or not at all.

    Args:
        values: Of the metric, on validation.
        widths: Of the rows.
        path: The file.
        metric: Its name.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    figure = Figure(figsize=(1.6 + 0.9 * values.shape[1], 1.2 + 0.4 * len(widths)), dpi=150, layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(values.cpu().numpy(), aspect="auto", cmap="viridis")
    axes.set(xlabel="depth", ylabel="width", title=f"{metric} on validation")
    axes.set_xticks(range(values.shape[1]))
    axes.set_yticks(range(len(widths)), labels=[str(width) for width in widths])
    middle = float(values.min() + values.max()) / 2
    for place, (_, depth, value) in enumerate(_cells(values, widths)):
        dark = value < middle
        axes.text(
            depth, place // values.shape[1], decimal(value, 4), color="w" if dark else "k", ha="center", va="center"
        )
    width, depth = choose(values, widths)
    row = list(widths).index(width) if width in widths else 0
    axes.add_patch(Rectangle((depth - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="red", linewidth=2.5))
    figure.colorbar(image)
    content = BytesIO()
    FigureCanvasAgg(figure).print_png(content)
    write_file(path, content.getvalue())


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
    **options: Any,
) -> Float[Tensor, "B W steps E"]:
    """E[0] .. E[depth] of each query at each width; `options` are those of the elimination."""
    whole = Contexts(*(part.expand(num_queries, *part.shape[1:]).unsqueeze(1) for part in whole))
    first = embed(whole).float()[:, 0]
    found = {width: [first] if width else [first] * (depth + 1) for width in widths}
    if deep := [width for width in found if width and depth]:
        elimination = Elimination(pool, first.device, seed=seed, **options)
        rows = elimination.first(first, deep)
        for step in range(depth):
            if step:
                rows = {width: elimination.next(found[width][-1], rows[width], width, step) for width in deep}
            contexts = [_contexts(elimination, aggregator, rows[width], first.shape[1], seed) for width in deep]
            fresh = embed(Contexts(*map(torch.hstack, zip(*contexts, strict=True)))).float()
            for width, part in zip(deep, fresh.split([rows[width].shape[1] for width in deep], dim=1), strict=True):
                there = (rows[width] >= 0).any(dim=2, keepdim=True)
                total = found[width][-1] + torch.where(there, part, 0).sum(dim=1)
                found[width].append(total / (1 + there.sum(dim=1)))
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
