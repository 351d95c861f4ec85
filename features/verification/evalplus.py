"""EvalPlus: tests that compare a function with the published solution on many inputs (Liu et al. 2023), by its rules.

Outputs are equal, or close within `atol` (1e-6 for floats) and a relative 1e-7. Some functions of MBPP have a rule of
their own: outputs as sets, whether there is an output at all, or a second right answer.
"""

import json
from collections.abc import Sequence
from typing import Any

_SETS = [
    "similar_elements",
    "find_char_long",
    "common_in_nested_lists",
    "extract_singly",
    "larg_nnum",
    "intersection_array",
    "find_dissimilar",
    "Diff",
]
_ANY_OUTPUT = ["check_str", "text_match_three", "text_starta_endb"]
_RULES = f"""
import json as _json, math as _math

_SETS, _ANY_OUTPUT = {_SETS}, {_ANY_OUTPUT}
_published = {{"__name__": "published"}}


def _is_float(value):
    return isinstance(value, float) or (
        isinstance(value, (list, tuple)) and len(value) > 0 and all(isinstance(each, float) for each in value)
    )


def _close(out, expected, atol):
    if isinstance(expected, (list, tuple)):
        return len(out) == len(expected) and all(_close(*pair, atol) for pair in zip(out, expected))
    return out == expected or abs(out - expected) <= atol + 1e-7 * abs(expected)


def _surface(base, height):
    return round(base**2 + 2 * base * _math.sqrt((base / 2) ** 2 + height**2))


def _digits_apart(one, other):
    width = max(len(str(one)), len(str(other)))
    return sum(abs(int(a) - int(b)) for a, b in zip(str(one).zfill(width), str(other).zfill(width)))


def _agrees(name, data, out, expected, arguments, atol):
    if data == "humaneval" and name == "find_zero":
        return abs(sum(factor * out**power for power, factor in enumerate(arguments[0]))) <= atol
    equal = out == expected
    if data == "mbpp":
        if name == "are_equivalent":
            return True
        if name == "sum_div":
            equal = equal or out == 0
        elif name == "surface_Area":
            equal = equal or abs(out - _surface(*arguments)) <= atol
        elif name == "digit_distance_nums":
            equal = equal or out == _digits_apart(*arguments)
        elif name in _SETS:
            equal = set(out) == set(expected)
        elif name in _ANY_OUTPUT:
            equal = out == expected if isinstance(out, bool) else expected == (out is not None)
    if equal or not atol:
        return equal
    return type(out) is type(expected) and _close(out, expected, atol)


def _check(function, name, data, inputs, shape, atol):
    for place in range(len(_json.loads(inputs))):
        given, again, shown = (shape(_json.loads(inputs)[place]) for _ in range(3))
        expected = _published[name](*again)
        if atol == 0 and _is_float(expected):
            atol = 1e-6
        out = function(*given)
        told = f"{{name}}{{tuple(shown)!r:.100}} gave {{out!r:.50}}, expected {{expected!r:.50}}"
        assert _agrees(name, data, out, expected, shown, atol), told
"""
# How MBPP+ writes tuples, sets and complex numbers as JSON: by task, what makes the arguments of a parsed input.
_SHAPES = {
    "[tuple(each) for each in inp]": [
        2, 116, 132, 143, 222, 261, 273, 394, 399, 421, 424, 429, 470, 560, 579, 596, 616, 630, 726, 740, 744, 809,
    ],
    "[[tuple(each) for each in part] for part in inp]": [
        63, 64, 70, 94, 120, 237, 272, 299, 400, 409, 417, 438, 473, 614, 780,
    ],
    "[[tuple(each) for each in inp[0]], inp[1]]": [75, 413, 444, 753],
    "[inp[0], tuple(inp[1])]": [106, 750],
    "[[set(each) if isinstance(each, list) and each else {} for each in inp[0]]]": [115],
    "[float(inp[0]), complex(inp[1])]": [124],
    "[tuple(inp[0]), *inp[1:]]": [250, 307, 405, 446, 617, 720, 763, 808],
    "[tuple(tuple(each) for each in part) for part in inp]": [259, 401, 445],
    "[tuple(tuple(each) if isinstance(each, list) else each for each in inp[0])]": [278],
    "[{key: tuple(value) for key, value in inp[0].items()}, *inp[1:]]": [722],
    "[complex(inp[0])]": [252],
    "(lambda deep: [deep(deep, each) for each in inp])("
    "lambda deep, each: tuple(deep(deep, part) for part in each) if isinstance(each, list) else each)": [580, 615, 791],
}  # fmt: skip
_SHAPE_OF = {number: shape for shape, numbers in _SHAPES.items() for number in numbers}


def setup_of(solution: str) -> str:
    """The code before the tests: the rules, and the published solution, which only the tests see.

    Args:
        solution: The whole published program.
    """
    return f"{_RULES}\n\nexec({solution!r}, _published)\n"


def tests_of(name: str, data: str, number: int, inputs: Sequence[Sequence[Any]], atol: float) -> list[str]:
    """The tests of a task: one for each non-empty list of inputs.

    Args:
        name: The function under test.
        data: `humaneval` or `mbpp`.
        number: The number of the task.
        inputs: Lists of inputs, each a list of arguments.
        atol: The absolute tolerance; 0 requires equal outputs, except for floats.
    """
    shape = f"lambda inp: {_SHAPE_OF.get(number, 'inp') if data == 'mbpp' else 'inp'}"
    texts = [json.dumps(each) for each in inputs if each]
    return [f"_check({name}, {name!r}, {data!r}, {text!r}, {shape}, {atol!r})" for text in texts]
