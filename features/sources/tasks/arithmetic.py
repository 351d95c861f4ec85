"""arithmetic: sums, differences and products of two numbers, a task for very small language models."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Interval, MinLen

from features.texts.subsets import draw_key
from features.texts.tasks import Task
from language_models.chat_template import Message
from registry import SOURCES, ConfigError
from registry.ranges import Seed

Operation = Literal["sum", "difference", "product"]

_SMALLEST = 2


@dataclass(frozen=True)
class _Kind:
    sign: str
    result: Callable[[int, int], int]
    example: tuple[int, int]


_KINDS: dict[Operation, _Kind] = {
    "sum": _Kind("+", lambda a, b: a + b, (14, 27)),
    "difference": _Kind("-", lambda a, b: a - b, (63, 28)),
    "product": _Kind("*", lambda a, b: a * b, (6, 13)),
}


@SOURCES.register("arithmetic")
class Arithmetic:
    """Each query asks for one result, after three solved examples as earlier turns of the chat.

    It needs no download, and responses have about a dozen tokens, so all steps from a model to a trained ranker take
    minutes. The reference is the result, for the verifier `final_number`.

    Args:
        num_train: Number of training problems, drawn evenly from the operations.
        num_test: Number of test problems, all different from the training problems.
        operations: The operations to ask for.
        largest: Largest term of sums and differences; differences are never negative.
        largest_factor: Largest factor of products.
        seed: Seed of all random draws.
    """

    def __init__(
        self,
        num_train: Annotated[int, Interval(ge=0, le=1_000_000)] = 1200,
        num_test: Annotated[int, Interval(ge=0, le=1_000_000)] = 400,
        operations: Annotated[list[Operation], MinLen(1)] | None = None,
        largest: Annotated[int, Interval(ge=_SMALLEST, le=1_000_000)] = 99,
        largest_factor: Annotated[int, Interval(ge=_SMALLEST, le=1_000_000)] = 30,
        seed: Seed = 0,
    ) -> None:
        if num_train + num_test == 0:
            raise ValueError("num_train and num_test are both 0: set one of them")
        self.num_train, self.num_test, self.seed = num_train, num_test, seed
        self.operations: list[Operation] = list(_KINDS) if operations is None else list(dict.fromkeys(operations))
        self.largest, self.largest_factor = largest, largest_factor

    def fingerprint(self) -> dict[str, Any]:
        """The options."""
        return {"name": "arithmetic", **vars(self)}

    def problems(self) -> Iterator[Task]:
        """Yield the training problems, then the test problems; the operations alternate.

        Raises:
            ConfigError: If there are not enough different problems.
        """
        total = self.num_train + self.num_test
        drawn = [self._drawn(operation, place, total) for place, operation in enumerate(self.operations)]
        for number in range(total):
            turn, which = divmod(number, len(drawn))
            operation, terms = self.operations[which], drawn[which][turn]
            asked = _asked(operation, terms)
            messages = [*_solved(), _message("user", asked)]
            split = "train" if number < self.num_train else "test"
            id = f"{operation}-{terms[0]}-{terms[1]}"
            yield Task(id, asked, messages, str(_KINDS[operation].result(*terms)), split=split, origin=id)

    def _drawn(self, operation: Operation, place: int, total: int) -> list[tuple[int, int]]:
        """The terms of all problems of an operation, all different, in the order of the draws."""
        number = len(range(place, total, len(self.operations)))
        largest = self.largest_factor if operation == "product" else self.largest
        numbers = range(_SMALLEST, largest + 1)
        there = [
            (a, b)
            for a in numbers
            for b in numbers
            if (a, b) != _KINDS[operation].example and (operation != "difference" or a >= b)
        ]
        if number > len(there):
            problem = f"there are only {len(there)} different problems of the kind {operation}, not {number}."
            cure = "set fewer problems, or a larger features.source.largest or largest_factor"
            raise ConfigError("features.source", problem, cure=cure)
        return sorted(there, key=lambda terms: draw_key(self.seed, f"{operation} {terms}"))[:number]


def _solved() -> Iterator[Message]:
    for operation, kind in _KINDS.items():
        yield _message("user", _asked(operation, kind.example))
        yield _message("assistant", f"{_written(operation, kind.example)} = {kind.result(*kind.example)}")


def _asked(operation: Operation, terms: tuple[int, int]) -> str:
    return f"Calculate {_written(operation, terms)}."


def _written(operation: Operation, terms: tuple[int, int]) -> str:
    return f"{terms[0]} {_KINDS[operation].sign} {terms[1]}"


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}
