"""search: the best candidates of a pool for a query."""

from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from serving.server.errors import RequestError
from serving.server.hall import Hall, SearchQuestion
from serving.server.routes.fields import Flag, Text, User, Whole

router = APIRouter(tags=["search"])


class SearchRequest(BaseModel):
    """A query for a pool.

    Args:
        query: The query.
        model: The name of the ranker; by default the first one that searches.
        pool: The name of the pool; by default the ranker's own.
        top_k: How many candidates to return; all of the pool if it has fewer.
        return_documents: Whether results have the candidates' texts.
        user: Refused: rankers of a pool have no heads of users; rerank what was found for the user.
    """

    model_config = ConfigDict(extra="ignore")

    query: Text
    model: Text | None = None
    pool: Text | None = None
    top_k: Annotated[Whole, Field(ge=1)] = 10
    return_documents: Flag = True
    user: User | None = None


@router.post("/v1/search", summary="The best candidates of a pool for a query.")
async def search(asked: SearchRequest, request: Request) -> dict[str, Any]:
    """Candidates with their ids and scores, best first; scores are comparable within one query alone."""
    hall: Hall = request.app.state.hall
    name = hall.named("search", asked.model)
    request.state.log |= {"ranker": name, "top_k": asked.top_k}
    if hall.settings.log_texts:
        request.state.log["query"] = asked.query
    if not asked.query.strip():
        raise RequestError(400, "the query is empty")
    if asked.top_k > hall.settings.max_documents:
        raise RequestError(413, f"top_k is {asked.top_k:,}; the most are {hall.settings.max_documents:,}")
    if asked.user is not None:
        other = "search without user, then send what was found to /v1/rerank with it"
        raise RequestError(400, f"{name} searches alike for all users: {other}")
    pool, found = await hall.search(name, asked.pool, SearchQuestion(asked.query, asked.top_k))
    results: list[dict[str, Any]] = [{"id": each.id, "score": each.score} for each in found.candidates]
    for result, each in zip(results if asked.return_documents else (), found.candidates, strict=False):
        result["document"] = {"text": each.text}
    answer = {"id": request.state.request_id, "model": name, "pool": pool, "results": results}
    return answer | ({"meta": {"warnings": found.warnings}} if found.warnings else {})
