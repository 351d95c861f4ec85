"""responses: a group store of what a language model answers, labelled by rule, with its hidden states."""

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from rich.console import Console

from features.chunks import Chunks, chunks_of
from features.devices import share_out
from features.generators.transformers import TransformersGenerator
from features.language_model import LanguageModel
from features.problems import Problem, ProblemSource, Response
from features.progress import WorkProgress
from features.response_stages import Responses, StageWork, States, Verdicts
from features.rule_verifier import DEFAULT_WORKERS, Workers, build_verifier
from features.verification import Verdict
from ranking.group_shard import BEAM
from ranking.group_store import GroupStore
from ranking.group_store_writer import GroupStoreWriter, check_settings
from ranking.store_files import as_json, write_file
from registry import EXTRACTORS, GENERATORS, SOURCES, VERIFIERS, ConfigError, Node

REPORT = "report.json"
_GROUPS_A_SHARD = 128
_JUDGED_TOGETHER = 64
_MOST_TOLD = 12
_FEWEST_BEAMS = 2


@EXTRACTORS.register("responses")
class ResponsesExtractor:
    """Asks a language model, judges its responses, reads its hidden states, and builds a group store of all that.

    Responses, states and verdicts are kept in `stages` beside the store, each under the hash of what it depends on.
    So a run that was stopped goes on, and one with more responses, more depths or another verifier does only what is
    new.

    Args:
        source: Where problems come from.
        generator: What responds to them.
        verifier: What labels the responses; null for none.
        reader: The model whose hidden states are kept, with `depths`; null for the generator's own.
        path: The folder of the store; by default `data/<source>-<model>-<hash of all settings>`.
        stages: The folder of what is kept; by default `stages` beside the store.
        dtype: Of the stored vectors.
        chunk_size: Problems that are worked on, and kept, together; null for enough to keep the generator busy.
        workers: The processes of a verifier that is a plain function.
        beams: Width of a beam search whose best response is stored beside the sampled ones, as the baseline `beam`;
            null for none. Only the generator `transformers` searches.
        devices: How many processes respond and read, each with the model on its own GPU where there are any.
    """

    def __init__(
        self,
        source: Annotated[Node, SOURCES],
        generator: Annotated[Node, GENERATORS],
        verifier: Annotated[Node, VERIFIERS] | None = None,
        reader: LanguageModel | None = None,
        path: str | None = None,
        stages: str | None = None,
        dtype: Literal["float16", "bfloat16", "float32"] = "float16",
        chunk_size: int | None = None,
        workers: Workers = DEFAULT_WORKERS,
        beams: int | None = None,
        devices: int = 1,
    ) -> None:
        self.source: ProblemSource = SOURCES.build(source, path="features.source")  # type: ignore[assignment]
        if not isinstance(self.source, ProblemSource):
            known = [name for name in SOURCES.names() if hasattr(SOURCES.get(name), "problems")]
            raise ConfigError("features.source", "gives no problems to respond to.", known=known)
        self.generator: Any = GENERATORS.build(generator, path="features.generator")
        self.verifier = build_verifier(verifier, workers) if verifier is not None else None
        given = self.generator if isinstance(self.generator, LanguageModel) else None
        self.reader = reader or given
        if self.reader is None or not self.reader.depths:
            where = "features.reader" if self.reader is None or reader else "features.generator"
            cure = f"{where}: {{model: ..., depths: [0.6]}}"
            raise ConfigError(f"{where}.depths", "no hidden states are asked for.", cure=cure)
        if (chunk_size is not None and chunk_size < 1) or devices < 1:
            raise ValueError(f"chunk_size ({chunk_size}) and devices ({devices}) must be at least 1")
        if devices > 1 and (self.reader.device_map or getattr(self.generator, "device_map", None)):
            cure = "devices: 1, for device_map spreads one model over all GPUs"
            raise ConfigError("features.devices", "cannot be had together with device_map.", cure=cure)
        self.devices, self.beam_generator = devices, None
        if beams is not None:
            if not isinstance(self.generator, TransformersGenerator):
                cure = "beams: null, or the generator `transformers`"
                name = self.generator.settings()["name"]
                raise ConfigError("features.beams", f"the generator {name} cannot search.", cure=cure)
            if beams < _FEWEST_BEAMS:
                raise ValueError(f"beams ({beams}) must be at least {_FEWEST_BEAMS}, or null")
            # All that sampling alone depends on is left at its default, so that it changes nothing here.
            drawing = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "seed": 0}
            self.beam_generator = replace(self.generator, num_beams=beams, num_responses=1, depths=[], **drawing)
        self.dtype, self._path, self._stages, self._chunk_size = dtype, path, stages, chunk_size

    @cached_property
    def path(self) -> Path:
        """The folder of the store, finished or not."""
        if self._path:
            return Path(self._path)
        digest = hashlib.sha256(json.dumps(self.settings(), sort_keys=True).encode()).hexdigest()
        model = Path(getattr(self.generator, "model", "recorded")).name.lower()
        return Path("data") / f"{self.source.fingerprint()['name']}-{model}-{digest[:8]}"

    def settings(self) -> dict[str, Any]:
        """All that the store's content depends on."""
        assert self.reader is not None
        return {
            "extractor": "responses",
            "source": self.source.fingerprint(),
            "generator": self.generator.settings(),
            "num_responses": self.generator.num_responses,
            "reader": LanguageModel.settings(self.reader),
            "depths": list(self.reader.depths),
            "layer_offset": self.reader.layer_offset,
            "verifier": self.verifier.settings() if self.verifier else None,
            "dtype": self.dtype,
            **({"beams": self.beam_generator.num_beams} if self.beam_generator else {}),
        }

    def run(self, *, to_train: bool = False) -> Path:
        """Build the store, unless it is there.

        Args:
            to_train: Whether a ranker will be trained on it: then a verifier is needed.

        Raises:
            ConfigError: If the data, the model or the verifier is not as it should be.
            StoreError: If the store that is there was made with other settings, or cannot be written.
        """
        path, settings = self.path, json.loads(json.dumps(self.settings()))
        if path.exists():
            check_settings(path, GroupStore.open(path).manifest["settings"], settings)
            return path
        if to_train and self.verifier is None:
            cure = "features.verifier: a name from `python -m registry verifiers`"
            raise ConfigError("features.verifier", "without one there are no labels to learn from.", cure=cure)
        return _Build(self, settings).run()

    @property
    def chunk_size(self) -> int:
        """How many problems are worked on together."""
        if self._chunk_size is not None:
            return self._chunk_size
        # Several batches' worth: where responses end, those of the next problem take their places.
        return max(1, 4 * getattr(self.generator, "batch_size", 64) // (self.generator.num_responses or 10))

    @property
    def folder(self) -> Path:
        """Where stages are kept."""
        return Path(self._stages) if self._stages else self.path.parent / "stages"


@dataclass(frozen=True)
class _Labelled:
    """A problem with all that goes into the store."""

    problem: Problem
    query: torch.Tensor
    responses: list[Response]
    states: list[torch.Tensor]
    verdicts: list[Verdict]
    valid: list[bool]


class _Answers:
    """What one generator says to all problems: responses, their states and their verdicts."""

    def __init__(self, extractor: ResponsesExtractor, generator: Any) -> None:
        assert extractor.reader is not None
        self.generator, self.reader, described = generator, extractor.reader, {"generator": generator.settings()}
        self.states = States(extractor.folder, extractor.reader, described)
        self.responses = Responses(extractor.folder, generator, self.states)
        self.verdicts = None
        if extractor.verifier is not None:
            self.verdicts = Verdicts(extractor.folder, self.responses, extractor.verifier, described)

    def num_read(self, problem: Problem) -> int:
        return 0 if self.unread(problem) else self.responses.count(problem)

    def unread(self, problem: Problem) -> bool:
        return self.states.lacks(problem, self.responses.count(problem))

    def verdicts_of(self, problem: Problem, count: int) -> list[Verdict]:
        return self.verdicts.of(problem, count) if self.verdicts else [Verdict(None, "no verifier")] * count


class _Build:
    """One build: stage after stage, then the store."""

    def __init__(self, extractor: ResponsesExtractor, settings: dict[str, Any]) -> None:
        self.extractor, self.settings, self.console = extractor, settings, Console(stderr=True)
        self.sampled = _Answers(extractor, extractor.generator)
        self.searched = _Answers(extractor, extractor.beam_generator) if extractor.beam_generator else None
        self.counts: dict[str, Counter[str]] = {"problems": Counter(), "responses": Counter(), "verdicts": Counter()}

    def run(self) -> Path:
        num_problems = self._survey()
        num_responses = num_problems * (self.extractor.generator.num_responses or 0) or self._num_recorded()
        self._answer(self.sampled, num_responses, "Responding")
        if self.searched:
            # One copy of the weights serves both.
            vars(self.searched.generator).update(
                {name: value for name, value in vars(self.extractor.generator).items() if name == "loaded"}
            )
            self._answer(self.searched, num_problems, "Searching")
        return self._store()

    def _answer(self, answers: _Answers, total: int, doing: str) -> None:
        """All stages of what a generator says."""
        responses, states, size = answers.responses, answers.states, self.extractor.chunk_size
        chunks = Chunks(self.extractor.source.problems, size)
        with WorkProgress(total, self.console, doing=doing, done="Got", unit="responses") as bar:
            self._do(StageWork(chunks, responses), answers.generator, bar, responses.count, responses.lacks)
        with WorkProgress(total, self.console, doing="Reading", done="Read", unit="responses") as bar:
            self._do(StageWork(chunks, responses, states), answers.reader, bar, answers.num_read, answers.unread)
        if answers.verdicts is not None:
            with WorkProgress(total, self.console, doing="Judging", done="Judged", unit="responses") as bar:
                for chunk in chunks_of(self._problems(), max(size, _JUDGED_TOGETHER)):
                    bar.skip(sum(map(answers.verdicts.count, chunk)))
                    answers.verdicts.fill(chunk, bar.report)

    def _do(
        self,
        work: StageWork,
        model: Any,
        bar: WorkProgress,
        count: Callable[[Problem], int],
        lacks: Callable[[Problem], bool],
    ) -> None:
        """What is left to do of a stage, in one process or in several."""
        waiting = []
        for number, chunk in enumerate(chunks_of(self._problems(), self.extractor.chunk_size)):
            bar.skip(sum(map(count, chunk)))
            if any(map(lacks, chunk)):
                waiting.append(number)
        # Other generators than `transformers` see to their devices themselves.
        shared = isinstance(model, TransformersGenerator if work.states is None else LanguageModel)
        devices = min(self.extractor.devices, len(waiting)) if shared else 1
        if devices > 1:
            folder, gpus = str(self.extractor.folder), model.device != "cpu"
            share_out(work, waiting, devices, bar.report, gpus=gpus, kept_in=folder)
        else:
            for number in waiting:
                work.do(number, bar.report)

    def _problems(self) -> Iterator[Problem]:
        return self.extractor.source.problems()

    def _survey(self) -> int:
        """How many problems there are; reads all of the source, so that bad data shows before work."""
        count = sum(1 for _ in self._problems())
        if not count:
            raise ConfigError("features.source", "has no problem.")
        return count

    def _num_recorded(self) -> int:
        return sum(len(problem.responses) for problem in self._problems())

    def _store(self) -> Path:
        reader = self.extractor.reader
        assert reader is not None
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
        assert reader is not None
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
        """Each problem that has responses; counts what happened to all."""
        for problem in self._problems():
            kept = self.sampled.responses.of(problem)
            if not kept.responses:
                self.counts["problems"][kept.refusal or "no response"] += 1
                continue
            count = len(kept.responses)
            states, query = self.sampled.states.of(problem, count)
            if query is None:
                self.counts["problems"]["prompt or responses too long to be read"] += 1
                continue
            verdicts = self.sampled.verdicts_of(problem, count)
            numbers = [number for number in range(count) if number in states]
            self._count(kept.responses, verdicts, numbers)
            found = _Labelled(
                problem,
                query,
                [kept.responses[number] for number in numbers],
                [states[number] for number in numbers],
                [verdicts[number] for number in numbers],
                [True] * len(numbers),
            )
            self._add_searched(found)
            yield found

    def _add_searched(self, found: _Labelled) -> None:
        """Put what the beam search found beside the responses, as none of them."""
        if self.searched is None:
            return
        best = self.searched.responses.of(found.problem).responses[:1]
        states, _ = self.searched.states.of(found.problem, len(best))
        if best and 0 in states:
            found.responses.append(replace(best[0], id=BEAM))
            found.states.append(states[0])
            found.verdicts.extend(self.searched.verdicts_of(found.problem, 1))
            found.valid.append(False)
        self.counts["problems"]["with a beam"] += bool(best and 0 in states)

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
            label = "no label" if verdict.label is None else f"{verdict.label:g}"
            # The kind of a reason: what follows is different in each response.
            reason = verdict.reason.partition(":")[0]
            self.counts["verdicts"][f"{label}: {reason}" if reason else label] += 1

    def _add_groups(self, writer: GroupStoreWriter, chunk: list[_Labelled], num_candidates: int) -> None:
        responses = [response for each in chunk for response in each.responses]
        verdicts = [verdict for each in chunk for verdict in each.verdicts]
        nan = float("nan")
        writer.add_groups(
            ids=[each.problem.query_id for each in chunk],
            texts=[each.problem.query for each in chunk],
            features=torch.stack([each.query for each in chunk]),
            offsets=torch.tensor([0, *itertools.accumulate(len(each.responses) for each in chunk)]),
            candidate=torch.arange(num_candidates - len(responses), num_candidates),
            label=torch.tensor([nan if verdict.label is None else verdict.label for verdict in verdicts]),
            slot_ids=[response.id for response in responses],
            valid=torch.tensor([valid for each in chunk for valid in each.valid]),
            split=[each.problem.split for each in chunk],
            responses={
                "answer": torch.tensor([_answer(verdict.answer) for verdict in verdicts]),
                "log_probability": torch.tensor(
                    [nan if each.log_probability is None else each.log_probability for each in responses]
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
    """An answer as a number, the same for the same answer; 0 for none."""
    if answer is None:
        return 0
    return int.from_bytes(hashlib.blake2b(answer.encode(), digest_size=8).digest(), "little", signed=True) or 1
