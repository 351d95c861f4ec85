"""Card: what a repository's page says about a ranker; every number on it is one of the run's `metrics.json`."""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import EvalResult, ModelCardData

from rankers.base import Ranker
from rankers.pool_ranker import PoolRanker
from registry import RANKERS
from registry.config import to_yaml
from serving.hub.results import Benchmark, by_k_table, monitored, scores_table
from serving.hub.usage import QUERY_SIDE, task_of, usage_of

_CODE = "https://www.apache.org/licenses/LICENSE-2.0"


@dataclass(frozen=True)
class Card:
    """The card of a ranker.

    Args:
        name: The repository, as `user/name`.
        description: What `Ranker.description` returns, without folders of this machine.
        num_weights: How many numbers the repository's weights are.
        relation: What they are to the backbone: an `adapter` of it, or a `finetune`; None for weights beside it.
        metrics: The run's `metrics.json`; None if nobody has judged the ranker.
        config: The run's config; None if it is not known.
        licence: The licence of the weights, as the hub names it; None if it is not decided.
        benchmark: The benchmark of the hub that the test queries are of; None if there is none.
        has_query_side: Whether the repository has files for sentence-transformers.
    """

    name: str
    description: Mapping[str, Any]
    num_weights: int
    relation: Literal["adapter", "finetune"] | None = None
    metrics: Mapping[str, Any] | None = None
    config: Mapping[str, Any] | None = None
    licence: str | None = None
    benchmark: Benchmark | None = None
    has_query_side: bool = False

    def text(self, *, with_results: bool = False) -> str:
        """The card in Markdown.

        Args:
            with_results: Whether the metadata hold the results, as versions of huggingface_hub without
                `EvalResultEntry` read them (`model-index`).
        """
        parts = [
            f"---\n{self._metadata(with_results=with_results).to_yaml()}\n---",
            f"# {self.name.partition('/')[2]}",
            *self._what(),
            "## Use\n\nWith the package `rankers`, of which this repository holds a trained ranker:",
            f"```python\n{usage_of(self._ranker, self.description, self.name)}\n```",
            *self._query_side(),
            "## Results",
            *self._results(),
            "## Data",
            "\n".join(f"- {line}" for line in self._data()),
            "## Limits",
            "\n".join(f"- {line}" for line in self._limits()),
            "## Licence",
            self._licence(),
            "## Settings",
            f"```yaml\n{to_yaml({'ranker': self.description['ranker']}).strip()}\n```",
        ]
        return "\n\n".join(parts) + "\n"

    @property
    def _options(self) -> Mapping[str, Any]:
        return self.description["ranker"]

    @property
    def _ranker(self) -> type[Ranker[Any]]:
        return RANKERS.get(self._options["name"])

    @property
    def _models(self) -> dict[str, Mapping[str, Any]]:
        """The language models that the ranker needs, by what they do."""
        found = {"backbone": self._options.get("backbone"), "encoder": self.description["encoder"]}
        return {role: model for role, model in found.items() if model}

    def _metadata(self, *, with_results: bool) -> ModelCardData:
        bases = sorted({str(model["model"]) for model in self._models.values()})
        known: dict[str, Any] = {
            "license": self.licence,
            "pipeline_tag": task_of(self._ranker),
            "base_model": bases or None,
            "base_model_relation": self.relation if bases else None,
            "datasets": [self.benchmark.dataset] if self.benchmark else None,
        }
        results = None
        if self.metrics is not None:
            known["metrics"] = list(self.metrics["test"]["scorers"][self._options["name"]])
            results = [self._result()] if with_results else None
        return ModelCardData(
            library_name="rankers",
            tags=["rankers", "ranking", self._options["name"], *["sentence-transformers"] * self.has_query_side],
            model_name=self.name.partition("/")[2] if results else None,
            eval_results=results,
            **{key: value for key, value in known.items() if value is not None},
        )

    def _result(self) -> EvalResult:
        assert self.metrics is not None
        name, found = monitored(self.metrics, self._options["name"])
        data = self.benchmark.dataset if self.benchmark else self._source
        return EvalResult(
            task_type=task_of(self._ranker) or "recommendation",
            dataset_type=data,
            dataset_name=data,
            dataset_split="test",
            metric_type=name,
            metric_value=found["mean"],
        )

    def _what(self) -> Iterator[str]:
        about = (inspect.getdoc(self._ranker) or "").split("\n\n")
        own = [
            " ".join(part.split()) for part in about if not part.startswith(("Args:", "Note:", "Raises:", "Example:"))
        ]
        yield "\n\n".join(own[:2])
        trained = ", with the whole of its trained backbone" if self.relation == "finetune" else ""
        needs = " and ".join(f"`{model['model']}` as its {role}" for role, model in self._models.items())
        loads = f" Loading it takes {needs} from the hub." if needs else ""
        yield f"This repository holds {self.num_weights:,} numbers, the ranker's own{trained}.{loads}"

    def _query_side(self) -> Iterator[str]:
        if self.has_query_side:
            yield "With sentence-transformers and peft, to embed queries alone as this ranker does:"
            yield f"```python\n{QUERY_SIDE.format(name=self.name)}\n```"

    def _results(self) -> Iterator[str]:
        if self.metrics is None:
            yield "Nobody has judged this ranker: there is no `metrics.json` with it."
            return
        name, test = self._options["name"], self.metrics["test"]
        yield (
            f"Means over {test['queries']:,} test queries, with 95 % bootstrap intervals over queries; differences are "
            "paired. The other rows are references without training, judged on the same queries."
        )
        yield scores_table(self.metrics, name)
        if by_k := self.metrics.get("by_k"):
            yield "By the number of responses to choose from:"
            yield by_k_table(by_k)
        if scaling := self.metrics.get("scaling"):
            chosen = f"width {scaling['width']} and depth {scaling['depth']} of" if scaling["depth"] else "no"
            yield f"Validation chose {chosen} test-time scaling."
        yield "All numbers are in `metrics.json`."

    @property
    def _source(self) -> str:
        features = (self.config or {}).get("features") or {}
        source = features.get("source")
        if source:
            return source if isinstance(source, str) else str(source["name"])
        path = ((self.config or {}).get("datamodule") or {}).get("path")
        return Path(path).name if path else "unknown"

    def _data(self) -> Iterator[str]:
        yield (
            "Where it is from is not known."
            if self._source == "unknown"
            else f"Trained and judged on `{self._source}`."
        )
        if self.metrics is not None:
            val, test, steps = self.metrics["val"]["queries"], self.metrics["test"]["queries"], self.metrics["steps"]
            yield f"{val:,} queries chose the checkpoint, {test:,} others test it."
            yield f"Trained for {steps:,} steps with seed {self.metrics['seed']}; commit {_commit(self.metrics)}."
        for role, model in self._models.items():
            revision = f" at {model['revision']}" if model.get("revision") else ""
            yield f"The {role} is `{model['model']}`{revision}; its weights must have the sha256 `{model['sha256']}`."

    def _limits(self) -> Iterator[str]:
        yield "Other data than that above has not been tried."
        yield "Scores order the candidates of one query; they are no probabilities."
        if (longest := self._options.get("max_length")) is not None:
            yield f"Of longer texts, the ends are cut off (`max_length: {longest}`)."
        if self._options["name"] == "lranker":
            yield "The pool that it ranks has to be built with the same encoder."
        elif issubclass(self._ranker, PoolRanker):
            yield "Items are known by their rows in the pool of the training, which is not here."
        if self._ranker.learn_from is not Ranker.learn_from:
            yield "It keeps what it took from the training data, such as vectors or users' numbers, in its weights."
        for module in self.description["imports"]:
            yield f"Its module `{module}` is not in this repository: put it beside your program, or install it."

    def _licence(self) -> str:
        own = f"The weights: {self.licence}." if self.licence else "No licence has been named for the weights."
        return f"{own} The code is under [Apache-2.0]({_CODE}). Base models and data have licences of their own."


def _commit(metrics: Mapping[str, Any]) -> str:
    return f"`{metrics['made_with']['commit']}`" if metrics.get("made_with", {}).get("commit") else "unknown"
