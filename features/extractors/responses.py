"""responses: a group store of what a language model answers, labelled by rule, with its hidden states."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Interval

from features.building.extractor import Extractor, build_source
from features.responses.generation import Generator
from features.texts.tasks import Problem, ProblemSource
from features.verification.rule_verifier import DEFAULT_WORKERS, Workers, build_verifier
from language_models.backbone import Backbone
from language_models.language_model import LanguageModel
from registry import EXTRACTORS, GENERATORS, SOURCES, VERIFIERS, ConfigError, Node
from registry.ranges import Few, FilePath, Rows

_FEWEST_BEAMS = 2


@EXTRACTORS.register("responses")
class ResponsesExtractor(Extractor):
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

    unit = "problems"
    source: ProblemSource

    def __init__(
        self,
        source: Annotated[Node, SOURCES],
        generator: Annotated[Node, GENERATORS],
        verifier: Annotated[Node, VERIFIERS] | None = None,
        reader: LanguageModel | None = None,
        path: FilePath | None = None,
        stages: FilePath | None = None,
        dtype: Literal["float16", "bfloat16", "float32"] = "float16",
        chunk_size: Rows | None = None,
        workers: Workers = DEFAULT_WORKERS,
        beams: Annotated[int, Interval(ge=_FEWEST_BEAMS, le=1000)] | None = None,
        devices: Few = 1,
    ) -> None:
        super().__init__(build_source(source, "problems"), path)
        self.generator: Generator = GENERATORS.build(generator, path="features.generator")
        self.verifier = build_verifier(verifier, workers) if verifier is not None else None
        given = self.generator.language_model
        reads = reader or given
        if reads is None or not reads.depths:
            where = "features.reader" if reads is None or reader else "features.generator"
            cure = f"{where}: {{model: ..., depths: [0.6]}}"
            raise ConfigError(f"{where}.depths", "no hidden states are asked for.", cure=cure)
        self.reader = reads
        if devices > 1 and (self.reader.device_map or (given and given.device_map)):
            cure = "devices: 1, for device_map spreads one model over all GPUs"
            raise ConfigError("features.devices", "cannot be had together with device_map.", cure=cure)
        self.devices, self.beams, self.beam_generator = devices, beams, None
        if beams is not None:
            self.beam_generator = self.generator.searching(beams)
            if self.beam_generator is None:
                cure = "beams: null, or the generator `transformers`"
                name = self.generator.settings()["name"]
                raise ConfigError("features.beams", f"the generator {name} cannot search.", cure=cure)
        self.dtype, self._stages, self._chunk_size = dtype, stages, chunk_size

    @property
    def made_with(self) -> str:
        """What the usual path calls the generator's model."""
        return Path(self.generator.model).name.lower()

    @property
    def models(self) -> Mapping[str, Backbone]:
        """The generator, if it is a model in this process, and the reader."""
        given = self.generator.language_model
        return {**({"generator": given} if given else {}), "reader": self.reader}

    def settings(self) -> dict[str, Any]:
        """All that the store's content depends on."""
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
            **({"beams": self.beams} if self.beams else {}),
        }

    def items(self) -> Iterator[Problem]:
        """Every problem."""
        return self.source.problems()

    def build(self, settings: dict[str, Any], *, to_train: bool) -> Path:
        """Respond to all problems, judge, read and write."""
        if to_train and self.verifier is None:
            cure = "features.verifier: a name from `python -m registry verifiers`"
            raise ConfigError("features.verifier", "without one there are no labels to learn from.", cure=cure)
        # It reads this class.
        from features.responses.build import ResponseBuild

        return ResponseBuild(self, settings).run()

    @property
    def chunk_size(self) -> int:
        """How many problems are worked on together."""
        if self._chunk_size is not None:
            return self._chunk_size
        # Several batches' worth: where responses end, those of the next problem take their places.
        return max(1, 4 * self.generator.num_at_once // (self.generator.num_responses or 10))

    @property
    def folder(self) -> Path:
        """Where stages are kept."""
        return Path(self._stages) if self._stages else self.path.parent / "stages"
