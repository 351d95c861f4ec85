"""Checks: public answers whose labels are known, each with the verifier that has to find them."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.verdicts.call_notations import NOTATIONS
from features.sources.own.problems import Problems
from features.sources.tasks.bfcl import Bfcl
from features.sources.tasks.humaneval import HumanEval
from features.sources.tasks.math import Math
from features.sources.tasks.mbpp import Mbpp
from features.texts.tasks import Task, TaskSource
from features.verification.answers import first_answer, stated_answer, without_thoughts
from features.verification.call_forms.call import Call
from registry import Node


class Item(NamedTuple):
    """A response with the label that a verifier has to give; `kind` groups the items in the results."""

    task: Task
    text: str
    expected: float
    kind: str


@dataclass(frozen=True)
class Check:
    """One source of answers.

    Args:
        what: What is known of them.
        folder: The folder below the data.
        verifier: Name and options.
        items: Yields the items from that folder.
    """

    what: str
    folder: str
    verifier: Node
    items: Callable[[Path], Iterator[Item]]


def _labelled(folder: Path) -> Iterator[Item]:
    for task in Problems([str(path) for path in sorted(folder.glob("*.jsonl"))]).problems():
        for response in task.responses:
            if response.label is not None:
                yield Item(task, response.text, response.label, "given label")


def _equal_texts(folder: Path) -> Iterator[Item]:
    """Answers that are the reference letter by letter, and whole numbers other than the reference."""
    for task in Problems([str(path) for path in sorted(folder.glob("*.jsonl"))]).problems():
        for response in task.responses:
            answer = stated_answer(first_answer(without_thoughts(response.text))) or ""
            if answer.replace(" ", "") == str(task.reference).replace(" ", ""):
                yield Item(task, response.text, 1.0, "equal texts")
            elif (one := _number(answer)) is not None and (other := _number(str(task.reference))) is not None:
                yield Item(task, response.text, float(one == other), "numbers")


def _golds(folder: Path) -> Iterator[Item]:
    """Each solution against its own answer, and each number against the next one that differs."""
    # Two solutions of the training part have an empty box.
    tasks = [task for task in Math(str(folder), None, None).problems() if task.reference]
    numbers = [(task, number) for task in tasks if (number := _number(str(task.reference))) is not None]
    for task in tasks:
        yield Item(task, rf"\boxed{{{task.reference}}}", 1.0, "own answer")
    for (task, one), (_, other) in itertools.pairwise(numbers):
        if one != other:
            yield Item(task, rf"\boxed{{{other}}}", 0.0, "another number")


def _calls(folder: Path) -> Iterator[Item]:
    """The accepted calls in each notation, and without the last argument of the first call."""
    for task in Bfcl(str(folder)).problems():
        calls = [Call(each["name"], _chosen(each["arguments"])) for each in task.reference["accepted"]]
        for name, written in NOTATIONS.items():
            yield Item(task, written(calls), 1.0, name)
        if arguments := list(calls[0].arguments.items()):
            yield Item(
                task, NOTATIONS["JSON list"]([Call(calls[0].name, dict(arguments[:-1])), *calls[1:]]), 0.0, "less"
            )
        yield Item(task, NOTATIONS["JSON list"]([*calls, calls[0]]), 0.0, "twice")


def _chosen(accepted: Any) -> Any:
    """The first accepted value of each argument that is not optional."""
    if isinstance(accepted, dict):
        return {key: _chosen(values[0]) for key, values in accepted.items() if "" not in values}
    return [_chosen(each) for each in accepted] if isinstance(accepted, list) else accepted


def _solutions(source: Callable[[str], TaskSource], file: str) -> Callable[[Path], Iterator[Item]]:
    def items(folder: Path) -> Iterator[Item]:
        for task in source(str(folder / file)).problems():
            yield from (Item(task, response.text, 1.0, "published solution") for response in task.responses)

    return items


def _number(text: str) -> Fraction | None:
    try:
        return Fraction(text.replace(",", "")) if text.isascii() and "_" not in text else None
    except (ValueError, ZeroDivisionError):
        return None


CHECKS = {
    "gsm8k_solutions": Check("labels that came with the solutions", "gsm8k_solutions", "final_number", _labelled),
    "math_level5": Check("equal and unequal as texts or as fractions", "math_level5", "math_answer", _equal_texts),
    "math": Check("answers against themselves and other numbers", "math", "math_answer", _golds),
    "bfcl": Check("accepted calls in every notation, and changed", "bfcl", "function_calls", _calls),
    "mbpp": Check(
        "published solutions", "mbpp", "unit_tests", _solutions(lambda path: Mbpp(path, solutions=True), "mbpp.jsonl")
    ),
    "humaneval": Check(
        "published solutions",
        "mbpp",
        "unit_tests",
        _solutions(lambda path: HumanEval(path, solutions=True), "humaneval.jsonl"),
    ),
}
