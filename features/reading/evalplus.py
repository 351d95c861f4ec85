"""EvalPlus: reads the tasks of HumanEval+ and MBPP+."""

import re
from typing import Any

from features.reading.fields import LineError, Record, text_field, unexpected
from features.texts.groups import Split
from features.texts.prompts import coding
from features.texts.tasks import Response, Task
from features.verification.evalplus import setup_of, tests_of

_ID = re.compile(r"(HumanEval|Mbpp)/(\d+)")
_QUOTES = '"""'


def read_task(record: Record, place: str, split: Split | None, solutions: bool) -> Task:
    """A task whose tests compare a program with the published solution.

    Args:
        record: A row of `HumanEvalPlus.jsonl` or `MbppPlus.jsonl`.
        place: Where it stands.
        split: The split of the task.
        solutions: Whether to add the published solution as a response.

    Raises:
        LineError: If a field is missing or has another form.
    """
    found = _ID.fullmatch(id := text_field(record, "task_id"))
    if found is None:
        raise unexpected("task_id", id, "HumanEval/ or Mbpp/ and a number")
    data, number = found[1].lower(), int(found[2])
    prompt, name = text_field(record, "prompt"), text_field(record, "entry_point")
    solution = prompt + text_field(record, "canonical_solution")
    inputs = [_inputs(record, key) for key in ("base_input", "plus_input")]
    atol = record.get("atol") or 0
    if isinstance(atol, bool) or not isinstance(atol, int | float):
        raise unexpected("atol", atol, "a number")
    if not any(inputs):
        raise LineError("base_input", "has no input")
    is_body = data == "humaneval"
    query = prompt.strip() if is_body else prompt.strip().removeprefix(_QUOTES).removesuffix(_QUOTES).strip()
    example = None if is_body else next((line for line in query.splitlines() if line.startswith("assert")), None)
    reference = {
        "tests": tests_of(name, data, number, inputs, float(atol)),
        "setup": setup_of(solution),
        "entry_point": name,
        "prelude": prompt if is_body else "",
    }
    responses = [Response("published", solution)] if solutions else []
    return Task(f"{data}-{number}", query, coding(query, example), reference, responses, split, place)


def _inputs(record: Record, key: str) -> list[list[Any]]:
    value = record.get(key)
    # A task of HumanEval+ without further inputs has an empty object.
    if value == {} or value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(each, list) for each in value):
        raise unexpected(key, value, "a list of lists of arguments")
    return value
