"""feedback: what a user prefers, which the user's own ranker learns from."""

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request
from pydantic import BaseModel, ConfigDict, Field

from serving.feedback.database import OtherContentError
from serving.feedback.said import Said
from serving.server.errors import RequestError
from serving.server.hall import Hall
from serving.server.routes.fields import Decimal, Text, User, Whole
from serving.server.routes.route import ChatMessage

router = APIRouter(tags=["feedback"])

Place = Annotated[Whole, Field(ge=0)]
Key = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[!-~]+$")]

_FORMS = ("candidates", "picked", "scores", "chosen", "rejected")


class FeedbackRequest(BaseModel):
    """A user's feedback in one of three forms; fields that are not named here are ignored.

    Args:
        user: Who has given it: any name by which the client knows the user.
        model: The name of the ranker that learns; by default the first one that can.
        query: The query, as it was ranked.
        candidates: Texts, of a pick and of scores.
        picked: Of a pick: the place of the best candidate in the list, from 0, or of several.
        scores: A number for each candidate, higher is better.
        chosen: Of a pair: the text that is better.
        rejected: Of a pair: the text that is worse.
    """

    model_config = ConfigDict(extra="ignore")

    user: User
    model: Text | None = None
    query: Text | Annotated[list[ChatMessage], Field(min_length=1)]
    candidates: list[Text] | None = None
    picked: Place | list[Place] | None = None
    scores: list[Decimal] | None = None
    chosen: Text | None = None
    rejected: Text | None = None

    def said(self) -> Said:
        """The feedback as labelled candidates.

        Raises:
            ValueError: If it has no form or several, or nothing can be learnt from it.
        """
        given = {name for name in _FORMS if getattr(self, name) is not None}
        query = self.query if isinstance(self.query, str) else [each.model_dump() for each in self.query]
        if given == {"chosen", "rejected"}:
            return Said("pair", query, [self.chosen or "", self.rejected or ""], [1.0, 0.0])
        candidates = self.candidates or []
        if given == {"candidates", "scores"} and self.scores is not None:
            if len(self.scores) != len(candidates):
                raise ValueError(f"{len(self.scores)} scores for {len(candidates)} candidates")
            return Said("scores", query, candidates, self.scores)
        if given == {"candidates", "picked"}:
            picked = {self.picked} if isinstance(self.picked, int) else set(self.picked or ())
            if max(picked, default=-1) >= len(candidates):
                raise ValueError(f"picked is {max(picked)}, and there are {len(candidates)} candidates, from 0")
            return Said("pick", query, candidates, [float(place in picked) for place in range(len(candidates))])
        raise ValueError("send candidates with picked, candidates with scores, or chosen with rejected")


@router.post("/v1/feedback", summary="Keep what a user picked, preferred or scored.")
async def give(
    asked: FeedbackRequest, request: Request, idempotency_key: Annotated[Key | None, Header()] = None
) -> dict[str, Any]:
    """Keep a user's feedback; when this has answered, it is on the disk, and the user's head will learn from it.

    With the header `Idempotency-Key` a repeated request changes nothing.
    """
    hall: Hall = request.app.state.hall
    name = hall.named("rerank", next(iter(hall.heads), None) if asked.model is None else asked.model)
    heads, database = hall.heads_of(name), hall.database
    assert database is not None
    try:
        said = asked.said()
        if len(said.candidates) > hall.settings.max_documents:
            most = f"the most are {hall.settings.max_documents:,}"
            raise RequestError(413, f"{len(said.candidates):,} candidates; {most}")
        hall.rerankers[name].check(said.query, said.candidates)
    except ValueError as error:
        raise RequestError(400, str(error)[:300]) from error
    request.state.log |= {"ranker": name, "kind": said.kind, "candidates": len(said.candidates)}
    # Read before anything is kept, so that whoever gets an error may send the feedback again.
    version = (await hall.from_database(heads.head, asked.user)).version
    add = partial(database.add, name, asked.user, said.content(), idempotency_key)
    try:
        given = await hall.from_database(add)
    except OtherContentError:
        raise RequestError(422, "this Idempotency-Key was used before, for other feedback") from None
    if not given.was_there:
        hall.metrics.feedback(name, said.kind)
        hall.told.set()
    return {
        "id": request.state.request_id,
        "model": name,
        "kind": said.kind,
        "feedback": given.number,
        "was_there": given.was_there,
        "learns_after": hall.settings.learn_after,
        "version": version,
    }
