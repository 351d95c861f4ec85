"""Asker: asks a language model, never the same twice, and counts what the answers cost."""

import json
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from language_models.asking.replies import Chat, Reply, Writer
from language_models.asking.reply_cache import ReplyCache
from language_models.backbone import Backbone

# How many likelihoods are computed before they are stored.
_TOGETHER = 64


@dataclass
class Cost:
    """What answers cost; those from the cache count as when they were first given.

    Args:
        calls: Number of answers.
        cached: Number of answers that were taken from the cache.
        prompt_tokens: Number of tokens that the model read, where it is known.
        new_tokens: Number of tokens that it wrote, where it is known.
        seconds: Time that it took; answers given together share it.
        faults: Number of answers with each fault.
    """

    calls: int = 0
    cached: int = 0
    prompt_tokens: int = 0
    new_tokens: int = 0
    seconds: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)

    def results(self, num_queries: int) -> dict[str, Any]:
        """All numbers, and the means over queries, as plain values."""
        counts = {**asdict(self), "seconds": round(self.seconds, 3), "faults": dict(+self.faults)}
        names = ("calls", "prompt_tokens", "new_tokens", "seconds")
        means = {name: round(counts[name] / max(1, num_queries), 3) for name in names}
        return {"queries": num_queries, **counts, "a_query": means}


class Asker:
    """Asks chats; answers are on disk, so that a run that was stopped continues where it was.

    Args:
        writer: The language model.
        cache: The file of cached answers; several runs may share it.
    """

    def __init__(self, writer: Writer, cache: str | Path) -> None:
        self.writer, self.cost = writer, Cost()
        weights = writer.folder_weights if isinstance(writer, Backbone) else {}
        self._settings, self._cache = writer.settings() | weights, ReplyCache(Path(cache))

    def ask(self, chats: Sequence[Chat]) -> list[str]:
        """The answer to each chat; empty if the model refuses it, which is counted."""
        found = self._known(chats, [None] * len(chats))
        missing = self._missing(chats, found)
        began = time.perf_counter()
        for number, reply in enumerate(self.writer.replies([chats[places[0]] for places in missing])):
            spent, began = time.perf_counter() - began, time.perf_counter()
            kept = self._keep(chats[missing[number][0]], None, {**asdict(reply), "seconds": spent})
            for place in missing[number]:
                found[place] = kept
        answers = []
        for each in found:
            assert each is not None, "a writer gave fewer replies than chats"
            self._count(each)
            answers.append(each["text"])
        return answers

    def likelihoods(self, chats: Sequence[Chat], answers: Sequence[str]) -> list[list[float]] | None:
        """The log-probability of each of these answers to each chat, in nats; None if the model does not tell."""
        found = self._known(chats, [list(answers)] * len(chats))
        missing = self._missing(chats, found)
        for start in range(0, len(missing), _TOGETHER):
            part, began = missing[start : start + _TOGETHER], time.perf_counter()
            values = self.writer.likelihoods([chats[places[0]] for places in part], answers)
            if values is None:
                return None
            spent = (time.perf_counter() - began) / len(part)
            for places, each in zip(part, values, strict=True):
                reply = {**asdict(Reply("", new_tokens=0)), "values": each, "seconds": spent}
                kept = self._keep(chats[places[0]], list(answers), reply)
                for place in places:
                    found[place] = kept
        for each in found:
            assert each is not None
            self._count(each)
        return [each["values"] for each in found if each is not None]

    def close(self) -> None:
        """Close the file of answers."""
        self._cache.close()

    def _known(self, chats: Sequence[Chat], answers: Sequence[Any]) -> list[dict[str, Any] | None]:
        found: list[dict[str, Any] | None] = []
        for chat, choices in zip(chats, answers, strict=True):
            text, reply = self._cache.get(self._request(chat, choices)), None
            with suppress(ValueError):
                reply = None if text is None else json.loads(text)
            self.cost.cached += reply is not None
            found.append(reply)
        return found

    def _missing(self, chats: Sequence[Chat], found: Sequence[Any]) -> list[list[int]]:
        """The places of each chat without an answer; a chat that is there several times is asked once."""
        alike: dict[str, list[int]] = {}
        for place, (chat, reply) in enumerate(zip(chats, found, strict=True)):
            if reply is None:
                alike.setdefault(json.dumps([dict(message) for message in chat]), []).append(place)
        self.cost.cached += sum(len(places) - 1 for places in alike.values())
        return list(alike.values())

    def _keep(self, chat: Chat, answers: Any, reply: dict[str, Any]) -> dict[str, Any]:
        # A refusal may have had a passing reason, such as a server's moderation.
        if reply["refusal"] is None:
            self._cache.put(self._request(chat, answers), json.dumps(reply))
        return reply

    def _count(self, reply: dict[str, Any]) -> None:
        cost = self.cost
        cost.calls += 1
        cost.prompt_tokens += reply["prompt_tokens"] or 0
        cost.new_tokens += reply["new_tokens"] or 0
        cost.seconds += reply["seconds"]
        if reply["refusal"] is not None:
            cost.faults[f"refused: {reply['refusal']}"] += 1

    def _request(self, chat: Chat, answers: Any) -> dict[str, Any]:
        asked = {"model": self._settings, "messages": [dict(message) for message in chat]}
        return asked if answers is None else {**asked, "answers": answers}
