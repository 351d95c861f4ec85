"""What was answered before a stop is stored, and is not asked again."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from language_models.asking.asker import Asker
from language_models.asking.replies import Chat, Reply
from language_models.language_model import LanguageModel


class Writer:
    """Says how long a chat is; stops after a number of chats."""

    def __init__(self, stops_after: int = 1_000_000) -> None:
        self.left, self.num_asked = stops_after, 0

    def settings(self) -> dict[str, Any]:
        return {"name": "stub"}

    def asking(self, *, temperature: float, max_new_tokens: int) -> "Writer":
        return self

    def prepare(self) -> None:
        pass

    def check(self, *, download: bool) -> None:
        pass

    def replies(self, chats: Sequence[Chat]) -> Iterator[Reply]:
        for chat in chats:
            self._spend(1)
            yield Reply(str(len(chat[0]["content"])), 3, 1)

    def likelihoods(self, chats: Sequence[Chat], answers: Sequence[str]) -> list[list[float]]:
        self._spend(len(chats))
        return [[-float(len(chat[0]["content"])), -1.0] for chat in chats]

    def _spend(self, number: int) -> None:
        self.left -= number
        self.num_asked += number
        if self.left < 0:
            raise KeyboardInterrupt


CHATS = [[{"role": "user", "content": "a" * length}] for length in range(150)]


@pytest.mark.parametrize("kind", ["replies", "likelihoods"])
def test_a_stopped_run_takes_its_answers_from_the_file(kind: str, tmp_path: Path) -> None:
    def ask(writer: Writer) -> tuple[list[Any], Asker]:
        asker = Asker(writer, tmp_path / "answers.sqlite")
        found = asker.ask(CHATS) if kind == "replies" else asker.likelihoods(CHATS, ["a", "b"])
        assert found is not None
        return found, asker

    with pytest.raises(KeyboardInterrupt):
        ask(Writer(stops_after=70))
    second = Writer()
    found, asker = ask(second)
    kept = 70 if kind == "replies" else 64
    assert second.num_asked == 150 - kept and asker.cost.cached == kept and asker.cost.calls == 150
    expected = [str(length) for length in range(150)]
    assert found == (expected if kind == "replies" else [[-float(length), -1.0] for length in range(150)])
    third = Writer(stops_after=0)
    assert ask(third)[0] == found and third.num_asked == 0


class InFolder(LanguageModel, Writer):
    """A model in a folder, which says the hash of its weights."""

    def replies(self, chats: Sequence[Chat]) -> Iterator[Reply]:
        return (Reply(self.checked_hash) for _ in chats)


def test_other_weights_in_the_same_folder_are_asked(tmp_path: Path) -> None:
    for weights in (b"one", b"two"):
        (tmp_path / "model.safetensors").write_bytes(weights)
        writer = InFolder(model=str(tmp_path))
        assert Asker(writer, tmp_path / "answers.sqlite").ask(CHATS[:1]) == [hashlib.sha256(weights).hexdigest()]
