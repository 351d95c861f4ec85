"""responses: builds a group store of a language model's responses, with labels of a verifier and hidden states."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Interval

from features.building.extractor import Extractor, build_source
from features.responses.generation import Generator
from features.texts.tasks import Task, TaskSource
from features.verification.workers import DEFAULT_WORKERS, Workers, build_verifier
from language_models.backbone import Backbone
from language_models.encoder import Encoder
from language_models.language_model import LanguageModel
from registry import EXTRACTORS, GENERATORS, SOURCES, VERIFIERS, ConfigError, Node
from registry.ranges import Few, FilePath, Rows

_FEWEST_BEAMS = 2


@EXTRACTORS.register("responses")
class ResponsesExtractor(Extractor):
    """Samples responses of a language model, judges them, reads hidden states, and builds a group store.

    Responses, states and verdicts are saved in `stages` beside the store, keyed by the hash of everything that they
    depend on. So a run that was stopped continues, and a run with more responses, more depths or another verifier
    computes only what is new.

    Args:
        source: The source of tasks.
        generator: The generator of the responses.
        verifier: The verifier that labels the responses; null for no labels.
        reader: The model whose hidden states are stored, with `depths`; null for the generator's model.
        stages: The folder of saved responses, states and verdicts; by default `stages` beside the store.
        dtype: Number format of the stored vectors.
        chunk_size: Number of tasks that are processed and saved together; null for enough to keep the generator
            busy.
        workers: The processes of a verifier that is a plain function.
        beams: Width of a beam search whose best response is stored with the sampled responses, as the baseline `beam`;
            null for no beam search. Only the generator `transformers` supports it.
        devices: Number of processes that sample responses and read states, each with the model on its own GPU if there
            are GPUs.
    """

    unit = "problems"
    source: TaskSource

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
        super().__init__(build_source(source, TaskSource), path)
        self.generator: Generator = GENERATORS.build(generator, path="features.generator")
        self.verifier = build_verifier(verifier, workers) if verifier is not None else None
        given = self.generator.language_model
        reads = reader or given
        self._reads = "reader" if reader else "generator"
        if reads is None or not reads.depths:
            where = "features.reader" if reads is None or reader else "features.generator"
            cure = f"{where}: {{model: ..., depths: [0.6]}}"
            raise ConfigError(f"{where}.depths", "no depths of hidden states are set.", cure=cure)
        self.reader = reads
        if devices > 1 and (self.reader.device_map or (given and given.device_map)):
            cure = "set devices: 1, because device_map distributes one model over all GPUs"
            raise ConfigError("features.devices", "cannot be combined with device_map.", cure=cure)
        self.devices, self.beams, self.beam_generator = devices, beams, None
        if beams is not None:
            self.beam_generator = self.generator.searching(beams)
            if self.beam_generator is None:
                cure = "set beams: null, or use the generator `transformers`"
                name = self.generator.settings()["name"]
                raise ConfigError("features.beams", f"the generator {name} has no beam search.", cure=cure)
        self.dtype, self._stages, self._chunk_size = dtype, stages, chunk_size

    @property
    def made_with(self) -> str:
        """The name of the generator's model in the default path."""
        return Path(self.generator.model).name.lower()

    @property
    def models(self) -> Mapping[str, Backbone]:
        """The models in this process: the generator, unless it is a server, and the reader."""
        given = self.generator.language_model
        return {**({"generator": given} if given else {}), "reader": self.reader}

    @property
    def makes_vectors(self) -> tuple[str, Encoder | LanguageModel] | None:
        """The reader, which is the generator if no other is set."""
        return self._reads, self.reader

    def settings(self) -> dict[str, Any]:
        """All settings that the content of the store depends on."""
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

    def items(self) -> Iterator[Task]:
        """All tasks."""
        return self.source.problems()

    def build(self, settings: dict[str, Any], *, to_train: bool) -> Path:
        """Sample responses to all tasks, judge them, read their states, and write the store."""
        if to_train and self.verifier is None:
            cure = "set features.verifier to a name from `python -m registry verifiers`"
            raise ConfigError("features.verifier", "without a verifier there are no labels to learn from.", cure=cure)
        # Imported here, because that module imports this class.
        from features.responses.build import ResponseBuild

        return ResponseBuild(self, settings).run()

    @property
    def chunk_size(self) -> int:
        """How many tasks are processed together."""
        if self._chunk_size is not None:
            return self._chunk_size
        # Several batches: when responses end, those of the next task take their rows.
        return max(1, 4 * self.generator.num_at_once // (self.generator.num_responses or 10))

    @property
    def folder(self) -> Path:
        """The folder of the stages."""
        return Path(self._stages) if self._stages else self.path.parent / "stages"
