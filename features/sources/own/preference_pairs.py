"""Preference pairs: reads a chosen and a rejected response to a prompt, in the forms of common data sets."""

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from features.reading.fields import LineError, Record, checked_text, mixed, role_field, text_field, unexpected
from features.texts.groups import Candidate, TextGroup

_MISSING = object()
_PROMPTS = ("instruction", "question", "conversations", "messages")
_TURN = "\n\nAssistant:"
_TURNS = re.compile(r"(?:^|\n\n)(Human|Assistant): ?")
_NAMES = {
    "human": "user",
    "gpt": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "Human": "user",
    "Assistant": "assistant",
}
"""Other names of roles: of ShareGPT, of LLaMA-Factory, and in Anthropic's transcripts."""


class UnusablePairError(LineError):
    """A pair without information to learn from, for example two equal responses.

    Args:
        field: The field of the wrong response.
        problem: What is wrong with it.
        option: The option of the source that can leave out such pairs.
    """

    def __init__(self, field: str, problem: str, option: str) -> None:
        self.option = option
        super().__init__(field, problem, f"remove these pairs, or leave them out: features.source.{option}=drop")


def read_preferences(record: Record, line_id: str) -> TextGroup:
    """`{prompt, chosen, rejected}`, each a text or chat messages, or whole transcripts without a prompt.

    The prompt may also be LLaMA-Factory's `conversations` or `instruction` with `input`, or `question`; a `system` text
    is put before it. If responses begin with the prompt, as transcripts do, it is removed from them.

    Raises:
        UnusablePairError: If both responses are the same, or one is empty.
    """
    name, (chosen, rejected) = "prompt", (_plain(record.get(key, _MISSING)) for key in ("chosen", "rejected"))
    prompt = _plain(record["prompt"]) if record.get("prompt") is not None else _MISSING
    if isinstance(chosen, list) and isinstance(rejected, list):
        prompt, chosen, rejected = _without_shared(prompt, chosen, rejected)
    if not prompt or prompt is _MISSING:
        name = next((name for name in _PROMPTS if record.get(name) is not None), "prompt")
        prompt = _plain(record.get(name, _MISSING))
    if prompt is _MISSING and isinstance(chosen, str) and isinstance(rejected, str):
        prompt, chosen, rejected = _split_transcripts(chosen, rejected)
    for key, response in (("chosen", chosen), ("rejected", rejected)):
        if _is_empty(response):
            raise UnusablePairError(key, "empty; expected text", "empty_pairs")
    query, right, wrong = (
        conversation(key, value) for key, value in ((name, prompt), ("chosen", chosen), ("rejected", rejected))
    )
    if right == wrong:
        raise UnusablePairError("rejected", "the same text as chosen; expected another text", "equal_pairs")
    if name != "prompt":
        query = "\n\n".join([*_context(record, "system"), query, *_context(record, "input")])
    return TextGroup(line_id, query, mixed([Candidate("chosen", right, 1.0), Candidate("rejected", wrong, 0.0)]))


def conversation(field: str, value: Any) -> str:
    """The text of a conversation: a text unchanged, the content of one message, or several messages with roles."""
    if value is _MISSING:
        raise LineError(field, "missing; expected text or a list of messages")
    if isinstance(value, str):
        return checked_text(field, value)
    if not isinstance(value, list) or not value or not all(isinstance(each, Mapping) for each in value):
        raise unexpected(field, value, "text or a list of messages {role, content}")
    places = [f"{field}[{place}]." for place in range(len(value))]
    contents = [text_field(message, "content", at) for at, message in zip(places, value, strict=True)]
    if len(contents) == 1 and "role" not in value[0]:
        return contents[0]
    roles = [role_field(message, at) for at, message in zip(places, value, strict=True)]
    if len(contents) == 1:
        return contents[0]
    return "\n\n".join(f"{role}: {content}" for role, content in zip(roles, contents, strict=True))


def _is_empty(response: Any) -> bool:
    """Whether a response, or its last message, has only spaces."""
    if isinstance(response, list) and response:
        last = response[-1]
        response = last.get("content") if isinstance(last, Mapping) else last
    return isinstance(response, str) and not response.strip()


def _plain(value: Any) -> Any:
    """Turn a single message into a list, and other names of fields and roles into those of chat templates."""
    if isinstance(value, Mapping):
        value = [value]
    return [_message(each) for each in value] if isinstance(value, list) else value


def _message(message: Any) -> Any:
    if not isinstance(message, Mapping):
        return message
    if "value" in message and "content" not in message:
        message = {"role": message.get("from"), "content": message["value"]}
    role = message.get("role")
    return {**message, "role": _NAMES.get(role, role)} if isinstance(role, str) else message


def _without_shared(prompt: Any, chosen: list[Any], rejected: list[Any]) -> tuple[Any, list[Any], list[Any]]:
    """Move the messages that both lists begin with to the prompt, or drop them if they repeat it."""
    same = (one == other for one, other in zip(chosen, rejected, strict=False))
    shared = sum(1 for _ in itertools.takewhile(bool, same))
    if shared == len(chosen) == len(rejected):
        shared = max(0, shared - 1)
    if prompt is not _MISSING and not _says(chosen[:shared], prompt):
        return prompt, chosen, rejected
    return (chosen[:shared] if prompt is _MISSING else prompt), chosen[shared:], rejected[shared:]


def _says(messages: Sequence[Any], prompt: Any) -> bool:
    """Whether the prompt equals these messages, or the text of the last one."""
    if not messages:
        return False
    if isinstance(prompt, list):
        return list(messages) == prompt
    return isinstance(messages[-1], Mapping) and messages[-1].get("content") == prompt


def _split_transcripts(chosen: str, rejected: str) -> tuple[Any, str, str]:
    """Split Anthropic's transcripts: both are equal up to a turn of the assistant, which is the response."""
    size = next((at for at, (one, other) in enumerate(zip(chosen, rejected, strict=False)) if one != other), None)
    shared = chosen[: min(len(chosen), len(rejected)) if size is None else size]
    # One response may be the beginning of the other, or contain a turn: the prompt ends at the last shared turn.
    end = shared.rfind(_TURN)
    if end < 0:
        cure = "add a prompt, or use transcripts that both begin with it and a turn of the assistant"
        raise LineError("prompt", f"missing, and chosen and rejected share no turn {_TURN.strip()!r}", cure)
    return _turns(chosen[:end]), chosen[end + len(_TURN) :].strip(), rejected[end + len(_TURN) :].strip()


def _turns(transcript: str) -> Any:
    """The messages of a transcript; the text itself if it does not begin with a turn."""
    before, *parts = _TURNS.split(transcript)
    if before.strip() or not parts:
        return transcript.strip()
    turns = zip(parts[::2], parts[1::2], strict=True)
    return [{"role": _NAMES[role], "content": content.strip()} for role, content in turns]


def _context(record: Record, key: str) -> list[str]:
    value = record.get(key)
    return [] if value is None or value == "" else [checked_text(key, value)]
