"""users: the head of a user: which version scores, which are kept; back to one of them; and forgetting the user."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, ConfigDict, Field

from serving.feedback.database import FeedbackDatabase, UnknownVersionError
from serving.server.errors import RequestError
from serving.server.hall import Hall
from serving.server.routes.fields import Text, User, Whole

router = APIRouter(tags=["feedback"])

Named = Annotated[User, Path(description="The user.")]


class VersionRequest(BaseModel):
    """The version of a user's head that is to score.

    Args:
        version: Its number; 0 is the ranker without what the user taught it.
        model: The name of the ranker; by default the first one that learns.
    """

    model_config = ConfigDict(extra="ignore")

    version: Annotated[Whole, Field(ge=0, lt=2**31)]
    model: Text | None = None


@router.get("/v1/users/{user:path}", summary="What is kept of a user: feedback, and versions of the head.")
async def describe(user: Named, request: Request) -> dict[str, Any]:
    """For each ranker the user taught: how much feedback there is, which version scores, and which are kept."""
    hall, database = _kept(request)
    bases = {name: each.base_sha256 for name, each in hall.heads.items()}
    rankers = await hall.from_database(database.describe, user, bases)
    if not rankers:
        raise RequestError(404, "nothing is kept of this user")
    return {"user": user, "learns_after": hall.settings.learn_after, "rankers": rankers}


@router.patch("/v1/users/{user:path}", summary="Let another version of a user's head score.")
async def roll_back(user: Named, asked: VersionRequest, request: Request) -> dict[str, Any]:
    """Go back to a version that is kept, or to the base; new feedback is learnt from as before."""
    hall, database = _kept(request)
    heads = hall.heads_of(hall.named("rerank", next(iter(hall.heads), None) if asked.model is None else asked.model))
    try:
        await hall.from_database(database.roll_back, heads.of(user), asked.version)
    except UnknownVersionError:
        raise RequestError(404, f"version {asked.version} of this user's head is not kept") from None
    return await describe(user, request)


@router.delete("/v1/users/{user:path}", summary="Forget a user.")
async def forget(user: Named, request: Request) -> dict[str, Any]:
    """Delete all that is kept of a user: feedback, heads and their versions, for all rankers."""
    hall, database = _kept(request)
    counts = await hall.from_database(database.forget, user)
    for heads in hall.heads.values():
        heads.forget(user)
    return {"user": user, "deleted": counts}


def _kept(request: Request) -> tuple[Hall, FeedbackDatabase]:
    hall: Hall = request.app.state.hall
    hall.check_ready()
    if hall.database is None:
        raise RequestError(404, "this server keeps no feedback of users")
    return hall, hall.database
