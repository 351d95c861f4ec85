"""alpaca_eval_graded: the instructions of AlpacaEval with the outputs of several models, each with its preference."""

import glob
import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from annotated_types import MinLen
from rich.console import Console

from features.reading.downloads import Download
from features.reading.fields import LineError, Record, as_number, id_field, mixed, text_field, unexpected
from features.reading.published import PublishedData
from features.texts.groups import Candidate, TextGroup
from features.texts.prompts import instruction
from features.texts.tasks import Response, Task
from registry import SOURCES, ConfigError
from registry.ranges import FilePath, Text

_SITE = "https://raw.githubusercontent.com/tatsu-lab/alpaca_eval"
_COMMITS = {
    "FuseChat-Llama-3.2-1B-Instruct": "8d731d8dbeee2900acbc5b685cd71dd2d48eeff2",
    "FuseChat-Qwen-2.5-7B-Instruct": "8bb6e576861e8c199557254e10d39782552f8c08",
    "OpenHermes-2.5-Mistral-7B": "e3771ad64d7f46f4565eabd7f4e293ebab360ffe",
    "Qwen-14B-Chat": "424a057a294f0b7633e4ca82358415141c2924d3",
    "alpaca-7b": "4c747831311c5658b332078c36dd87431d8aac0b",
    "chatglm2-6b": "e3771ad64d7f46f4565eabd7f4e293ebab360ffe",
    "claude-2.1": "a023f53f41defc4dd0365862a9f5130bd274d835",
    "falcon-7b-instruct": "60916e171e8c1d5bd29bf4ee53a74fcec048d152",
    "gemma-2b-it": "4517ba88e8677c3c35a96782bb95fcebca86762e",
    "gemma-7b-it": "ef5d0d5a5792d1f8fc475dd5ef990c7ade265b90",
    "gpt-3.5-turbo-1106": "ca5c2dc979207f8db833b9175f393e825a54e5ef",
    "gpt35_turbo_instruct": "440b87e6d73e6da9e67099b8f17e5f18ccbf4274",
    "oasst-sft-pythia-12b": "e3771ad64d7f46f4565eabd7f4e293ebab360ffe",
    "phi-2-sft": "e3771ad64d7f46f4565eabd7f4e293ebab360ffe",
    "text_davinci_003": "e3771ad64d7f46f4565eabd7f4e293ebab360ffe",
    "vicuna-13b-v1.5": "a9123e15dcddbfd3a565149b2036229f4b47cc80",
}
"""Sixteen models that win between 2 % and 65 % of the time, each with a commit that has its annotations."""
_ANNOTATOR = "weighted_alpaca_eval_gpt4_turbo"
_REFERENCE = "gpt4_1106_preview"


def _download(model: str, annotator: str) -> Download:
    commit = _COMMITS.get(model, "main") if annotator == _ANNOTATOR else "main"
    place = f"{model}/{annotator}/annotations.json"
    return Download(f"{_SITE}/{commit}/results/{place}", "Apache-2.0", file=f"alpaca_eval/{place}")


DOWNLOADS = {model: _download(model, _ANNOTATOR) for model in _COMMITS}


