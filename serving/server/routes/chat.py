"""chat: best of N in the form of OpenAI's chat completions."""

import asyncio
import json
import re
import secrets
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from language_models.chat_template import Message
from serving.chat.best_of import Answer, ChatQuestion, ChatRefused
from serving.server.errors import RequestError
from serving.server.hall import Hall
from serving.server.routes.fields import Decimal, Flag, Text, User, Whole

T = TypeVar("T")

router = APIRouter(tags=["chat"])

_ROLES = {"developer": "system"}
_MOST_STOPS = 16
_LARGEST_SEED = 2**63
# What a request may say only in its usual way, since best of N cannot do anything else.
_UNSUPPORTED: dict[str, Sequence[Any]] = {
    "tools": (None, []),
    "functions": (None, []),
    "response_format": (None, {"type": "text"}),
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
    "logit_bias": (None, {}),
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "modalities": (None, ["text"]),
    "audio": (None,),
}

Named = Annotated[Text, Field(min_length=1)]


class TextPart(BaseModel):
    """A part of a message."""

    type: Literal["text"]
    text: Text


class ChatMessage(BaseModel):
    """A message of a chat: a text, or texts one after the other."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[TextPart]

    def plain(self) -> Message:
        """The message as chat templates expect it."""
        texts = [self.content] if isinstance(self.content, str) else [each.text for each in self.content]
        return {"role": _ROLES.get(self.role, self.role), "content": "".join(texts)}


class StreamOptions(BaseModel):
    """What a stream has beside the answer."""

    include_usage: Flag = False


class ChatRequest(BaseModel):
    """A chat to answer; what is left out is as in the ranker's run.

    Args:
        messages: The chat, which ends with the user's message.
        model: The name of the ranker; by default the first one that can chat.
        ranker: The same; then `model` may be anything.
        user: Whose ranker chooses.
        candidates: How many responses are sampled, of which the ranker chooses.
        best_of: OpenAI's older word for the same.
        n: How many of the best to return.
        temperature: Divisor of the logits.
        top_p: Draw only from the likeliest tokens that together have this probability.
        max_completion_tokens: The most tokens of a response.
        max_tokens: The older word for the same.
        seed: Equal chats with equal seeds get equal responses; by default each request has its own.
        stop: Texts that end a response.
        stream: Whether to send the answer in pieces; they begin once the ranker has chosen.
        stream_options: What a stream has beside the answer.
        return_candidates: Whether to return all candidates with their scores.
    """

    model_config = ConfigDict(extra="allow")

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    model: Named | None = None
    ranker: Named | None = None
    user: User | None = None
    candidates: Annotated[Whole, Field(ge=1)] | None = None
    best_of: Annotated[Whole, Field(ge=1)] | None = None
    n: Annotated[Whole, Field(ge=1)] | None = None
    temperature: Annotated[Decimal, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Decimal, Field(gt=0, le=1)] | None = None
    max_completion_tokens: Annotated[Whole, Field(ge=1)] | None = None
    max_tokens: Annotated[Whole, Field(ge=1)] | None = None
    seed: Annotated[Whole, Field(ge=-_LARGEST_SEED, lt=_LARGEST_SEED)] | None = None
    stop: Named | Annotated[list[Named], Field(max_length=_MOST_STOPS)] | None = None
    stream: Flag | None = None
    stream_options: StreamOptions | None = None
    return_candidates: Flag = False


@router.post("/v1/chat/completions", summary="Best of N: sample responses, rank them, return the best.")
async def complete(asked: ChatRequest, request: Request) -> Response:
    """The best of N responses to a chat, in OpenAI's form."""
    hall: Hall = request.app.state.hall
    name = hall.named("chat", asked.ranker or asked.model)
    question = _question(asked, hall, name)
    request.state.log |= {"ranker": name, "candidates": question.num_candidates, "max_tokens": question.max_tokens}
    if hall.settings.log_texts:
        request.state.log["query"] = question.messages
    try:
        answer = await _while_connected(request, hall.chat(name, question, asked.user))
    except ChatRefused as error:
        raise RequestError(400, str(error)[:300]) from error
    request.state.log |= {
        "tokens": answer.new_tokens,
        "sampling_milliseconds": round(1000 * answer.sampling_seconds, 1),
        "ranking_milliseconds": round(1000 * answer.ranking_seconds, 2),
    }
    head = {"id": f"chatcmpl-{request.state.request_id}", "created": int(time.time()), "model": name}
    ranking = _ranking(answer, question, asked.return_candidates)
    best = answer.candidates[: asked.n or 1]
    if asked.stream:
        wants_usage = asked.stream_options is not None and asked.stream_options.include_usage
        pieces = _pieces(best, head, ranking, _usage(answer) if wants_usage else None)
        return StreamingResponse(pieces, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
    choices = [
        {
            "index": place,
            "message": {"role": "assistant", "content": each.text, "refusal": None},
            "logprobs": None,
            "finish_reason": each.finish or "stop",
        }
        for place, each in enumerate(best)
    ]
    body = {**head, "object": "chat.completion", "choices": choices, "usage": _usage(answer), "ranking": ranking}
    return JSONResponse(body)


def _question(asked: ChatRequest, hall: Hall, name: str) -> ChatQuestion:
    """The question that a request asks.

    Raises:
        RequestError: If fields are missing, contradict each other, are above the limits, or are not supported.
    """
    for field, usual in _UNSUPPORTED.items():
        if (asked.model_extra or {}).get(field) not in usual:
            raise RequestError(400, f"{field} is not supported")
    messages = [each.plain() for each in asked.messages]
    if messages[-1]["role"] != "user" or not messages[-1]["content"].strip():
        raise RequestError(400, "the last message has to be the user's, and not empty")
    given = {
        "num_candidates": _one_of(asked, "candidates", "best_of"),
        "temperature": asked.temperature,
        "top_p": asked.top_p,
        "max_tokens": _one_of(asked, "max_completion_tokens", "max_tokens"),
        "stop": [asked.stop] if isinstance(asked.stop, str) else asked.stop,
        "seed": secrets.randbelow(2**31) if asked.seed is None else asked.seed,
    }
    chat, settings = hall.chats[name], hall.settings
    question = chat.question(messages, **{field: value for field, value in given.items() if value is not None})
    if question.num_candidates < (asked.n or 1):
        raise RequestError(400, f"n is {asked.n:,}, more than the {question.num_candidates:,} candidates")
    if question.num_candidates > settings.max_candidates:
        problem = f"{question.num_candidates:,} candidates; the most of a chat are {settings.max_candidates:,}"
        raise RequestError(400, problem)
    if question.max_tokens > settings.max_tokens:
        raise RequestError(400, f"max_tokens is {question.max_tokens:,}; the most are {settings.max_tokens:,}")
    return question


def _one_of(asked: ChatRequest, *fields: str) -> Any:
    """The value of a field that has two names."""
    values = {getattr(asked, field) for field in fields} - {None}
    if len(values) > 1:
        raise RequestError(400, f"{' and '.join(fields)} are two names of one field, and differ")
    return next(iter(values), None)


async def _while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What work gives, unless the client leaves before.

    Raises:
        RequestError: If the client left; nobody sees it.
    """
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise RequestError(499, "the client left")
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _ranking(answer: Answer, question: ChatQuestion, with_candidates: bool) -> dict[str, Any]:
    """What the ranker did: which sample it chose, and on request all candidates, best first."""
    numbers = [each.number for each in answer.candidates]
    ranking: dict[str, Any] = {
        "num_candidates": len(numbers),
        "seed": question.seed,
        "chosen": numbers[0],
        "first": numbers.index(0),
    }
    if with_candidates:
        ranking["candidates"] = [
            {
                "index": each.number,
                "text": each.text,
                "score": each.score,
                "finish_reason": each.finish or "stop",
                "tokens": each.num_tokens,
            }
            for each in answer.candidates
        ]
    return ranking


def _usage(answer: Answer) -> dict[str, int]:
    """The tokens of the prompt, and of all candidates."""
    read, written = answer.prompt_tokens, answer.new_tokens
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


async def _pieces(
    best: Sequence[Any], head: dict[str, Any], ranking: dict[str, Any], usage: dict[str, int] | None
) -> AsyncIterator[str]:
    """The events of a stream."""

    def event(choices: list[dict[str, Any]], **more: Any) -> str:
        body = {**head, "object": "chat.completion.chunk", "choices": choices, **more}
        return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"

    more: dict[str, Any] = {} if usage is None else {"usage": None}
    for place, each in enumerate(best):
        role = {"index": place, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
        yield event([role], **more, **({"ranking": ranking} if place == 0 else {}))
        for piece in re.findall(r"\s*\S+\s*\Z|\s*\S+|\s+", each.text):
            yield event([{"index": place, "delta": {"content": piece}, "finish_reason": None}], **more)
        yield event([{"index": place, "delta": {}, "finish_reason": each.finish or "stop"}], **more)
    if usage is not None:
        yield event([], usage=usage)
    yield "data: [DONE]\n\n"
