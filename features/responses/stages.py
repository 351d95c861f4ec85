"""Response stages: responses, their hidden states and their verdicts, each made once and kept.

All of a chunk of problems is kept at once, or nothing: what a killed run has to do again it does in the same company,
so that it comes out the same to the last bit.
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
from features.responses.result_file import Stage
from features.responses.states import with_states
from features.texts.tasks import Problem, Response
from features.verification.verdict import Verdict, Verifier
from language_models.language_model import LanguageModel

Report = Callable[[int, int], None]
"""Called with numbers of responses and tokens that were worked on."""

_PROMPT, _ALL = -1, 1 << 30
_RESPONSE, _REFUSAL, _SEEN = "response", "refusal", "seen"


@dataclass(frozen=True)
class Kept:
    """What a generator gave for a problem.

    Args:
        responses: In the order of their numbers.
        refusal: Why there are none, or no more.
    """

    responses: Sequence[Response]
    refusal: str | None = None


class States:
    """The hidden states of a generator's responses.

    Args:
        folder: Where they are kept.
        reader: Says which depths, and reads them where the generator did not keep them.
        described: What the responses depend on.
    """

    def __init__(self, folder: Path, reader: LanguageModel, described: Mapping[str, Any]) -> None:
        self._reader = reader
        self._parts = [f"state {depth:g} {reader.layer_offset:+d}" for depth in reader.depths]
        self.stage = Stage(folder, "states", {"reader": read_by(reader), **described})

    def on(self, device: str) -> "States":
        """The same with a reader on a device, not loaded yet."""
        other = copy.copy(self)
        other._reader = replace(self._reader, device=device)
        return other

    def keep(self, made: Iterable[tuple[Generated, Sequence[int], Sequence[int]]]) -> None:
        """Keep states that came with responses.

        Args:
            made: Each with the numbers of its responses, and of all that were looked at, for which nothing is to be
                read again.
        """
        self.stage.write({asked_key(each.problem): self._rows(each, *numbers) for each, *numbers in made})

    def fill(self, problems: Iterable[Problem], responses: "Responses", report: Report) -> None:
        """Read what is not there yet of a chunk of problems; kept together.

        Args:
            problems: To be worked on together.
            responses: Whose states.
            report: Told of new states.
        """
        waiting = []
        for problem in problems:
            kept = responses.of(problem).responses
            if self.lacks(problem, len(kept)):
                waiting.append(Generated(problem, [replace(each, id=str(n)) for n, each in enumerate(kept)]))
        if waiting:
            found = zip(waiting, with_states(self._reader, waiting, report), strict=True)
            self.keep((each, _numbers(each), _numbers(asked)) for asked, each in found)

    def lacks(self, problem: Problem, count: int) -> bool:
        """Whether states of a problem's first responses are missing."""
        key = asked_key(problem)
        dropped = self.stage.numbers(key, _SEEN)
        return any(not set(range(count)) <= self.stage.numbers(key, part) | dropped for part in self._parts)

    def of(self, problem: Problem, count: int) -> tuple[dict[int, Float[Tensor, "L D"]], Float[Tensor, "L D"] | None]:
        """The states of a problem's first responses, by number, and of its prompt; without those that had no room."""
        rows = [self.stage.read(asked_key(problem), part, range(_PROMPT, count)) for part in self._parts]
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
        folder: Where they are kept.
        generator: Gives them.
        states: Keeps hidden states that come with them.
    """

    def __init__(self, folder: Path, generator: Generator, states: States | None) -> None:
        self._generator: Generator | None = generator
        self._states = states
        self._num: int | None = generator.num_responses
        self.stage = Stage(folder, "responses", generator.settings())

    def on(self, device: str) -> "Responses":
        """The same with models on a device, not loaded yet; a generator that sees to its devices stays behind."""
        other = copy.copy(self)
        other._generator = self._generator.on(device) if self._generator else None
        other._states = self._states.on(device) if self._states else None
        return other

    def fill(self, problems: Iterable[Problem], report: Report) -> None:
        """Make what is not there yet for a chunk of problems; kept together.

        Args:
            problems: To be worked on together.
            report: Told of new responses.
        """
        assert self._generator is not None
        by_count: dict[int, list[Problem]] = {}
        for problem in problems:
            if self.lacks(problem):
                by_count.setdefault(self.count(problem), []).append(problem)
        for count, waiting in sorted(by_count.items()):
            missing = range(count, _ALL if self._num is None else self._num)
            self._keep(self._generator.generate(waiting, missing, report), missing)

    def count(self, problem: Problem) -> int:
        """How many of the wanted responses to a problem are there."""
        there = len(self.stage.numbers(asked_key(problem), _RESPONSE))
        return there if self._num is None else min(there, self._num)

    def lacks(self, problem: Problem) -> bool:
        """Whether more responses to a problem are to be had."""
        count = self.count(problem)
        enough = bool(count) if self._num is None else count >= self._num
        return not enough and not self.stage.numbers(asked_key(problem), _REFUSAL)

    def of(self, problem: Problem) -> Kept:
        """The responses to a problem."""
        key = asked_key(problem)
        numbers = None if self._num is None else range(self._num)
        rows = self.stage.read(key, _RESPONSE, numbers).values()
        refusal = self.stage.read(key, _REFUSAL)
        return Kept([Response(**json.loads(row)) for row in rows], refusal[0].decode() if refusal else None)

    def _keep(self, made: Iterable[Generated], numbers: range) -> None:
        """Keep all of these together, their states first: where these are lacking, so are the responses."""
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
            rows[asked_key(each.problem)] = of
        self.stage.write(rows)


@dataclass(frozen=True)
class StageWork:
    """Chunks of problems that are responded to, or whose responses are read.

    Args:
        chunks: Of all problems.
        responses: To them.
        states: Read where they are missing; None to make responses instead.
    """

    chunks: Chunks[Problem]
    responses: Responses
    states: States | None = None

    def on(self, device: str) -> "StageWork":
        """The same on a device."""
        return StageWork(self.chunks, self.responses.on(device), self.states.on(device) if self.states else None)

    def do(self, number: int, report: Report) -> None:
        """Work on a chunk."""
        if self.states:
            self.states.fill(self.chunks[number], self.responses, report)
        else:
            self.responses.fill(self.chunks[number], report)


class Verdicts:
    """What a verifier says of a generator's responses.

    Args:
        folder: Where they are kept.
        responses: Which are judged.
        verifier: Judges them.
        described: What the responses depend on.
    """

    def __init__(self, folder: Path, responses: Responses, verifier: Verifier, described: Mapping[str, Any]) -> None:
        self._responses, self._verifier = responses, verifier
        self.stage = Stage(folder, "verdicts", {"verifier": verifier.settings(), **described})

    def fill(self, problems: Iterable[Problem], report: Report) -> None:
        """Judge what is not judged yet of a chunk of problems; kept together.

        Args:
            problems: To be judged together.
            report: Told of new verdicts.
        """
        waiting: list[tuple[Problem, int, str]] = []
        for problem in problems:
            responses, there = self._responses.of(problem).responses, self.stage.numbers(judged_key(problem))
            missing = [number for number in range(len(responses)) if number not in there]
            waiting += [(problem, number, responses[number].text) for number in missing]
        rows: dict[str, dict[str, dict[int, bytes]]] = {}
        verdicts = self._verifier.verify((problem, text) for problem, _, text in waiting)
        for (problem, number, _), verdict in zip(waiting, verdicts, strict=True):
            of = rows.setdefault(judged_key(problem), {"": {}})
            of[""][number] = json.dumps(asdict(verdict)).encode()
            report(1, 0)
        self.stage.write(rows)

    def count(self, problem: Problem) -> int:
        """How many verdicts on a problem's wanted responses are there."""
        return min(len(self.stage.numbers(judged_key(problem))), self._responses.count(problem))

    def of(self, problem: Problem, count: int) -> list[Verdict]:
        """The verdicts of a problem's first responses."""
        rows = self.stage.read(judged_key(problem), numbers=range(count))
        return [Verdict(**json.loads(rows[number])) for number in range(count)]


def asked_key(problem: Problem) -> str:
    """What the responses to a problem depend on, as a hash."""
    recorded = [asdict(replace(response, label=None)) for response in problem.responses]
    return _hash([problem.query_id, list(map(dict, problem.messages)), recorded])


def judged_key(problem: Problem) -> str:
    """What the verdicts on a problem's responses depend on, as a hash."""
    return _hash([asked_key(problem), problem.query, problem.reference, [each.label for each in problem.responses]])


def read_by(reader: LanguageModel) -> dict[str, Any]:
    """What states depend on, of all that a reader may be told."""
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
