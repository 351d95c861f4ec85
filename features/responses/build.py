"""ResponseBuild: makes responses, verdicts and hidden states from tasks, then a group store from these."""

import hashlib
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from console.decimals import short
from console.progress import WorkProgress
from features.building.chunks import Chunks, chunks_of
from features.building.processes import share_out
from features.extractors.responses import ResponsesExtractor
from features.responses.generation import Generator
from features.responses.stages import Responses, StageWork, States, Verdicts, given_by
from features.texts.tasks import Response, Task
from features.verification.verdict import Verdict
from language_models.language_model import LanguageModel
from ranking.stores.files import as_json, write_file
from ranking.stores.group_store_writer import GroupStoreWriter
from registry import ConfigError

REPORT = "report.json"
_GROUPS_A_SHARD = 128
_JUDGED_TOGETHER = 64
_MOST_TOLD = 12


@dataclass(frozen=True)
class _Labelled:
    """A task with all its data for the store."""

    task: Task
    query: torch.Tensor
    responses: list[Response]
    states: list[torch.Tensor]
    verdicts: list[Verdict]
    beam: tuple[str, float] | None


class _Answers:
    """The output of one generator for all tasks: responses, their states and their verdicts."""

    def __init__(self, extractor: ResponsesExtractor, generator: Generator) -> None:
        described, folder = {"generator": given_by(generator)}, extractor.folder
        self.generator, self.reader = generator, extractor.reader
        self.states = States(folder, self.reader, described)
        self.responses = Responses(folder, generator, self.states)
        self.verdicts = None
        if extractor.verifier is not None:
            self.verdicts = Verdicts(folder, self.responses, extractor.verifier, described)

    def num_read(self, task: Task) -> int:
        return 0 if self.unread(task) else self.responses.count(task)

    def unread(self, task: Task) -> bool:
        return self.states.lacks(task, self.responses.count(task))

    def verdicts_of(self, task: Task, count: int) -> list[Verdict]:
        return self.verdicts.of(task, count) if self.verdicts else [Verdict(None, "no verifier")] * count


