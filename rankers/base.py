"""Ranker: a LightningModule that scores the candidates of a query; subclasses write `forward`."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Generic, TypedDict, TypeVar

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


class Training(TypedDict, total=False):
    """How any ranker is trained and judged.

    Args:
        loss: What training minimises; null for the ranker's own.
        optimizer: How weights follow gradients.
        schedule: How the learning rate changes, step by step.
        metrics: What validation and test report.
    """

    loss: Annotated[Node, LOSSES] | None
    optimizer: Annotated[Node, OPTIMIZERS]
    schedule: Annotated[Node, SCHEDULES]
    metrics: list[Annotated[Node, METRICS]]


class NonFiniteLossError(ArithmeticError):
    """Training met a loss that is no number.

    Args:
        step: The optimizer step it would have been.
        group: The groups of the batch, as the store counts them.
    """

    def __init__(self, step: int, group: list[int]) -> None:
        super().__init__(f"the loss of step {step} is not finite; groups in its batch: {group}")
        self.step, self.group = step, group


class Ranker(LightningModule, Generic[AnyBatch]):
    """Training, validation and test of any ranker.

    A subclass passes `**training` on and writes `forward(batch)`, whose scores follow their candidates under
    permutation and may hold anything where the mask is False.

    Args:
        loss: What training minimises; null for the ranker's own.
        optimizer: How weights follow gradients.
        schedule: How the learning rate changes, step by step.
        metrics: What validation and test report.
    """

    default_loss: ClassVar[Node] = "listwise_kl"
    batch_type: ClassVar[type[Batch]] = FeatureBatch
    """What it reads: vectors (FeatureBatch), texts (TextBatch), queries over a pool (PoolBatch), or any (Batch)."""
    judging: ClassVar[type[Judging]] = GroupJudging
    """How validation and test judge it."""
    takes_shared_negatives: ClassVar[bool] = False

    encoder: dict[str, Any] | None = None
    """What made the features this ranker reads; saved with it, so that it can be used on text."""

    references: Mapping[str, "Ranker[Any]"] = MappingProxyType({})
    """What stands beside it in validation and test: rankers without weights, by name."""

    evaluation: Judged
    """The validation or test that was run last."""

    _given: dict[str, Any]

    def __new__(cls, *arguments: Any, **options: Any) -> Any:
        """Remember the options, so that the ranker can say how to make it again, whatever `__init__` does with them."""
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
        """The score of every candidate, higher is better."""
        raise TypeError(f"{type(self).__name__} does not say how to score: write forward(batch)")

    def training_scores(
        self, batch: AnyBatch
    ) -> tuple[Float[Tensor, "B N"], Float[Tensor, "B N"], Bool[Tensor, "B N"]]:
        """Scores, labels and mask for the loss; N is K unless the ranker scores more than the batch's groups."""
        return self(batch), batch.labels, batch.mask

    def evaluation_scores(self, batch: AnyBatch) -> Scored:
        """What it is judged by as a reference; other lists than the batch's where it ranks others."""
        return Scored(self(batch).float(), batch.labels, batch.mask)

    def lacks(self, data: Any) -> str | None:
        """What a datamodule lacks that this ranker needs, in a few words; None if it lacks nothing."""
        return None

    @property
    def name(self) -> str:
        """Its registered name; without one, that of its class."""
        return RANKERS.name_of(type(self)) or type(self).__name__

    @property
    def is_trained(self) -> bool:
        """Whether there is anything to train."""
        return any(weight.requires_grad for weight in self.parameters())

    def check_backbone(self, *, download: bool) -> None:
        """Refuse a backbone that could not work, as far as that is known without its weights.

        Args:
            download: Whether to get a backbone that is not on this machine; else nothing is known of it.

        Raises:
            ConfigError: As `configure_model`.
        """

    def training_step(self, batch: AnyBatch, batch_idx: int) -> Tensor:
        """The loss of one batch.

        Raises:
            NonFiniteLossError: Before the weights see it.
            ConfigError: If the loss refuses the labels.
        """
        scores, labels, mask = self.training_scores(batch)
        try:
            loss = self.loss(scores.float(), labels, mask)
        except ValueError as error:
            raise ConfigError("ranker.loss", f"{error}.", cure="a loss for such labels") from error
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
        """Begin to judge."""
        self._judging.begin("val")

    def on_test_epoch_start(self) -> None:
        """Begin to judge."""
        self._judging.begin("test")

    def on_validation_epoch_end(self) -> None:
        """Log the metrics over all queries, each counted once whatever the number of processes."""
        self._evaluate("val")

    def on_test_epoch_end(self) -> None:
        """Log the metrics over all queries, each counted once whatever the number of processes."""
        self._evaluate("test")

    def configure_optimizers(self) -> Any:
        """The optimizer, and the schedule stepped once a batch."""
        weights = [weight for weight in self.parameters() if weight.requires_grad]
        optimizer = OPTIMIZERS.build(self._optimizer, weights, path="ranker.optimizer")
        steps = self.trainer.estimated_stepping_batches
        schedule = SCHEDULES.build(self._schedule, optimizer, int(steps), path="ranker.schedule")
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step", "name": "lr"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what `load_ranker` needs to make this ranker again."""
        checkpoint["ranker"] = self.description()

    def description(self) -> dict[str, Any]:
        """Name, options, outside modules and encoder: plain values from which the ranker can be made again."""
        name = RANKERS.name_of(type(self))
        return {
            "ranker": {"name": name, **schema.bind(type(self), self._given, "ranker")},
            "imports": imported_modules(),
            "encoder": self.encoder,
        }

    def findings(self) -> dict[str, Any]:
        """What validation has decided besides the best checkpoint, as plain values for the run's results."""
        return {}

    def draw_findings(self, folder: Path) -> dict[str, Path]:
        """Draw what validation has decided besides the best checkpoint: the pictures' files, by what to log them as."""
        return {}

    @property
    def tells_progress(self) -> bool:
        """Whether its validation and test show themselves how far they are, in smaller steps than batches."""
        return self._judging.tells_progress

    def end_progress(self) -> None:
        """Remove its own progress display, as after Ctrl-C in the middle."""
        self._judging.end_progress()

    @cached_property
    def _judging(self) -> Judging:
        return self.judging(self, self.references)

    def _evaluate(self, split: str) -> None:
        self.evaluation = self._judging.judge(split)
        for name, values in self.evaluation.per_query(self.metrics).items():
            self.log(f"{split}/{name}", values.mean(), prog_bar=split == "val", sync_dist=True)
