"""Ranker: a LightningModule that scores the candidates of a query; subclasses write `forward`."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Generic, TypedDict, TypeVar, Unpack

import torch
from jaxtyping import Bool, Float
from lightning import LightningModule
from torch import Tensor

from rankers.judging.groups import GroupJudging
from rankers.judging.judging import Judging
from ranking.batch import Batch, FeatureBatch
from ranking.evaluation import Judged, Scored
from ranking.metrics import metric_name
from registry import LOSSES, METRICS, OPTIMIZERS, RANKERS, SCHEDULES, ConfigError, Node, schema
from registry.imports import imported_modules

AnyBatch = TypeVar("AnyBatch", bound=Batch)


class Reporting(TypedDict, total=False):
    """The evaluation options that all rankers share."""

    metrics: list[Annotated[Node, METRICS]]


class Training(Reporting, total=False):
    """The training and evaluation options of all rankers with weights."""

    loss: Annotated[Node, LOSSES] | None
    optimizer: Annotated[Node, OPTIMIZERS]
    schedule: Annotated[Node, SCHEDULES]


class NonFiniteLossError(ArithmeticError):
    """The training loss is NaN or infinite.

    Args:
        step: The number of the optimizer step, which was not taken.
        group: The numbers of the batch's groups in the store.
    """

    def __init__(self, step: int, group: list[int]) -> None:
        super().__init__(f"the loss of step {step} is not finite; groups in its batch: {group}")
        self.step, self.group = step, group


class Ranker(LightningModule, Generic[AnyBatch]):
    """Training, validation and test of any ranker.

    A subclass passes `**training` to this constructor, or without weights has the base `Untrained`, and implements
    `forward(batch)`. If the candidates are permuted, the scores must be permuted in the same way. Scores where the mask
    is False are ignored.

    Args:
        loss: What training minimises; null for the ranker's default loss.
        optimizer: How the weights are updated from their gradients.
        schedule: How the learning rate changes from step to step.
        metrics: The metrics that validation and test report.
    """

    default_loss: ClassVar[Node] = "listwise_kl"
    batch_type: ClassVar[type[Batch]] = FeatureBatch
    """What batches hold: vectors (FeatureBatch), texts (TextBatch), queries over a pool (PoolBatch), or any (Batch)."""
    judging: ClassVar[type[Judging]] = GroupJudging
    """How validation and test judge the ranker."""
    takes_shared_negatives: ClassVar[bool] = False
    can_be_sharded: ClassVar[bool] = False
    """Whether `configure_model` shards the weights over processes if the trainer's strategy is `fsdp2`."""
    can_be_rounded: ClassVar[bool] = True
    """Whether all weights may be in half precision, as with the trainer's precision `bf16-true`."""

    extra: Sequence[str] = ()
    """What the ranker reads of each candidate besides its vector or text, such as `num_tokens`."""

    start_counts: bool = False
    """Whether the state before training can be the best checkpoint, because it ranks well already."""

    encoder: dict[str, Any] | None = None
    """The model that computed the ranker's input features; saved with the ranker, so that it can score texts."""

    references: Mapping[str, "Ranker[Any]"] = MappingProxyType({})
    """The rankers without weights that validation and test compare this one with, by name."""

    evaluation: Judged
    """The results of the last validation or test."""

    _given: dict[str, Any]

    def __new__(cls, *arguments: Any, **options: Any) -> Any:
        """Keep the options as given, so that `description` can return them whatever `__init__` does with them."""
        ranker = super().__new__(cls)
        ranker._given = {**dict(zip(schema.options(cls), arguments, strict=False)), **options}
        return ranker

    def __init__(
        self,
        *,
        loss: Annotated[Node, LOSSES] | None = None,
        optimizer: Annotated[Node, OPTIMIZERS] = "adamw",
        schedule: Annotated[Node, SCHEDULES] = "constant",
        metrics: list[Annotated[Node, METRICS]] = ["hit@1", "mrr", "ndcg@10", "recall@5"],  # noqa: B006
    ) -> None:
        super().__init__()
        self.loss = LOSSES.bind(loss or self.default_loss, "ranker.loss")
        self.metrics = {metric_name(node): METRICS.bind(node, "ranker.metrics") for node in metrics}
        self._optimizer, self._schedule = optimizer, schedule

    def forward(self, batch: AnyBatch) -> Float[Tensor, "B K"]:
        """Score every candidate; higher is better."""
        raise TypeError(f"{type(self).__name__} does not say how to score: write forward(batch)")

    def training_scores(
        self, batch: AnyBatch
    ) -> tuple[Float[Tensor, "B N"], Float[Tensor, "B N"], Bool[Tensor, "B N"]]:
        """Scores, labels and mask for the loss; N is K unless the ranker also scores candidates of other groups."""
        return self(batch), batch.labels, batch.mask

    def evaluation_scores(self, batch: AnyBatch, ranker_scores: Float[Tensor, "B K"]) -> Scored:
        """The scores to judge this ranker by when it is a reference; it may rank other lists than the batch's.

        Args:
            batch: The batch that is judged.
            ranker_scores: The scores of the ranker that this reference is compared with.
        """
        return Scored(self(batch).float().to(batch.labels.device), batch.labels, batch.mask)

    def lacks(self, data: Any) -> str | None:
        """What this ranker needs and the datamodule does not have, in a few words; None if nothing is missing."""
        return None

    @classmethod
    def batch_and_judging(cls, options: Mapping[str, Any]) -> tuple[type[Batch], type[Judging]]:
        """What batches hold and how the ranker is judged, if both depend on its options."""
        return cls.batch_type, cls.judging

    def learn_from(self, data: Any) -> None:
        """Take from the training data what a ranker needs besides weights; a run calls it first. By default nothing."""

    @property
    def name(self) -> str:
        """The ranker's registered name, or its class name if it is not registered."""
        return RANKERS.name_of(type(self)) or type(self).__name__

    @property
    def is_trained(self) -> bool:
        """Whether the ranker has anything to train."""
        return any(weight.requires_grad for weight in self.parameters())

    @property
    def is_pointwise(self) -> bool:
        """Whether the score of a candidate depends on query and candidate alone, not on the rest of the group."""
        return False

    @property
    def has_learnt(self) -> bool:
        """Whether a checkpoint of the ranker holds more than its options: weights, or what `learn_from` takes."""
        return self.is_trained or type(self).learn_from is not Ranker.learn_from

    def check_backbone(self, *, download: bool) -> None:
        """Refuse a backbone that cannot work, as far as this can be known without its weights.

        Args:
            download: Whether to download a backbone that is not on this machine; if not, it is not checked.

        Raises:
            ConfigError: In the same cases as `configure_model`.
        """

    def training_loss(self, batch: AnyBatch) -> Float[Tensor, ""]:
        """The loss of a batch; a ranker that computes it without all scores at once overrides this.

        Raises:
            ConfigError: If the loss refuses the labels.
        """
        scores, labels, mask = self.training_scores(batch)
        try:
            return self.loss(scores.float(), labels, mask)
        except ValueError as error:
            raise ConfigError("ranker.loss", f"{error}.", cure="a loss for such labels") from error

    def training_step(self, batch: AnyBatch, batch_idx: int) -> Tensor:
        """The loss of one batch.

        Raises:
            NonFiniteLossError: If the loss is NaN or infinite; the weights have not changed.
            ConfigError: If the loss refuses the labels.
        """
        loss = self.training_loss(batch)
        if not self.trainer.strategy.reduce_boolean_decision(bool(torch.isfinite(loss))):
            raise NonFiniteLossError(self.global_step, batch.group.tolist())
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.group), sync_dist=True)
        return loss * batch.weight

    def validation_step(self, batch: AnyBatch, batch_idx: int) -> None:
        """Judge one batch."""
        self._judging.update(batch)

    def test_step(self, batch: AnyBatch, batch_idx: int) -> None:
        """Judge one batch."""
        self._judging.update(batch)

    def on_validation_epoch_start(self) -> None:
        """Start collecting results."""
        self._judging.begin("val")

    def on_test_epoch_start(self) -> None:
        """Start collecting results."""
        self._judging.begin("test")

    def on_validation_epoch_end(self) -> None:
        """Log the metrics over all queries; each query counts once, whatever the number of processes."""
        self._evaluate("val")

    def on_test_epoch_end(self) -> None:
        """Log the metrics over all queries; each query counts once, whatever the number of processes."""
        self._evaluate("test")

    def configure_optimizers(self) -> Any:
        """The optimizer and its schedule, which advances once per optimizer step."""
        weights = [weight for weight in self.parameters() if weight.requires_grad]
        optimizer = OPTIMIZERS.build(self._optimizer, weights, path="ranker.optimizer")
        steps = self.trainer.estimated_stepping_batches
        schedule = SCHEDULES.build(self._schedule, optimizer, int(steps), path="ranker.schedule")
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step", "name": "lr"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the description from which `load_ranker` rebuilds this ranker."""
        checkpoint["ranker"] = self.description()

    def description(self) -> dict[str, Any]:
        """Name, options, imported modules and encoder, as plain values from which the ranker can be rebuilt."""
        name = RANKERS.name_of(type(self))
        return {
            "ranker": {"name": name, **schema.bind(type(self), self._given, "ranker")},
            "imports": imported_modules(),
            "encoder": self.encoder,
        }

    def is_kept(self, name: str) -> bool:
        """Whether checkpoints hold a weight; a backbone's frozen weights stay in its own files."""
        return True

    def state_dict(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        """The weights that checkpoints hold."""
        weights = super().state_dict(*arguments, **options)
        prefix = options.get("prefix", "")
        return {name: weight for name, weight in weights.items() if self.is_kept(name.removeprefix(prefix))}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load the weights that `state_dict` returned.

        Raises:
            RuntimeError: If the shapes of weights differ or, with `strict`, if weights are missing or unknown.
        """
        self.configure_model()
        expected = self.state_dict().keys()
        missing, unknown = sorted(expected - state_dict.keys()), sorted(state_dict.keys() - expected)
        if strict and (missing or unknown):
            parts = {"missing": missing, "unknown": unknown}
            problem = "; ".join(f"{len(names)} {kind}: {names[0]} ..." for kind, names in parts.items() if names)
            raise RuntimeError(f"weights of {type(self).__name__}: {problem}")
        return super().load_state_dict(state_dict, strict=False, assign=assign)

    def findings(self) -> dict[str, Any]:
        """What validation chose besides the best checkpoint, as plain values for the run's results."""
        return {}

    def draw_findings(self, folder: Path) -> dict[str, Path]:
        """Draw what validation chose besides the best checkpoint; returns each picture's log name and file."""
        return {}

    @property
    def tells_progress(self) -> bool:
        """Whether validation and test show their own progress, in steps smaller than a batch."""
        return self._judging.tells_progress

    def end_progress(self) -> None:
        """Remove the ranker's own progress display, for example after Ctrl-C."""
        self._judging.end_progress()

    @cached_property
    def _judging(self) -> Judging:
        _, judging = self.batch_and_judging(self._given)
        return judging(self, self.references)

    def _evaluate(self, split: str) -> None:
        self.evaluation = self._judging.judge(split)
        try:
            found = self.evaluation.per_query(self.metrics)
        except ValueError as error:
            raise ConfigError("ranker.metrics", f"{error}.", cure="metrics for such labels") from error
        for name, values in found.items():
            self.log(f"{split}/{name}", values.mean(), prog_bar=split == "val", sync_dist=True)


class Untrained(Ranker[AnyBatch]):
    """A ranker without weights, so its options do not include a loss, an optimizer or a schedule."""

    def __init__(self, **reporting: Unpack[Reporting]) -> None:
        super().__init__(**reporting)
