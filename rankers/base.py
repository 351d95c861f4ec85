"""Ranker: a LightningModule that scores the candidates of a query; subclasses write `forward`."""

from typing import Annotated, Any, ClassVar, Generic, TypedDict, TypeVar

import torch
from jaxtyping import Bool, Float
from lightning import LightningModule
from torch import Tensor
from torchmetrics import Metric

from ranking.batch import Batch
from ranking.evaluation import EvaluationState, Judged
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
    """

    default_loss: ClassVar[Node] = "listwise_kl"
    takes_shared_negatives: ClassVar[bool] = False
    ranks_pool: ClassVar[bool] = False

    encoder: dict[str, Any] | None = None
    """What made the features this ranker reads; saved with it, so that it can be used on text."""

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
        loss: Node | None = None,
        optimizer: Node = "adamw",
        schedule: Node = "constant",
        metrics: list[Node] = ["hit@1", "mrr", "ndcg@10", "recall@5"],  # noqa: B006
    ) -> None:
        super().__init__()
        self.loss = LOSSES.bind(loss or self.default_loss, "ranker.loss")
        self.metrics = {metric_name(node): METRICS.bind(node, "ranker.metrics") for node in metrics}
        self._optimizer, self._schedule = optimizer, schedule
        self._state = self.collect()

    def forward(self, batch: AnyBatch) -> Float[Tensor, "B K"]:
        """The score of every candidate, higher is better."""
        raise TypeError(f"{type(self).__name__} does not say how to score: write forward(batch)")

    def training_scores(
        self, batch: AnyBatch
    ) -> tuple[Float[Tensor, "B N"], Float[Tensor, "B N"], Bool[Tensor, "B N"]]:
        """Scores, labels and mask for the loss; N is K unless the ranker scores more than the batch's groups."""
        return self(batch), batch.labels, batch.mask

    def collect(self) -> Metric:
        """What collects the steps of a validation or test."""
        return EvaluationState()

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
        """Keep the scores of one batch."""
        self._state.update(batch, self(batch).float())

    def test_step(self, batch: AnyBatch, batch_idx: int) -> None:
        """Keep the scores of one batch."""
        self._state.update(batch, self(batch).float())

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

    @property
    def tells_progress(self) -> bool:
        """Whether its validation and test tell themselves how far they are, in smaller steps than batches."""
        return False

    def end_progress(self) -> None:
        """Take away what shows its own progress, as after Ctrl-C in the middle."""

    def judge(self, split: str) -> Judged:
        """What the steps of a validation or test have collected, over all processes; they start anew after it."""
        evaluation = self._state.compute()
        self._state.reset()
        return evaluation

    def _evaluate(self, split: str) -> None:
        self.evaluation = self.judge(split)
        for name, values in self.evaluation.per_query(self.metrics).items():
            self.log(f"{split}/{name}", values.mean(), prog_bar=split == "val", sync_dist=True)
