"""States that could not be had are not asked for again."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from features.responses import stages
from features.responses.generation import Generated, Generator
from features.responses.stages import Responses, States, asked_key
from features.texts.tasks import Response, Task
from language_models.language_model import LanguageModel

TASK = Task("q", "a query", [{"role": "user", "content": "a query"}], responses=[Response("a", "short")] * 3)


class Writer(Generator):
    """Gives what a task has."""

    model = "none"
    num_responses = 3

    def settings(self) -> dict[str, Any]:
        return {}

    def generate(self, tasks: list[Task], numbers: range, report: Any) -> Iterator[Generated]:
        for task in tasks:
            yield Generated(task, [replace(each, id=str(n)) for n, each in enumerate(task.responses)])


def test_a_response_that_has_no_room_is_read_once(tmp_path: Path, monkeypatch: Any) -> None:
    read: list[int] = []

    def with_states(model: LanguageModel, generated: list[Generated], report: Any) -> Iterator[Generated]:
        for each in generated:
            read.append(len(each.responses))
            kept = [each.responses[0], each.responses[2]]
            yield replace(each, responses=kept, query_states=torch.zeros(1, 2), response_states=torch.ones(2, 1, 2))

    monkeypatch.setattr(stages, "with_states", with_states)
    monkeypatch.setattr(LanguageModel, "checked_hash", "0")
    states = States(tmp_path, LanguageModel(depths=[0.5]), {})
    responses = Responses(tmp_path, Writer(), None)
    responses.fill([TASK], lambda *counts: None)
    assert states.lacks(TASK, 3)
    for _ in range(2):
        states.fill([TASK], responses, lambda *counts: None)
    assert read == [3] and not states.lacks(TASK, 3)
    found, query = states.of(TASK, 3)
    assert sorted(found) == [0, 2] and query is not None


def test_results_of_recorded_responses_are_found_whatever_fields_responses_have_got_since() -> None:
    recorded = Response("a", "4", 1.0, log_probability=-0.5)
    task = Task("q", "2 + 2", [{"role": "user", "content": "2 + 2"}], responses=[recorded])
    # The key under which the first version wrote.
    assert asked_key(task) == "a7ef2a0b1e669b091d63ec00af92c815"


class InFolder(Writer):
    """A writer whose weights are in a folder."""

    def __init__(self, folder: Path) -> None:
        self.model = str(folder)

    @property
    def language_model(self) -> LanguageModel:
        return LanguageModel(model=self.model)

    def settings(self) -> dict[str, Any]:
        return {"model": self.model}


def test_responses_of_other_weights_in_the_same_folder_are_others(tmp_path: Path) -> None:
    for weights in ("one", "two"):
        (tmp_path / "model.safetensors").write_text(weights)
        for lacking in (True, False):
            responses = Responses(tmp_path, InFolder(tmp_path), None)
            assert responses.lacks(TASK) == lacking
            responses.fill([TASK], lambda *counts: None)
