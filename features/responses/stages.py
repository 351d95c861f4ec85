"""Response stages: compute responses, their hidden states and their verdicts once, and save them.

A chunk of tasks is saved whole or not at all, so a resumed run recomputes identical batches, with identical results.
"""

import copy
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from features.building.chunks import Chunks
from features.responses.generation import Generated, Generator
from features.responses.result_file import ResultFile
from features.responses.states import with_states
from features.texts.tasks import Response, Task
from features.verification.verdict import Verdict, Verifier
from language_models.language_model import LanguageModel

Report = Callable[[int, int], None]
"""Called with the numbers of processed responses and tokens."""

_PROMPT, _ALL = -1, 1 << 30
_RESPONSE, _REFUSAL, _SEEN = "response", "refusal", "seen"


@dataclass(frozen=True)
class Kept:
    """The saved output of a generator for a task.

    Args:
        responses: The responses, in the order of their numbers.
        refusal: Why there are no responses, or no more of them.
    """

    responses: Sequence[Response]
    refusal: str | None = None


class States:
    """The hidden states of a generator's responses.

    Args:
        folder: The folder of all stages.
        reader: The model that has the depths, and that reads states which the generator did not keep.
        described: The settings that the responses depend on.
    """

    def __init__(self, folder: Path, reader: LanguageModel, described: Mapping[str, Any]) -> None:
        self._reader = reader
        self._parts = [f"state {depth:g} {reader.layer_offset:+d}" for depth in reader.depths]
        self.stage = ResultFile(folder, "states", {"reader": read_by(reader), **described})

    def on(self, device: str) -> "States":
        """A copy with the reader on another device; nothing is loaded yet."""
        other = copy.copy(self)
        other._reader = replace(self._reader, device=device)
        return other

    def keep(self, made: Iterable[tuple[Generated, Sequence[int], Sequence[int]]]) -> None:
        """Save states that came with responses.

        Args:
            made: The responses to each task, their numbers, and all numbers that were tried; states of these are not
                read again.
        """
        self.stage.write({asked_key(each.task): self._rows(each, *numbers) for each, *numbers in made})

    def fill(self, tasks: Iterable[Task], responses: "Responses", report: Report) -> None:
        """Read the missing states of a chunk of tasks, and save them together.

        Args:
            tasks: The tasks of the chunk.
            responses: The responses whose states are read.
            report: Called with the numbers of new states.
        """
        waiting = []
        for task in tasks:
            kept = responses.of(task).responses
            if self.lacks(task, len(kept)):
                waiting.append(Generated(task, [replace(each, id=str(n)) for n, each in enumerate(kept)]))
        if waiting:
            found = zip(waiting, with_states(self._reader, waiting, report), strict=True)
            self.keep((each, _numbers(each), _numbers(asked)) for asked, each in found)

    def lacks(self, task: Task, count: int) -> bool:
        """Whether states of a task's first responses are missing."""
        key = asked_key(task)
        dropped = self.stage.numbers(key, _SEEN)
        return any(not set(range(count)) <= self.stage.numbers(key, part) | dropped for part in self._parts)

    def of(self, task: Task, count: int) -> tuple[dict[int, Float[Tensor, "L D"]], Float[Tensor, "L D"] | None]:
        """The states of a task's first responses by number, without too long responses, and those of its prompt."""
        rows = [self.stage.read(asked_key(task), part, range(_PROMPT, count)) for part in self._parts]
        states = {number: torch.stack([_unpacked(part[number]) for part in rows]) for number in rows[0]}
        return states, states.pop(_PROMPT, None)

    def _rows(self, made: Generated, numbers: Sequence[int], seen: Sequence[int]) -> dict[str, dict[int, bytes]]:
        rows: dict[str, dict[int, bytes]] = {_SEEN: dict.fromkeys(seen, b"")}
        if made.query_states is not None and made.response_states is not None:
            for place, part in enumerate(self._parts):
                vectors = [made.query_states[place], *made.response_states[:, place]]
                rows[part] = {
                    number: _packed(vector) for number, vector in zip([_PROMPT, *numbers], vectors, strict=True)
                }
        return rows


