"""bfcl: tasks of the Berkeley function-calling leaderboard, each with the accepted values of its calls."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from annotated_types import MinLen

from features.reading.downloads import Download
from features.reading.fields import Record, text_field, unexpected
from features.reading.published import PublishedData
from features.texts.prompts import function_calling
from features.texts.tasks import Task
from features.verification.call_forms.call import parameter_types
from registry import SOURCES, ConfigError
from registry.ranges import FilePath

Category = Literal["simple_python", "multiple", "parallel", "parallel_multiple"]

_SITE = (
    "https://raw.githubusercontent.com/ShishirPatil/gorilla/6ea57973c7a6097fd7c5915698c54c17c5b1b6c8/"
    "berkeley-function-call-leaderboard/bfcl_eval/data"
)
_HASHES = {
    "BFCL_v4_simple_python.json": (283_274, "82dd63ba502eb2520c6b5d1d9a5c4b590e03ff261565175561f6228a367d1991"),
    "BFCL_v4_multiple.json": (316_583, "aef168155ebd74b7ac2401198b201343bc7d16d7a3d7e0d4e6d8ee82c6969b2a"),
    "BFCL_v4_parallel.json": (171_896, "19f51a82eff42e5d62541aa500115a056eb78f437c2ba1f10415fd7c8e5dda84"),
    "BFCL_v4_parallel_multiple.json": (347_080, "8863ea8433239f55c5f016154cf0830853c89f693c6ea270396a2fa121960579"),
    "possible_answer/BFCL_v4_simple_python.json": (
        63_627,
        "90cd5bc653690ee8e459b5b3f3fc9458606f7f3fcbf795bb51b7dc581f8c86dc",
    ),
    "possible_answer/BFCL_v4_multiple.json": (
        32_254,
        "244e00ce9395df948bcafc7bee64e8f9c87ef70887587d83cae45b13699f3047",
    ),
    "possible_answer/BFCL_v4_parallel.json": (
        66_005,
        "8a6aa19c1adddc6a5a2f7e40f9dbf30cc7e95815e7b830c90589ab318229e0f0",
    ),
    "possible_answer/BFCL_v4_parallel_multiple.json": (
        74_602,
        "5ebf24f458c1f16300c05505d83d6f0a1b68b79be273a033febd0d4f840507e3",
    ),
}
DOWNLOADS = {name: Download(f"{_SITE}/{name}", "Apache-2.0", *known, f"bfcl/{name}") for name, known in _HASHES.items()}


@SOURCES.register("bfcl")
class Bfcl:
    """The leaderboard's tasks with a single turn; "" among the accepted values means that the argument is optional.

    Read as published: `BFCL_v4_*.json` (or v3) and the files with the same names in `possible_answer`.

    Args:
        path: The folder; null downloads the files to `data/downloads`.
        categories: The categories of tasks: one call of the only function, one call with several functions offered,
            several calls of one function, or several calls of several functions.
        splits: `published` uses all tasks as the test; `drawn` splits them by the datamodule's shares.
    """

    def __init__(
        self,
        path: FilePath | None = None,
        categories: Annotated[list[Category], MinLen(1)] = [  # noqa: B006
            "simple_python",
            "multiple",
            "parallel",
            "parallel_multiple",
        ],
        splits: Literal["published", "drawn"] = "published",
    ) -> None:
        self.categories, self.splits = categories, splits
        names = [f"{folder}BFCL_v4_{category}.json" for category in categories for folder in ("", "possible_answer/")]
        parts = {name: [name, name.replace("v4", "v3").replace("_python", "")] for name in names}
        downloads = {name: DOWNLOADS[name] for name in names}
        self.data = PublishedData(path, parts, downloads, "bfcl_eval/data of github.com/ShishirPatil/gorilla")

    def fingerprint(self) -> dict[str, Any]:
        """The files or downloads, and the options."""
        options = {"categories": self.categories, "splits": self.splits}
        return {"name": "bfcl", **self.data.fingerprint, **options}

    def problems(self) -> Iterator[Task]:
        """Yield every task, one category after the other.

        Raises:
            ConfigError: If a file is missing or a task has no answer.
        """
        for category in self.categories:
            name = f"BFCL_v4_{category}.json"
            for each in (name, f"possible_answer/{name}"):
                if not self.data.files(each):
                    cure = f"get it from {_SITE}/{each}, or leave {category!r} out of features.source.categories"
                    raise ConfigError(str(self.data.path), f"has no {each}.", cure=cure)
            accepted = dict(self.data.rows(f"possible_answer/{name}", _read_answer))
            for id, query, functions, place in self.data.rows(name, _read_task):
                if id not in accepted:
                    raise ConfigError(place, f"task {id!r} has no answer in possible_answer/{name}.")
                reference = {"accepted": accepted[id], "parameters": parameter_types(functions)}
                messages = function_calling(query, functions)
                split = "test" if self.splits == "published" else None
                yield Task(f"bfcl-{id}", query, messages, reference, (), split, place)


def _read_task(record: Record, place: str) -> tuple[str, str, list[Any], str]:
    """The id, query, offered functions and place of a task."""
    turns, functions = record.get("question"), record.get("function")
    match turns:
        case [[{"role": "user", "content": str(query)}]]:
            pass
        case _:
            raise unexpected("question", turns, "one message of the user")
    if not isinstance(functions, list) or not all(isinstance(each, dict) for each in functions):
        raise unexpected("function", functions, "a list of functions")
    return text_field(record, "id"), query, functions, place


def _read_answer(record: Record, place: str) -> tuple[str, list[Any]]:
    """The id and accepted calls of a task: for each call, the function's name and the accepted values of parameters."""
    calls = record.get("ground_truth")
    if not isinstance(calls, list) or not calls:
        raise unexpected("ground_truth", calls, "a list of calls")
    found = []
    for at, call in enumerate(calls):
        match call:
            case dict() if len(call) == 1 and isinstance(arguments := next(iter(call.values())), dict):
                found.append({"name": next(iter(call)), "arguments": arguments})
            case _:
                raise unexpected(f"ground_truth[{at}]", call, "{name: {parameter: [accepted values]}}")
    return text_field(record, "id"), found
