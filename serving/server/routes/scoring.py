"""What the routes that rerank have in common: limits on documents, cutting, and the order of scores."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from fastapi import Request

from language_models.chat_template import Message
from serving.reranker import TooLongError
from serving.server.errors import RequestError
from serving.server.hall import Hall, RerankQuestion


class Ordered(NamedTuple):
    """Places of documents in the list as it was sent with their scores, best first, what was read, and whose head."""

    model: str
    ranked: list[tuple[int, float]]
    num_tokens: int
    warnings: list[str]
    version: int | None = None
    """Of the user's head that has scored, 0 for the base; None if there is no user."""


async def rerank_documents(
    request: Request,
    query: str | Sequence[Message],
    documents: Sequence[str],
    *,
    model: str | None,
    raw_scores: bool,
    top_n: int | None = None,
    max_tokens: int | None = None,
    refuse_long: bool = False,
    user: str | None = None,
) -> Ordered:
    """Rank the documents of a request.

    Args:
        request: The request.
        query: The query.
        documents: The documents.
        model: The name of the ranker; None for the first one.
        raw_scores: Whether to return the ranker's own scores, and not their sigmoids.
        top_n: How many to return; None or 0 for all.
        max_tokens: Where documents are cut; None for where the ranker cuts them.
        refuse_long: Whether to refuse texts that are too long and would be cut.
        user: Whose head scores; None for the ranker itself.

    Raises:
        RequestError: If the request cannot be answered.
    """
    hall: Hall = request.app.state.hall
    name = hall.named("rerank", model)
    request.state.log |= {"ranker": name, "documents": len(documents)}
    if hall.settings.log_texts:
        request.state.log["query"] = query
    if not documents:
        raise RequestError(400, "there are no documents")
    if not query:
        raise RequestError(400, "the query is empty")
    if len(documents) > hall.settings.max_documents:
        raise RequestError(
            413, f"{len(documents):,} documents; the most of a request are {hall.settings.max_documents:,}"
        )
    try:
        found = await hall.rerank(name, RerankQuestion(query, documents, max_tokens, refuse_long, user))
    except TooLongError as error:
        raise RequestError(413, str(error)) from error
    except ValueError as error:
        raise RequestError(400, str(error)[:300]) from error
    order = sorted(range(len(documents)), key=lambda place: -found.scores[place])[: top_n or None]
    scale = float if raw_scores else sigmoid
    ranked = [(place, scale(found.scores[place])) for place in order]
    return Ordered(name, ranked, found.num_tokens, found.warnings, found.version)


def sigmoid(score: float) -> float:
    """1 / (1 + exp(-score)), without overflow.

    Example:
        >>> sigmoid(0.0), sigmoid(-1000.0), sigmoid(1000.0)
        (0.5, 0.0, 1.0)
    """
    if score >= 0:
        return 1 / (1 + math.exp(-score))
    return math.exp(score) / (1 + math.exp(score))
