"""problems: reads queries, references for verifiers, and existing responses from your own files."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

from features.reading.fields import (
    LineError,
    Record,
    as_id,
    as_label,
    as_number,
    role_field,
    text_field,
    unexpected,
    unicode_text,
)
from features.reading.lines import TextFile
from features.reading.records import RecordFile, find_files
from features.texts.groups import Split
from features.texts.prompts import PromptName, prompted
from features.texts.tasks import Response, Task
from features.verification.call_forms.call import parameter_types
from language_models.chat_template import Message
from registry import SOURCES, ConfigError
from registry.ranges import FilePath

_REFERENCES = ("answer", "tests", "calls", "accepted", "reference")


@SOURCES.register("problems")
class Problems:
    """Reads one problem per line, or per row of Parquet.

    Fields: `{query_id, query or messages, split?}`. Then one field for the verifier: `answer` (a text, a number, or a
    list of accepted texts), `tests` (a list of Python statements; with `setup?`, `entry_point?`, `prelude?`), `calls`
    (a list of `{name, arguments}`) or `accepted` (the same with lists of accepted values), both with `functions?`, or
    `reference` (any value, for your own verifier). Then `candidates` or `responses` that already exist, each a text or
    `{id?, text, label?, log_probability?}`. Other fields are ignored.

    Args:
        path: A file (`.jsonl`, `.json`, `.parquet`), a pattern, or a list of these.
        prompt: The prompt template for queries without messages; `plain` is the query alone.
    """

    def __init__(self, path: FilePath | list[FilePath], prompt: PromptName = "plain") -> None:
        self.path = path
        self.prompt: PromptName = prompt

    def fingerprint(self) -> dict[str, Any]:
        """The name, size and hash of each file, and the prompt."""
        return {"name": "problems", "files": [TextFile(file).fingerprint for file in self.files], "prompt": self.prompt}

    @cached_property
    def files(self) -> list[Path]:
        """The files to read.

        Raises:
            ConfigError: If there are none.
        """
        return find_files(self.path, "features.source.path")

    @property
    def own_files(self) -> list[RecordFile]:
        """The user's files, for a quick check before a run."""
        return [RecordFile(path) for path in self.files]

    def problems(self) -> Iterator[Task]:
        """Yield every problem, in the order of the files.

        Raises:
            ConfigError: If a row is bad, or two rows have the same id; names the place, the field, what was found and
                what is expected.
        """
        places: dict[str, str] = {}

        def parse(record: Record, place: str) -> Task:
            task = self._parse(record, place)
            first = places.setdefault(task.query_id, place)
            if first != place:
                raise LineError("query_id", f"{task.query_id!r} was already used in {first}")
            return task

        for file in self.files:
            yield from RecordFile(file).parsed((), parse)
        if not places:
            raise ConfigError(str(self.path), "has no problem.", cure="set features.source.path")

    def _parse(self, record: Record, place: str) -> Task:
        key = "query_id" if "query_id" in record else "id"
        query_id = as_id(key, record[key]) if key in record else place.replace(", line ", "-")
        split = record.get("split")
        if split not in (None, *get_args(Split)):
            raise unexpected("split", split, "train, val or test")
        messages = _messages(record)
        query = text_field(record, "query") if "query" in record or not messages else messages[-1]["content"]
        task = Task(query_id, query, messages or prompted(self.prompt, query), None, (), split, place)
        return replace(task, reference=_reference(record), responses=_responses(record))


def _messages(record: Record) -> list[Message]:
    value = record.get("messages")
    if value is None:
        return []
    if not isinstance(value, list) or not value or not all(isinstance(each, dict) for each in value):
        raise unexpected("messages", value, "a list of messages {role, content}")
    for at, message in enumerate(value):
        role_field(message, f"messages[{at}].")
        text_field(message, "content", f"messages[{at}].")
    if value[-1]["role"] != "user":
        raise unexpected(f"messages[{len(value) - 1}].role", value[-1]["role"], "user: the response comes next")
    return [{"role": each["role"], "content": each["content"]} for each in value]


