"""rerank: the routes of Cohere's first and second version, of Jina and of vLLM."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from serving.server.errors import RequestError
from serving.server.routes.fields import Flag, Text, User, Whole
from serving.server.routes.scoring import Ordered, rerank_documents

router = APIRouter(tags=["rerank"])


class TextDocument(BaseModel):
    """A document as an object with its text."""

    model_config = ConfigDict(extra="ignore")

    text: Text


class RerankRequest(BaseModel):
    """Documents to rank for a query; fields that are not named here are ignored.

    Args:
        model: The name of the ranker; by default the server's first one.
        query: The query.
        documents: Texts, or objects with a `text`.
        top_n: How many of the best to return; by default, for 0, and if there are fewer, all.
        return_documents: Whether results have their documents; by default on `/rerank` alone.
        max_tokens_per_doc: Where documents are cut, in tokens; by default where the ranker cuts them.
        raw_scores: Whether scores are the ranker's own; by default they are their sigmoids.
        use_activation: vLLM's word for the opposite.
        user: Whose head scores; by default, and for users without one, the ranker itself.
        rank_fields: Of objects, only `["text"]`: documents are ranked by their texts.
        max_tokens_per_query: Not supported, except for 0, vLLM's word for no limit.
        truncate_prompt_tokens: Not supported, except for -1, vLLM's word for what the ranker reads.
    """

    model_config = ConfigDict(extra="ignore")

    model: Text | None = None
    query: Text
    documents: list[Text | TextDocument]
    top_n: Annotated[Whole, Field(ge=0)] | None = None
    return_documents: Flag | None = None
    max_tokens_per_doc: Annotated[Whole, Field(ge=1)] | None = None
    raw_scores: Flag = False
    use_activation: Flag = True
    user: User | None = None
    rank_fields: list[Any] | None = None
    max_tokens_per_query: Whole | None = None
    truncate_prompt_tokens: Whole | None = None


@router.post("/rerank", summary="Rerank documents: the form of vLLM and Jina.")
async def rerank(asked: RerankRequest, request: Request) -> dict[str, Any]:
    """Results with their documents, best first."""
    return await _reranked(asked, request, "1", returns_documents=True)


@router.post("/v1/rerank", summary="Rerank documents: the form of Cohere's first version, vLLM and Jina.")
async def rerank_v1(asked: RerankRequest, request: Request) -> dict[str, Any]:
    """Results, best first, with their documents if `return_documents` is true."""
    return await _reranked(asked, request, "1", returns_documents=False)


@router.post("/v2/rerank", summary="Rerank documents: the form of Cohere's second version and vLLM.")
async def rerank_v2(asked: RerankRequest, request: Request) -> dict[str, Any]:
    """Results, best first, with their documents if `return_documents` is true."""
    return await _reranked(asked, request, "2", returns_documents=False)


async def _reranked(
    asked: RerankRequest, request: Request, api_version: Literal["1", "2"], *, returns_documents: bool
) -> dict[str, Any]:
    if asked.rank_fields and asked.rank_fields != ["text"]:
        raise RequestError(400, "rank_fields other than text are not supported: send each document as one text")
    if asked.max_tokens_per_query:
        raise RequestError(400, "max_tokens_per_query is not supported: send a shorter query")
    if asked.truncate_prompt_tokens not in (None, -1):
        raise RequestError(400, "truncate_prompt_tokens is not supported: send max_tokens_per_doc")
    texts = [each if isinstance(each, str) else each.text for each in asked.documents]
    found = await rerank_documents(
        request,
        asked.query,
        texts,
        model=asked.model,
        raw_scores=asked.raw_scores or not asked.use_activation,
        top_n=asked.top_n,
        max_tokens=asked.max_tokens_per_doc,
        user=asked.user,
    )
    wants = returns_documents if asked.return_documents is None else asked.return_documents
    results: list[dict[str, Any]] = [{"index": place, "relevance_score": score} for place, score in found.ranked]
    for result in results if wants else ():
        result["document"] = {"text": texts[result["index"]]}
    return {
        "id": request.state.request_id,
        "model": found.model,
        "results": results,
        "usage": {"prompt_tokens": found.num_tokens, "total_tokens": found.num_tokens},
        "meta": _meta(found, api_version),
    }


def _meta(found: Ordered, api_version: str) -> dict[str, Any]:
    meta: dict[str, Any] = {
        "api_version": {"version": api_version},
        "billed_units": {"search_units": 1},
        "tokens": {"input_tokens": found.num_tokens},
    }
    meta |= {} if found.version is None else {"personal": {"version": found.version}}
    return meta | ({"warnings": found.warnings} if found.warnings else {})
