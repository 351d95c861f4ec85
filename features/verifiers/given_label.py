"""given_label: the label that the source gives to a recorded response."""

from collections.abc import Iterable, Iterator
from typing import Any

from features.texts.tasks import Task
from features.verification.verdict import Verdict
from registry import VERIFIERS


@VERIFIERS.register("given_label")
class GivenLabel:
    """The label that the source gives to the response with this text."""

    def settings(self) -> dict[str, Any]:
        """Only the name, because the labels belong to the source."""
        return {"name": "given_label"}

    def verify(self, responses: Iterable[tuple[Task, str]]) -> Iterator[Verdict]:
        """Yield each label; None if the source has no such label, or equal responses have different labels."""
        for task, text in responses:
            labels = {given.label for given in task.responses if given.text.strip() == text.strip()}
            if len(labels) == 1 and (label := labels.pop()) is not None:
                yield Verdict(label)
            elif labels - {None}:
                yield Verdict(None, "labels contradict each other")
            else:
                yield Verdict(None, "no label given")