class ResponseBuild:
    """One build: first all stages, then the store.

    Args:
        extractor: The extractor with the options of the build.
        settings: All settings that the content of the store depends on.
    """

    def __init__(self, extractor: ResponsesExtractor, settings: dict[str, Any]) -> None:
        self.extractor, self.settings, self.console = extractor, settings, Console(stderr=True)
        self.sampled = _Answers(extractor, extractor.generator)
        self.searched = _Answers(extractor, extractor.beam_generator) if extractor.beam_generator else None
        self.counts: dict[str, Counter[str]] = {"problems": Counter(), "responses": Counter(), "verdicts": Counter()}

    def run(self) -> Path:
        """Build the store; return its folder.

        Raises:
            ConfigError: If the data, the model or the verifier has a mistake.
            StoreError: If a file cannot be written.
        """
        num_problems = self._survey()
        num_responses = num_problems * (self.extractor.generator.num_responses or 0) or self._num_recorded()
        self._answer(self.sampled, num_responses, "Responding")
        if self.searched:
            self._answer(self.searched, num_problems, "Searching")
        return self._store()

    def _answer(self, answers: _Answers, total: int, doing: str) -> None:
        """Execute all stages of a generator."""
        responses, states, size = answers.responses, answers.states, self.extractor.chunk_size
        chunks = Chunks(self.extractor.source.problems, size)
        with WorkProgress(total, self.console, doing=doing, done="Got", unit="responses") as bar:
            model = answers.generator.language_model if answers.generator.on("cpu") else None
            self._do(StageWork(chunks, responses), model, bar, responses.count, responses.lacks)
        with WorkProgress(total, self.console, doing="Reading", done="Read", unit="responses") as bar:
            self._do(StageWork(chunks, responses, states), answers.reader, bar, answers.num_read, answers.unread)
        if answers.verdicts is not None:
            with WorkProgress(total, self.console, doing="Judging", done="Judged", unit="responses") as bar:
                for chunk in chunks_of(self._tasks(), max(size, _JUDGED_TOGETHER)):
                    bar.skip(sum(map(answers.verdicts.count, chunk)))
                    answers.verdicts.fill(chunk, bar.report)

    def _do(
        self,
        work: StageWork,
        model: LanguageModel | None,
        bar: WorkProgress,
        count: Callable[[Task], int],
        lacks: Callable[[Task], bool],
    ) -> None:
        """Do the rest of a stage, in one process, or in several if its model can run on several devices."""
        waiting = []
        for number, chunk in enumerate(chunks_of(self._tasks(), self.extractor.chunk_size)):
            bar.skip(sum(map(count, chunk)))
            if any(map(lacks, chunk)):
                waiting.append(number)
        devices = min(self.extractor.devices, len(waiting)) if model else 1
        if devices > 1:
            folder, gpus = str(self.extractor.folder), model is not None and model.device != "cpu"
            share_out(work, waiting, devices, bar.report, gpus=gpus, kept_in=folder)
        else:
            if waiting and model:
                model.prepare()
                bar.restart()
            for number in waiting:
                work.do(number, bar.report)

    def _tasks(self) -> Iterator[Task]:
        return self.extractor.source.problems()

    def _survey(self) -> int:
        """Read the whole source, to find bad data before the work; return the number of tasks."""
        count = sum(1 for _ in self._tasks())
        if not count:
            raise ConfigError("features.source", "has no problem.")
        return count

    def _num_recorded(self) -> int:
        return sum(len(task.responses) for task in self._tasks())

    def _store(self) -> Path:
        writer, num_candidates, num_groups = None, 0, 0
        try:
            for chunk in chunks_of(self._labelled(), _GROUPS_A_SHARD):
                if writer is None:
                    writer = self._writer(chunk[0].query)
                num_candidates += sum(len(each.responses) for each in chunk)
                num_groups += len(chunk)
                if num_candidates > writer.num_candidates:
                    states = torch.stack([state for each in chunk for state in each.states])
                    writer.add_candidates(states, [one.text for each in chunk for one in each.responses])
                if num_groups > writer.num_groups:
                    self._add_groups(writer, chunk, num_candidates)
            if writer is None:
                told = ", ".join(f"{reason}: {count}" for reason, count in self.counts["problems"].items())
                raise ConfigError("features", f"no problem got a response ({told}).")
            report = self._report()
            write_file(writer.partial / REPORT, as_json(report))
            path = writer.finish()
        finally:
            if writer is not None:
                writer.close()
        self._tell(report)
        return path

    def _writer(self, query: torch.Tensor) -> GroupStoreWriter:
        reader = self.extractor.reader
        return GroupStoreWriter(
            self.extractor.path,
            feature_dim=query.shape[1],
            depths=list(reader.depths),
            dtype=self.extractor.dtype,
            settings=self.settings,
            encoder=reader.identity(),
            source={**self.settings["source"], "model": reader.model, "sha256": reader.checked_hash},
        )

    def _labelled(self) -> Iterator[_Labelled]:
        """Yield each task that has responses, and count the outcomes of all tasks."""
        for task in self._tasks():
            kept = self.sampled.responses.of(task)
            if not kept.responses:
                self.counts["problems"][kept.refusal or "no response"] += 1
                continue
            count = len(kept.responses)
            states, query = self.sampled.states.of(task, count)
            if query is None:
                self.counts["problems"]["prompt or responses too long to be read"] += 1
                continue
            verdicts = self.sampled.verdicts_of(task, count)
            numbers = [number for number in range(count) if number in states]
            self._count(kept.responses, verdicts, numbers)
            yield _Labelled(
                task,
                query,
                [kept.responses[number] for number in numbers],
                [states[number] for number in numbers],
                [verdicts[number] for number in numbers],
                self._searched(task),
            )

    def _searched(self, task: Task) -> tuple[str, float] | None:
        """What the beam search found, and its label; an empty text where it found nothing."""
        if self.searched is None:
            return None
        best = self.searched.responses.of(task).responses[:1]
        self.counts["problems"]["with a beam"] += bool(best)
        if not best:
            return "", math.nan
        (verdict,) = self.searched.verdicts_of(task, 1)
        return best[0].text, math.nan if verdict.label is None else verdict.label

    def _count(self, responses: Any, verdicts: list[Verdict], numbers: list[int]) -> None:
        counts, texts = self.counts["responses"], [responses[number].text for number in numbers]
        self.counts["problems"]["with responses"] += 1
        counts["kept"] += len(numbers)
        counts["too long to be read"] += len(responses) - len(numbers)
        counts["empty"] += sum(not text.strip() for text in texts)
        counts["repeated"] += len(texts) - len(set(texts))
        counts["cut at the longest length"] += sum(responses[number].finish == "length" for number in numbers)
        for number in numbers:
            verdict = verdicts[number]
            label = "no label" if verdict.label is None else short(verdict.label)
            # Only the kind of the reason: what follows the colon differs between responses.
            reason = verdict.reason.partition(":")[0]
            self.counts["verdicts"][f"{label}: {reason}" if reason else label] += 1

    def _add_groups(self, writer: GroupStoreWriter, chunk: list[_Labelled], num_candidates: int) -> None:
        responses = [response for each in chunk for response in each.responses]
        verdicts = [verdict for each in chunk for verdict in each.verdicts]
        beams = [each.beam for each in chunk if each.beam is not None]
        nan = math.nan
        writer.add_groups(
            ids=[each.task.query_id for each in chunk],
            texts=[each.task.query for each in chunk],
            features=torch.stack([each.query for each in chunk]),
            offsets=torch.tensor([0, *itertools.accumulate(len(each.responses) for each in chunk)]),
            candidate=torch.arange(num_candidates - len(responses), num_candidates),
            label=torch.tensor([nan if verdict.label is None else verdict.label for verdict in verdicts]),
            slot_ids=[response.id for response in responses],
            beams=beams or None,
            split=[each.task.split for each in chunk],
            known={
                "answer": torch.tensor([_answer(verdict.answer) for verdict in verdicts]),
                "log_probability": torch.tensor(
                    [nan if each.log_probability is None else each.log_probability for each in responses]
                ),
                "self_certainty": torch.tensor(
                    [nan if each.self_certainty is None else each.self_certainty for each in responses]
                ),
                "num_tokens": torch.tensor([-1 if each.tokens is None else len(each.tokens) for each in responses]),
            },
        )

    def _report(self) -> dict[str, Any]:
        return {what: dict(sorted(counts.items())) for what, counts in self.counts.items()}

    def _tell(self, report: dict[str, Any]) -> None:
        for what, counts in report.items():
            shown = sorted((-count, name) for name, count in counts.items() if count)
            line = ", ".join(f"{name} {-count:,}" for count, name in shown[:_MOST_TOLD])
            more = f" and {len(shown) - _MOST_TOLD} more in {REPORT}" if len(shown) > _MOST_TOLD else ""
            self.console.print(f"{what}: {line}{more}", highlight=False, soft_wrap=True)


def _answer(answer: str | None) -> int:
    """An answer as a number; equal answers give equal numbers, no answer gives 0."""
    if answer is None:
        return 0
    return int.from_bytes(hashlib.blake2b(answer.encode(), digest_size=8).digest(), "little", signed=True) or 1
