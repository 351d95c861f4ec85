"""function_calls: whether a response makes the calls of the reference, in whatever order and writing."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from features.call_syntax import Call, calls_in
from features.problems import Problem
from features.verification import Verdict
from registry import VERIFIERS

Fits = Callable[[Any, Any], bool]

# What the leaderboard's own checker leaves out of texts before it compares them.
_IGNORED = re.compile(r"[ ,./\-_*^]")


@VERIFIERS.register("function_calls")
def function_calls(response: str, problem: Problem, /, *, texts: Literal["auto", "exact", "loose"] = "auto") -> Verdict:
    """1 if a response's calls are those of the reference, each once, in any order.

    Values compare as JSON does: 1 and 1.0 are equal, "1" and 1 are not, true is not 1; lists have an order, objects
    have none. A reference with `calls` has one value for each argument. One with `accepted` has a list of them, as BFCL
    has, in which "" means that the argument may be left out; objects among the accepted values have such lists in turn.

    Args:
        texts: Whether texts have to be the same or, as for BFCL, may differ in case, blanks and the characters
            ,./-_*^ and quotes; `auto` is loose for accepted values and exact otherwise.
    """
    reference = problem.reference
    if not isinstance(reference, Mapping) or not ("calls" in reference or "accepted" in reference):
        return Verdict(None, "no reference calls")
    loose = "accepted" in reference if texts == "auto" else texts == "loose"
    called = calls_in(response, reference.get("parameters"))
    answer = json.dumps(sorted(map(_canonical, called))) if called else None
    if "accepted" in reference:
        expected, fits = reference["accepted"], _fits_accepted(loose)
    else:
        expected, fits = reference["calls"], _equals(loose)
    if not called and expected:
        return Verdict(0.0, "no call", answer)
    return Verdict(float(_matched(called, expected, fits)), "", answer)


def _matched(called: Sequence[Call], expected: Sequence[Mapping[str, Any]], fits: Fits) -> bool:
    """Whether each call can be given an expected one of its own; a greedy choice may take what another call needs."""
    if len(called) != len(expected):
        return False
    taken: dict[int, int] = {}

    def place(call: int, tried: set[int]) -> bool:
        for number, other in enumerate(expected):
            if number in tried or called[call].name != other["name"]:
                continue
            if fits(dict(called[call].arguments), other["arguments"]):
                tried.add(number)
                if number not in taken or place(taken[number], tried):
                    taken[number] = call
                    return True
        return False

    return all(place(call, set()) for call in range(len(called)))


def _equals(loose: bool) -> Fits:
    """Equality of JSON values."""

    def equal(value: Any, other: Any) -> bool:
        if isinstance(value, bool) or isinstance(other, bool):
            return value is other
        if isinstance(value, int | float) and isinstance(other, int | float):
            return value == other
        if isinstance(value, str) and isinstance(other, str):
            return _simple(value) == _simple(other) if loose else value == other
        if isinstance(value, list) and isinstance(other, list):
            return len(value) == len(other) and all(map(equal, value, other))
        if isinstance(value, dict) and isinstance(other, dict):
            return value.keys() == other.keys() and all(equal(each, other[key]) for key, each in value.items())
        return value is None and other is None

    return equal


def _fits_accepted(loose: bool) -> Fits:
    """Whether an object has for each key one of the values accepted for it."""
    equal = _equals(loose)

    def fits_object(value: Any, accepted: Mapping[str, Any]) -> bool:
        if not isinstance(value, dict) or not value.keys() <= accepted.keys():
            return False
        lists = {key: each if isinstance(each, list) else [each] for key, each in accepted.items()}
        return all(
            any(fits(value[key], each) for each in choices) if key in value else "" in choices
            for key, choices in lists.items()
        )

    def fits(value: Any, accepted: Any) -> bool:
        if isinstance(accepted, dict):
            return fits_object(value, accepted)
        if isinstance(accepted, list):
            return isinstance(value, list) and len(value) == len(accepted) and all(map(fits, value, accepted))
        return equal(value, accepted)

    return fits_object


def _simple(text: str) -> str:
    return _IGNORED.sub("", text).lower().replace("'", '"')


def _canonical(call: Call) -> str:
    return json.dumps([call.name, _plain(dict(call.arguments))], sort_keys=True)


def _plain(value: Any) -> Any:
    """The value with equal numbers written alike."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return {key: _plain(each) for key, each in value.items()} if isinstance(value, dict) else value
