"""Pool inspection: prints what a candidate pool contains."""

from collections.abc import Iterator

import torch
from rich.console import Console
from torch import Tensor

from console.decimals import short
from features.commands.inspect_groups import encoder_line, padded, print_facts, print_line, shorten, splits_line
from ranking.stores.candidate_pool import CandidatePool

_SHOWN_RELEVANT = 5


def show_pool(pool: CandidatePool, console: Console, num_queries: int = 3) -> None:
    """Print a pool's counts and origin, and its first queries, or its first candidates if it has no queries."""
    print_facts(console, f"Candidate pool {pool.path}", summary(pool))
    for query in range(min(num_queries, pool.queries.num_queries)):
        for line in _query(pool, query):
            print_line(console, *line)
    if not pool.queries.num_queries:
        for row in range(min(num_queries, pool.num_candidates)):
            print_line(console, *_candidate(pool, row))


def summary(pool: CandidatePool) -> dict[str, str]:
    """The facts about a pool, by name."""
    queries, shards = pool.queries, pool.manifest["shards"]
    relevant, history, own = (
        offsets.diff() for offsets in (queries.relevant_offsets, queries.history_offsets, queries.own_offsets)
    )
    length = "of length one" if pool.normalized else "of any length"
    vectors = f"{pool.feature_dim} x {pool.manifest['dtype']}, {length}" if pool.feature_dim else "none"
    size = sum(record["bytes"] for records in shards.values() for record in records)
    cut = {table: sum(record["cut"] for record in shards[table]) for table in ("candidates", "queries")}
    listed = int((own > 0).sum())
    source = ", ".join(f"{name} {shorten(value)}" for name, value in pool.manifest["source"].items())
    return {
        "candidates": f"{pool.num_candidates:,}",
        "queries": f"{queries.num_queries:,}",
        "splits": splits_line(queries.split),
        "relevant": f"{_spread(relevant)}; none for {int((relevant == 0).sum()):,} queries",
        "labels": _labels(queries.label),
        "history": f"{_spread(history)}; none for {int((history == 0).sum()):,} queries",
        "own candidates": f"{_spread(own[own > 0])}; {queries.num_queries - listed:,} queries rank the whole pool",
        "features": vectors,
        "size": f"{size / 1e6:,.1f} MB in {sum(map(len, shards.values())):,} shards",
        "cut": f"{cut['candidates']:,} candidates and {cut['queries']:,} queries were too long for the encoder",
        "encoder": encoder_line(pool.encoder),
        "source": source or "not given",
    }


def _spread(sizes: Tensor) -> str:
    if not len(sizes) or not int(sizes.max()):
        return "no query has any"
    return f"{int(sizes.min())} to {int(sizes.max())} a query, {float(sizes.double().mean()):.2f} on average"


def _labels(label: Tensor) -> str:
    values, counts = torch.unique(label, return_counts=True)
    pairs = list(zip(values.tolist(), counts.tolist(), strict=True))
    if len(pairs) > 10:
        return f"{len(label):,} from {short(pairs[0][0])} to {short(pairs[-1][0])}"
    return ", ".join(f"{short(value)}: {count:,}" for value, count in pairs) or "none"


def _query(pool: CandidatePool, query: int) -> Iterator[tuple[str, str, str]]:
    """A line for the query and one for each of its first relevant candidates, as `print_line` takes them."""
    queries = pool.queries
    yield f"\n{queries.id(query)}: ", queries.text(query), "bold"
    start, end = queries.relevant_offsets[query : query + 2].tolist()
    for place in range(start, min(end, start + _SHOWN_RELEVANT)):
        yield _candidate(pool, int(queries.relevant[place]), f"{short(float(queries.label[place])):<12}")
    if end - start > _SHOWN_RELEVANT:
        yield f"... and {end - start - _SHOWN_RELEVANT:,} more", "", ""


def _candidate(pool: CandidatePool, row: int, label: str = "") -> tuple[str, str, str]:
    return f"{label}{padded(pool.id(row))}  ", pool.text(row), "green" if label else ""
