"""route: which language model to ask, and why."""

import dataclasses
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from serving.model_router import RoutedModel
from serving.server.errors import RequestError
from serving.server.hall import Hall, RouteQuestion
from serving.server.routes.fields import Text

router = APIRouter(tags=["route"])

Named = Annotated[Text, Field(min_length=1)]


class OfferedModel(BaseModel):
    """A language model to choose from, with the text that describes it to the router; by default its id."""

    id: Named
    text: Named | None = None


class ChatMessage(BaseModel):
    """A message of a chat."""

    role: Named
    content: Text


class RouteRequest(BaseModel):
    """A query for which to choose a language model.

    Args:
        query: The query.
        messages: A chat in its place; the user's last message is read.
        model: The name of the router; by default the first one.
        models: The models to choose from; by default those that the server was started with.
    """

    model_config = ConfigDict(extra="ignore")

    query: Text | None = None
    messages: list[ChatMessage] | None = None
    model: Text | None = None
    models: list[OfferedModel] | None = None


@router.post("/v1/route", summary="The language model to ask, with reasons.")
async def choose(asked: RouteRequest, request: Request) -> dict[str, Any]:
    """The best model for a query, and all models with their scores and what these are made of."""
    hall: Hall = request.app.state.hall
    name = hall.named("route", asked.model)
    request.state.log |= {"ranker": name}
    if (asked.query is None) == (asked.messages is None):
        raise RequestError(400, "send either query or messages")
    given = asked.query if asked.messages is None else [each.model_dump() for each in asked.messages]
    if not given:
        raise RequestError(400, "the query is empty")
    if asked.models is None:
        models = hall.routers[name].models
    else:
        models = [RoutedModel(each.id, each.text or each.id) for each in asked.models]
    if len(models) > hall.settings.max_documents:
        raise RequestError(413, f"{len(models):,} models; the most are {hall.settings.max_documents:,}")
    try:
        found = await hall.route(name, RouteQuestion(given, models))
    except ValueError as error:
        raise RequestError(400, str(error)[:300]) from error
    best = {"model": found[0].id, "reasons": found[0].reasons}
    ranking = [dataclasses.asdict(choice) for choice in found]
    return {"id": request.state.request_id, "router": name, **best, "ranking": ranking}
