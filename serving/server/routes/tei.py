"""tei: rerank in the form of Hugging Face's Text Embeddings Inference."""

from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict

from serving.server.errors import RequestError
from serving.server.hall import Hall
from serving.server.routes.fields import Flag, Text, User
from serving.server.routes.scoring import rerank_documents

router = APIRouter(tags=["rerank"])


class TeiRequest(BaseModel):
    """Texts to rank for a query; fields that are not named here are ignored.

    Args:
        query: The query.
        texts: The texts.
        raw_scores: Whether scores are the ranker's own; by default they are their sigmoids.
        return_text: Whether results have their texts.
        truncate: Whether texts that are too long are cut; by default they are refused.
        truncation_direction: The end that is cut: only `Right`.
        model: The name of the ranker; by default the server's first one.
        user: Whose head scores; by default, and for users without one, the ranker itself.
    """

    model_config = ConfigDict(extra="ignore")

    query: Text
    texts: list[Text]
    raw_scores: Flag = False
    return_text: Flag = False
    truncate: Flag | None = False
    truncation_direction: str = "Right"
    model: Text | None = None
    user: User | None = None


@router.post("/tei/rerank", summary="Rerank texts: the form of Text Embeddings Inference.")
async def rerank(asked: TeiRequest, request: Request, response: Response) -> list[dict[str, Any]]:
    """A bare list of results, best first."""
    hall: Hall = request.app.state.hall
    if asked.truncation_direction.lower() != "right":
        raise RequestError(422, "truncation_direction: only Right is supported")
    if len(asked.texts) > hall.settings.max_documents:
        raise RequestError(422, f"{len(asked.texts):,} texts; the most are {hall.settings.max_documents:,}")
    found = await rerank_documents(
        request,
        asked.query,
        asked.texts,
        model=asked.model,
        raw_scores=asked.raw_scores,
        refuse_long=not asked.truncate,
        user=asked.user,
    )
    response.headers["x-total-tokens"] = str(found.num_tokens)
    results: list[dict[str, Any]] = [{"index": place, "score": score} for place, score in found.ranked]
    for result in results if asked.return_text else ():
        result["text"] = asked.texts[result["index"]]
    return results
