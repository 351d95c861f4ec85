"""models: the rankers of a server, as OpenAI lists models."""

from typing import Any

from fastapi import APIRouter, Request

from serving.server.errors import RequestError
from serving.server.hall import Hall

router = APIRouter(tags=["models"])


@router.get("/v1/models", summary="The rankers, in OpenAI's form.")
async def list_models(request: Request) -> dict[str, Any]:
    """All rankers: what each does, whether users can teach it, its pools, and the language model of its chats."""
    hall = _loaded(request)
    return {"object": "list", "data": [_model(hall, name) for name in hall.kinds]}


@router.get("/v1/models/{name:path}", summary="One ranker.")
async def retrieve_model(name: str, request: Request) -> dict[str, Any]:
    """One ranker, in OpenAI's form."""
    hall = _loaded(request)
    if name not in hall.kinds:
        raise RequestError(404, f"no ranker {name[:100]!r}; there are: {', '.join(hall.kinds)}")
    return _model(hall, name)


def _loaded(request: Request) -> Hall:
    """The rankers, once all are there: a part of them would be taken for the whole list."""
    hall: Hall = request.app.state.hall
    hall.check_ready()
    return hall


def _model(hall: Hall, name: str) -> dict[str, Any]:
    described = {
        "id": name,
        "object": "model",
        "created": hall.started,
        "owned_by": "rankers",
        "does": hall.kinds[name],
    }
    described |= {"learns": name in hall.heads}
    if name in hall.chats:
        described["chats_with"] = hall.chats[name].model
    return described | ({"pools": list(hall.searchers[name])} if name in hall.searchers else {})