def _reference(record: Record) -> Any:
    """The reference for a verifier, in the same form as for published tasks."""
    # A row of Parquet has every column, so null means that the field is missing.
    given = [key for key in _REFERENCES if record.get(key) is not None]
    if len(given) > 1:
        raise LineError(given[1], f"given together with {given[0]}; expected only one of {', '.join(_REFERENCES)}")
    if not given:
        return None
    key, value = given[0], record[given[0]]
    if key == "answer":
        return _answer(value)
    if key == "tests":
        texts = {name: record.get(name) or "" for name in ("setup", "prelude")}
        for name, text in {**texts, "entry_point": record.get("entry_point") or ""}.items():
            if not isinstance(text, str):
                raise unexpected(name, text, "text")
        entry_point = record.get("entry_point")
        if entry_point is not None and not entry_point.isidentifier():
            raise unexpected("entry_point", entry_point, "the name of a function")
        return {"tests": _texts(key, value), "entry_point": entry_point, **texts}
    if key in ("calls", "accepted"):
        functions = record.get("functions") or []
        if not isinstance(functions, list) or not all(map(_is_function, functions)):
            raise unexpected("functions", functions, "a list of functions {name, parameters}")
        return {key: _calls(key, value), "parameters": parameter_types(functions)}
    return value


def _answer(value: Any) -> str | list[str]:
    if isinstance(value, list):
        return [as_id(f"answer[{at}]", each) for at, each in enumerate(value)]
    return repr(as_number("answer", value)) if isinstance(value, float) else as_id("answer", value)


def _calls(key: str, value: Any) -> Sequence[Mapping[str, Any]]:
    form = '{"name": text, "arguments": {...}}'
    if not isinstance(value, list):
        raise unexpected(key, value, f"a list of {form}")
    for at, call in enumerate(value):
        match call:
            case {"name": str(), "arguments": dict(arguments)}:
                if key == "accepted" and not _is_accepted(arguments):
                    raise unexpected(f"accepted[{at}].arguments", arguments, "a list of accepted values for each")
            case _:
                raise unexpected(f"{key}[{at}]", call, form)
    return value


def _is_function(value: Any) -> bool:
    described = value.get("function", value) if isinstance(value, dict) else None
    match described:
        case {"name": str()}:
            return isinstance(described.get("parameters") or {}, dict)
        case _:
            return False


def _is_accepted(value: Any) -> bool:
    """Whether all objects, at any depth, have a list of accepted values for each key."""
    if isinstance(value, dict):
        return all(isinstance(each, list) and _is_accepted(each) for each in value.values())
    return not isinstance(value, list) or all(map(_is_accepted, value))


def _texts(key: str, value: Any) -> list[str]:
    if not isinstance(value, list) or not value or not all(isinstance(each, str) for each in value):
        raise unexpected(key, value, "a list of texts, at least one")
    return value


def _responses(record: Record) -> list[Response]:
    """The existing responses; empty and repeated texts are responses, too."""
    given = [key for key in ("candidates", "responses") if record.get(key) is not None]
    if len(given) > 1:
        raise LineError(given[1], f"given together with {given[0]}; expected only one of them")
    key = given[0] if given else "responses"
    value = record.get(key) or []
    if not isinstance(value, list):
        raise unexpected(key, value, "a list of texts or objects {id?, text, label?}")
    responses = [_response(each, place, f"{key}[{place}]") for place, each in enumerate(value)]
    ids = [response.id for response in responses]
    if len(set(ids)) < len(ids):
        raise LineError(key, f"two have the id {max(ids, key=ids.count)!r}; expected each id once per query")
    return responses


def _response(value: Any, number: int, at: str) -> Response:
    if isinstance(value, str):
        return Response(str(number), unicode_text(at, value))
    if not isinstance(value, dict) or not isinstance(value.get("text"), str):
        raise unexpected(at, value, "a text or an object with a text")
    id = as_id(f"{at}.id", value["id"]) if value.get("id") is not None else str(number)
    label, log_probability = value.get("label"), value.get("log_probability")
    return Response(
        id,
        unicode_text(f"{at}.text", value["text"]),
        None if label is None else as_label(f"{at}.label", label),
        log_probability=None if log_probability is None else as_number(f"{at}.log_probability", log_probability),
    )