class Responses:
    """The responses of one generator.

    Args:
        folder: The folder of all stages.
        generator: The generator of the responses.
        states: The stage that saves hidden states that come with the responses.
    """

    def __init__(self, folder: Path, generator: Generator, states: States | None) -> None:
        self._generator: Generator | None = generator
        self._states = states
        self._num: int | None = generator.num_responses
        self.stage = ResultFile(folder, "responses", given_by(generator))

    def on(self, device: str) -> "Responses":
        """A copy with models on another device, not loaded yet; a generator that manages devices itself is kept."""
        other = copy.copy(self)
        other._generator = self._generator.on(device) if self._generator else None
        other._states = self._states.on(device) if self._states else None
        return other

    def fill(self, tasks: Iterable[Task], report: Report) -> None:
        """Generate the missing responses for a chunk of tasks, and save them together.

        Args:
            tasks: The tasks of the chunk.
            report: Called with the numbers of new responses.
        """
        assert self._generator is not None
        by_count: dict[int, list[Task]] = {}
        for task in tasks:
            if self.lacks(task):
                by_count.setdefault(self.count(task), []).append(task)
        for count, waiting in sorted(by_count.items()):
            missing = range(count, _ALL if self._num is None else self._num)
            self._keep(self._generator.generate(waiting, missing, report), missing)

    def count(self, task: Task) -> int:
        """How many of the requested responses to a task are saved."""
        there = len(self.stage.numbers(asked_key(task), _RESPONSE))
        return there if self._num is None else min(there, self._num)

    def lacks(self, task: Task) -> bool:
        """Whether responses to a task are missing that the generator can still give."""
        count = self.count(task)
        enough = bool(count) if self._num is None else count >= self._num
        return not enough and not self.stage.numbers(asked_key(task), _REFUSAL)

    def of(self, task: Task) -> Kept:
        """The saved responses to a task."""
        key = asked_key(task)
        numbers = None if self._num is None else range(self._num)
        rows = self.stage.read(key, _RESPONSE, numbers).values()
        refusal = self.stage.read(key, _REFUSAL)
        return Kept([Response(**json.loads(row)) for row in rows], refusal[0].decode() if refusal else None)

    def _keep(self, made: Iterable[Generated], numbers: range) -> None:
        """Save responses together, their states first: after a kill, no response is saved without its states."""
        found = list(made)
        complete = [(each, numbers[: len(each.responses)]) for each in found if each.response_states is not None]
        if self._states is not None and complete:
            self._states.keep((each, taken, taken) for each, taken in complete)
        rows: dict[str, dict[str, dict[int, bytes]]] = {}
        for each in found:
            numbered = zip(numbers, each.responses, strict=False)
            of = {_RESPONSE: {number: json.dumps(asdict(response)).encode() for number, response in numbered}}
            if len(each.responses) < len(numbers) and self._num is not None:
                of[_REFUSAL] = {0: (each.refusal or "no more responses").encode()}
            rows[asked_key(each.task)] = of
        self.stage.write(rows)


@dataclass(frozen=True)
class StageWork:
    """Generates responses, or reads their states, for chunks of tasks.

    Args:
        chunks: The chunks of all tasks.
        responses: The stage of responses.
        states: The stage of states to read; None to generate responses instead.
    """

    chunks: Chunks[Task]
    responses: Responses
    states: States | None = None

    def on(self, device: str) -> "StageWork":
        """A copy on another device."""
        return StageWork(self.chunks, self.responses.on(device), self.states.on(device) if self.states else None)

    def do(self, number: int, report: Report) -> None:
        """Process the chunk with this number."""
        if self.states:
            self.states.fill(self.chunks[number], self.responses, report)
        else:
            self.responses.fill(self.chunks[number], report)


class Verdicts:
    """The verdicts of a verifier on a generator's responses.

    Args:
        folder: The folder of all stages.
        responses: The responses to judge.
        verifier: The verifier that judges them.
        described: The settings that the responses depend on.
    """

    def __init__(self, folder: Path, responses: Responses, verifier: Verifier, described: Mapping[str, Any]) -> None:
        self._responses, self._verifier = responses, verifier
        self.stage = ResultFile(folder, "verdicts", {"verifier": verifier.settings(), **described})

    def fill(self, tasks: Iterable[Task], report: Report) -> None:
        """Judge the responses of a chunk of tasks that have no verdict yet, and save the verdicts together.

        Args:
            tasks: The tasks of the chunk.
            report: Called with the numbers of new verdicts.
        """
        waiting: list[tuple[Task, int, str]] = []
        for task in tasks:
            responses, there = self._responses.of(task).responses, self.stage.numbers(judged_key(task))
            missing = [number for number in range(len(responses)) if number not in there]
            waiting += [(task, number, responses[number].text) for number in missing]
        rows: dict[str, dict[str, dict[int, bytes]]] = {}
        verdicts = self._verifier.verify((task, text) for task, _, text in waiting)
        for (task, number, _), verdict in zip(waiting, verdicts, strict=True):
            of = rows.setdefault(judged_key(task), {"": {}})
            of[""][number] = json.dumps(asdict(verdict)).encode()
            report(1, 0)
        self.stage.write(rows)

    def count(self, task: Task) -> int:
        """How many of a task's requested responses have a saved verdict."""
        return min(len(self.stage.numbers(judged_key(task))), self._responses.count(task))

    def of(self, task: Task, count: int) -> list[Verdict]:
        """The verdicts of a task's first responses."""
        rows = self.stage.read(judged_key(task), numbers=range(count))
        return [Verdict(**json.loads(rows[number])) for number in range(count)]


def asked_key(task: Task) -> str:
    """The hash of everything that the responses to a task depend on."""
    recorded = [asdict(replace(response, label=None)) for response in task.responses]
    for response in recorded:
        del response["self_certainty"]  # no source gives it, and earlier versions had no such field
    return _hash([task.query_id, list(map(dict, task.messages)), recorded])


def judged_key(task: Task) -> str:
    """The hash of everything that the verdicts on a task's responses depend on."""
    return _hash([asked_key(task), task.query, task.reference, [each.label for each in task.responses]])


def given_by(generator: Generator) -> dict[str, Any]:
    """The settings and weights of a generator that responses depend on."""
    settings, model = generator.settings(), generator.language_model
    return settings | model.folder_weights if model is not None and "model" in settings else settings


def read_by(reader: LanguageModel) -> dict[str, Any]:
    """The settings of a reader that states depend on."""
    fields = {field.name for field in dataclasses.fields(LanguageModel)}
    described = {name: value for name, value in LanguageModel.settings(reader).items() if name in fields}
    return {**described, "sha256": reader.checked_hash}


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def _numbers(made: Generated) -> list[int]:
    return [int(response.id) for response in made.responses]


def _packed(vector: Float[Tensor, " D"]) -> bytes:
    return vector.float().cpu().numpy().tobytes()


def _unpacked(value: bytes) -> Float[Tensor, " D"]:
    return torch.from_numpy(np.frombuffer(value, dtype=np.float32).copy())
