"""Prompted: the base of all rankers that ask a language model in words, and count what the answers cost."""

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Any, ClassVar, Unpack

from language_models.asking.asker import Asker, Cost
from language_models.asking.replies import Chat, Writer
from language_models.precision import print_once
from rankers.base import AnyBatch, Reporting, Untrained
from registry import GENERATORS, ConfigError, Node
from registry.ranges import Count, FilePath, SamplingTemperature

DEFAULT_GENERATOR: Node = "transformers"


class ModelOptions(Reporting, total=False):
    """Options of all rankers that ask a language model."""

    generator: Annotated[Node, GENERATORS]
    temperature: SamplingTemperature
    max_new_tokens: Count
    cache: FilePath


class Prompted(Untrained[AnyBatch]):
    """A ranker without weights of its own that asks a language model.

    Answers are cached, and what they cost is in the run's results as `asked`. An answer that cannot be used is counted
    there as a fault, and never ends a run.

    Args:
        generator: The language model: `transformers`, `openai_compatible` or `vllm`, with its options; the ranker sets
            its temperature, length and number of responses.
        temperature: Divisor of the logits; 0 always takes the likeliest token.
        max_new_tokens: Longest answer in tokens.
        cache: The file of answers, by model and question; a run that was stopped takes its answers from there.
    """

    takes_shared_negatives: ClassVar[bool] = True

    def __init__(
        self,
        *,
        generator: Annotated[Node, GENERATORS] = DEFAULT_GENERATOR,
        temperature: float = 0.0,
        max_new_tokens: int = 256,
        cache: str = "data/answers.sqlite",
        **reporting: Unpack[Reporting],
    ) -> None:
        super().__init__(**reporting)
        self._cache = cache
        model: Any = GENERATORS.build(generator, path="ranker.generator")
        try:
            self._writer: Writer = model.asking(temperature=temperature, max_new_tokens=max_new_tokens)
        except ValueError as error:
            cure = "another generator, or options of the ranker"
            raise ConfigError("ranker.generator", f"{error}.", cure=cure) from error
        self._split = ""
        self._costs: dict[str, Cost] = {}
        self._num_queries: Counter[str] = Counter()

    def check_backbone(self, *, download: bool) -> None:
        """Refuse a language model that cannot be asked."""
        self._writer.check(download=download)

    def ask(self, chats: Sequence[Chat]) -> list[str]:
        """The answer to each chat; empty where the model refuses it."""
        return self._asker.ask(chats)

    def count(self, num_queries: int) -> Cost:
        """Count queries; returns where the cost and the faults of their answers are counted.

        Args:
            num_queries: How many queries the next questions are about.
        """
        self._num_queries[self._split] += num_queries
        self._asker.cost = self._costs.setdefault(self._split, Cost())
        return self._asker.cost

    def on_validation_epoch_start(self) -> None:
        """Count what is asked from here on as validation."""
        self._begin("val")
        super().on_validation_epoch_start()

    def on_test_epoch_start(self) -> None:
        """Count what is asked from here on as test."""
        self._begin("test")
        super().on_test_epoch_start()

    def on_test_epoch_end(self) -> None:
        """Judge, and print what the answers cost."""
        super().on_test_epoch_end()
        cost, queries = self._costs.get("test", Cost()), self._num_queries["test"]
        faults = "".join(f"; {number:,} x {fault}" for fault, number in sorted(cost.faults.items()) if number)
        print_once(
            f"{self.name} asked {cost.calls:,} times about {queries:,} queries: {cost.prompt_tokens:,} tokens read, "
            f"{cost.new_tokens:,} written, {cost.seconds:,.0f} s; {cost.cached:,} answers from the cache{faults}"
        )

    def findings(self) -> dict[str, Any]:
        """What the answers cost in validation and test, in this process."""
        return {"asked": {split: cost.results(self._num_queries[split]) for split, cost in self._costs.items()}}

    def _begin(self, split: str) -> None:
        self._split = split
        self._costs[split], self._num_queries[split] = Cost(), 0

    @cached_property
    def _asker(self) -> Asker:
        return Asker(self._writer, self._cache)