@SOURCES.register("alpaca_eval_graded")
class AlpacaEvalGraded:
    """AlpacaEval 2's instructions with outputs of several models; the label is how surely a judge prefers an output.

    Read as published, `results/MODEL/ANNOTATOR/annotations.json` of github.com/tatsu-lab/alpaca_eval. Its `preference`
    is 1 if the judge is sure of the reference's output and 2 if it is sure of the model's; the label is the preference
    for the model's, from 0 to 1. As the publisher counts, 0 is a draw; an output whose preference is null or NaN,
    because the judge failed, has no label. Empty outputs are left out and counted. The candidates of an instruction are
    in the order of the hashes of their texts, so their order says nothing about the model.

    Args:
        path: A clone of that repository, or its folder `results`; null downloads the files to `data/downloads`.
        models: The models whose outputs are the candidates: names of folders in `results`.
        annotator: The judge: the name of a folder of each model.
        reference: The generator of the outputs that all others were compared with.
    """

    def __init__(
        self,
        path: FilePath | None = None,
        models: Annotated[list[Text], MinLen(1)] = list(_COMMITS),  # noqa: B006
        annotator: Text = _ANNOTATOR,
        reference: Text = _REFERENCE,
    ) -> None:
        if len(set(models)) < len(models):
            problem = f"{max(models, key=models.count)!r} occurs twice."
            raise ConfigError("features.source.models", problem, cure="name each model once")
        if path is not None and Path(path).is_file():
            cure = "set the folder `results`, or the folder that has it"
            raise ConfigError("features.source.path", f"{path} is a file, expected a folder.", cure=cure)
        self.models, self.annotator, self.reference = models, annotator, reference
        files = {model: glob.escape(f"{model}/{annotator}/annotations.json") for model in models}
        parts = {model: [f"results/{file}", file] for model, file in files.items()}
        downloads = {model: _download(model, annotator) for model in models}
        self.data = PublishedData(path, parts, downloads, "a folder with results/MODEL/ANNOTATOR/annotations.json")
        self._told = False

    def fingerprint(self) -> dict[str, Any]:
        """The files or downloads, and the options."""
        options = {"models": self.models, "annotator": self.annotator, "reference": self.reference}
        return {"name": "alpaca_eval_graded", **self.data.fingerprint, **options}

    def groups(self) -> Iterator[TextGroup]:
        """Yield the instructions in the order of the files; one that several models answered occurs once.

        Raises:
            ConfigError: If a model has no annotations by this judge, or rows are bad.
        """
        reader = _Reader(self.reference)
        for model in self.models:
            if not self.data.files(model):
                problem = f"{self.data.path} has no annotations of {model!r} by {self.annotator}."
                raise ConfigError("features.source.models", problem, given=model, known=self._known())
            reader.read(self.data, model)
        for query, candidates in reader.candidates.items():
            yield TextGroup(_id_of(query), query, mixed(candidates), origin=reader.origins[query])
        if reader.num_empty and not self._told:
            self._told = True
            count = "one output" if reader.num_empty == 1 else f"{reader.num_empty:,} outputs"
            Console(stderr=True).print(f"Left out {count} whose text is empty.", highlight=False, soft_wrap=True)

    def problems(self) -> Iterator[Task]:
        """Yield the same with the outputs as responses, for a language model that reads them (`recorded`)."""
        for group in self.groups():
            responses = [Response(each.id, each.text, each.label) for each in group.candidates]
            prompt = instruction(group.query)
            yield Task(group.query_id, group.query, prompt, None, responses, origin=group.origin)

    def _known(self) -> list[str]:
        folder = Path(self.data.path or "")
        found = (folder / "results").glob(f"*/{glob.escape(self.annotator)}/annotations.json")
        found = [*found, *folder.glob(f"*/{glob.escape(self.annotator)}/annotations.json")]
        return sorted(file.parent.parent.name for file in found)


@dataclass
class _Reader:
    """Collects the candidates of each instruction, model by model."""

    reference: str
    candidates: dict[str, list[Candidate]] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    num_empty: int = 0

    def read(self, data: PublishedData, model: str) -> None:
        """Add all outputs of a model."""
        seen: dict[str, str] = {}

        def parse(record: Record, place: str) -> tuple[str, Candidate | None]:
            query = text_field(record, "instruction").strip()
            if (first := seen.setdefault(query, place)) != place:
                raise LineError("instruction", f"was already in {first}; expected each instruction once per model")
            self.origins.setdefault(query, f"{model}/{place}")
            return query, self._candidate(record, model)

        for query, candidate in data.rows(model, parse):
            if candidate is None:
                self.num_empty += 1
            else:
                self.candidates.setdefault(query, []).append(candidate)

    def _candidate(self, record: Record, model: str) -> Candidate | None:
        """The model's output with its label; None if it is empty."""
        generators = [id_field(record, key) for key in ("generator_1", "generator_2")]
        if self.reference not in generators:
            problem = f"found {generators[0]!r} and {generators[1]!r}, expected {self.reference!r} to be one of them"
            raise LineError("generator_1", problem, "set features.source.reference to the generator of the references")
        is_second = generators[0] == self.reference
        output = record.get("output_2" if is_second else "output_1")
        if isinstance(output, str) and not output.strip():
            return None
        preference = _preference(record)
        label = None if preference is None else preference - 1 if is_second else 2 - preference
        return Candidate(model, text_field(record, "output_2" if is_second else "output_1"), label)


def _preference(record: Record) -> float | None:
    """The preference, from 1 for the first output to 2 for the second; None if the judge failed."""
    value = record.get("preference")
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    preference = as_number("preference", value) or 1.5
    if not 1 <= preference <= 2:
        raise unexpected("preference", value, "a number from 1 to 2, or 0 for a draw")
    return preference


def _id_of(query: str) -> str:
    return f"alpaca_eval-{hashlib.sha256(query.encode()).hexdigest()[:12]}"
