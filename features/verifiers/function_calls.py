"""function_calls: whether a response has the calls of the reference, in any order and notation."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from features.texts.tasks import Task
from features.verification.call_forms.call import Call
from features.verification.calls import calls_in
from features.verification.verdict import Verdict
from registry import VERIFIERS

# Characters that BFCL's own checker removes from texts before it compares them.
_IGNORED = re.compile(r"[ ,./\-_*^]")


@VERIFIERS.register("function_calls")
def function_calls(response: str, task: Task, /, *, texts: Literal["auto", "exact", "loose"] = "auto") -> Verdict:
    """1 if the response has exactly the calls of the reference, each once, in any order.

    Calls may be written as JSON, as Python, with the tags of models' chat templates, or as in the result files of BFCL
    and of servers' APIs.

    Values are compared as in JSON: 1 and 1.0 are equal, "1" and 1 are not, true is not 1; lists are ordered, objects
    are not. A reference with `calls` has one value for each argument. A reference with `accepted` has a list of
    accepted values, as in BFCL, where "" means that the argument is optional; objects among them have such lists, too.

    Args:
        texts: How to compare texts: `exact` requires equal texts; `loose` ignores case, spaces, quotes and the
            characters ,./-_*^ as BFCL does; `auto` is loose for accepted values and exact otherwise.
    """
    reference = task.reference
    if not isinstance(reference, Mapping) or not ("calls" in reference or "accepted" in reference):
        return Verdict(None, "no reference calls")
    loose = "accepted" in reference if texts == "auto" else texts == "loose"
    expected, fits = (reference["accepted"], _fits) if "accepted" in reference else (reference["calls"], _equal)
    called = calls_in(response, reference.get("parameters"), {call["name"] for call in expected})
    answer = json.dumps(sorted(map(_canonical, called))) if called else None
    if not called and expected:
        return Verdict(0.0, "no call", answer)
    choices = [
        [
            place
            for place, other in enumerate(expected)
            if call.name == other["name"] and fits(dict(call.arguments), other["arguments"], loose)
        ]
        for call in called
    ]
    return Verdict(float(len(called) == len(expected) and _all_placed(choices)), "", answer)


def _all_placed(choices: Sequence[Sequence[int]]) -> bool:
    """Whether a one-to-one assignment of calls to their choices exists; a greedy assignment could miss it."""
    taken: dict[int, int] = {}
    return all(_placed(call, choices, taken, set()) for call in range(len(choices)))


def _placed(call: int, choices: Sequence[Sequence[int]], taken: dict[int, int], tried: set[int]) -> bool:
    """Assign a call to a place, and move other calls to their other choices if necessary; return whether it worked."""
    for place in choices[call]:
        if place not in tried:
            tried.add(place)
            if place not in taken or _placed(taken[place], choices, taken, tried):
                taken[place] = call
                return True
    return False


def _equal(value: Any, other: Any, loose: bool) -> bool:
    """Whether two JSON values are equal."""
    if isinstance(value, bool) or isinstance(other, bool):
        return value is other
    if isinstance(value, int | float) and isinstance(other, int | float):
        return value == other
    if isinstance(value, str) and isinstance(other, str):
        return _simple(value) == _simple(other) if loose else value == other
    if isinstance(value, list) and isinstance(other, list):
        return len(value) == len(other) and all(_equal(*pair, loose) for pair in zip(value, other, strict=True))
    if isinstance(value, dict) and isinstance(other, dict):
        return value.keys() == other.keys() and all(_equal(value[key], other[key], loose) for key in value)
    return value is None and other is None


def _fits(value: Any, accepted: Any, loose: bool) -> bool:
    """Whether a value is accepted; an accepted object has a list of accepted values for each key."""
    if isinstance(accepted, dict):
        return (
            isinstance(value, dict)
            and value.keys() <= accepted.keys()
            and all(
                any(_fits(value[key], each, loose) for each in choices) if key in value else "" in choices
                for key, choices in accepted.items()
            )
        )
    if isinstance(accepted, list):
        same = isinstance(value, list) and len(value) == len(accepted)
        return same and all(_fits(*pair, loose) for pair in zip(value, accepted, strict=True))
    return _equal(value, accepted, loose)


def _simple(text: str) -> str:
    return _IGNORED.sub("", text).lower().replace("'", '"')


def _canonical(call: Call) -> str:
    return json.dumps([call.name, _plain(dict(call.arguments))], sort_keys=True)


def _plain(value: Any) -> Any:
    """The value with equal numbers in the same notation."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return {key: _plain(each) for key, each in value.items()} if isinstance(value, dict) else value
