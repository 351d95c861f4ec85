"""Recommender: a ranker of items whose scores are inner products of users' states and a table of items."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypedDict, cast

import torch
from annotated_types import Interval
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from rankers.pool_ranker import PoolRanker
from rankers.recommenders.full_softmax import full_softmax_loss
from ranking.pools.pool_batch import PoolBatch
from ranking.pools.pool_data import Reading, Sequences
from registry import LOSSES, METRICS, OPTIMIZERS, SCHEDULES, ConfigError, Node

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

_DRAWS = 8
"""How often a negative that is in the user's own sequence is drawn again."""

Negatives = Annotated[int, Interval(ge=1, le=100_000)]


class Learning(TypedDict, total=False):
    """The training and evaluation options of all recommenders that have the same defaults."""

    loss: Annotated[Node, LOSSES] | None
    schedule: Annotated[Node, SCHEDULES]
    metrics: list[Annotated[Node, METRICS]]


@dataclass(frozen=True)
class Positions:
    """P items to predict of each of B sequences.

    Args:
        states: The user's state before each item.
        targets: The row of each item.
        mask: True where there is one.
    """

    states: Float[Tensor, "B P E"]
    targets: Int[Tensor, "B P"]
    mask: Bool[Tensor, "B P"]


class Recommender(PoolRanker):
    """Base class of recommenders that score an item i for a user as <state of the user, vector of item i>.

    A subclass implements `item_table`, `user_states` for evaluation, and `positions` for training. With FSDP2, each
    process holds its own rows of all embeddings and of weights with a row for each item. `item_table` and the biases in
    it are DTensors then, of which `rows_of` takes rows.

    Args:
        num_items: Number of items in the pool.
        num_negatives: How many items are drawn for each item to predict, all equally likely, none of them from the
            sequence, or from the piece of a long sequence, in which it is. Null for the cross-entropy over all items.
        optimizer: How the weights are updated from their gradients.
        loss: What training minimises; null for the recommender's default loss.
        schedule: How the learning rate changes from step to step.
        metrics: The metrics that validation and test report; with one right item, `recall@10` is the hit rate.

    Raises:
        ConfigError: If the loss cannot be computed over all items.
    """

    sequences: ClassVar[Sequences] = Sequences()
    can_be_sharded: ClassVar[bool] = True
    normalize: bool = False

    def __init__(
        self,
        num_items: int,
        *,
        num_negatives: Negatives | None,
        optimizer: Annotated[Node, OPTIMIZERS],
        loss: Annotated[Node, LOSSES] | None = None,
        schedule: Annotated[Node, SCHEDULES] = "constant",
        metrics: list[Annotated[Node, METRICS]] = ["mrr", "ndcg@10", "recall@10"],  # noqa: B006
    ) -> None:
        super().__init__(loss=loss, optimizer=optimizer, schedule=schedule, metrics=metrics)
        self.num_items, self.num_negatives = num_items, num_negatives
        node = self.default_loss if loss is None else loss
        self.loss_name = node if isinstance(node, str) else node["name"]
        if num_negatives is None and self.loss_name != "infonce":
            problem = f"{self.loss_name} compares items with drawn ones, and none are drawn."
            raise ConfigError("ranker.num_negatives", problem, cure="1 or more, or ranker.loss=infonce for all items")
        self._is_sharded = False

    def configure_model(self) -> None:
        """With FSDP2, give each process its share of the weights, once.

        Raises:
            ConfigError: If a weight can be in no shard.
        """
        if self.device_mesh is not None and not self._is_sharded:
            from rankers.recommenders.sharding import shard  # what it imports takes a second

            shard(self, self.device_mesh["data_parallel"], self.num_items)
            self._is_sharded = True

    @abstractmethod
    def item_table(self) -> Float[Tensor, "N E"]:
        """The vector of each item."""

    @abstractmethod
    def user_states(self, batch: PoolBatch) -> Float[Tensor, "B E"]:
        """The state of each user after the whole history."""

    @abstractmethod
    def positions(self, batch: PoolBatch) -> Positions:
        """The items to predict of a batch of sequences."""

    def reading(self) -> Reading:
        """Read histories; learn from users' sequences."""
        return Reading(histories=True, sequences=self.sequences)

    def query_vectors(self, batch: PoolBatch) -> Float[Tensor, "B 1 E"]:
        """The state of each user."""
        return self.user_states(batch).unsqueeze(1)

    def candidates_to_rank(self) -> Any:
        """The table of items, or this process's rows of it."""
        table = self.item_table().detach()
        if not self._is_sharded:
            return table
        from rankers.recommenders.sharding import OwnRows

        own, _ = self.data.restrictions(torch.zeros(0, dtype=torch.int64))
        return OwnRows(cast("DTensor", table), lists=own is not None)

    def rows_of(self, table: Shaped[Tensor, "N ..."], rows: Int[Tensor, "*B"]) -> Shaped[Tensor, "..."]:
        """Rows of a table or of a weight with a row for each item, whichever process holds them."""
        if not self._is_sharded:
            return table[rows]
        from rankers.recommenders.sharding import rows_of

        return rows_of(cast("DTensor", table), rows)

    def training_loss(self, batch: PoolBatch) -> Float[Tensor, ""]:
        """The mean loss of all items to predict, over all processes."""
        found = self.positions(batch)
        states, targets = found.states[found.mask], found.targets[found.mask]
        count = torch.tensor(float(len(targets)), device=targets.device)
        mean = self.trainer.strategy.reduce(count, reduce_op="mean")
        items = self.item_table()
        if self.num_negatives is None:
            if self._is_sharded:
                from rankers.recommenders.sharded_softmax import sharded_softmax_loss

                return sharded_softmax_loss(states, cast("DTensor", items), targets) / mean
            return full_softmax_loss(states, items, targets) / mean
        drawn, allowed = self.draw_negatives(batch, found.targets, self.num_negatives)
        rows = torch.cat([targets.unsqueeze(1), drawn[found.mask]], dim=1)
        there = torch.nn.functional.pad(allowed[found.mask], (1, 0), value=True)
        scores = (self.rows_of(items, rows) @ states.unsqueeze(2)).squeeze(2)
        labels = torch.zeros_like(scores)
        labels[:, 0] = 1
        return self.loss(scores.float(), labels, there) * len(targets) / mean

    def draw_negatives(
        self, batch: PoolBatch, targets: Int[Tensor, "B P"], count: int
    ) -> tuple[Int[Tensor, "B P n"], Bool[Tensor, "B P n"]]:
        """Drawn items for each item to predict, and which of them are certain not to be in its own sequence."""
        assert batch.history is not None
        own, shape = batch.history.sort(dim=1).values, (len(targets), targets.shape[1] * count)
        drawn, wrong = torch.zeros(shape, dtype=torch.int64, device=own.device), None
        for _ in range(_DRAWS):
            again = torch.randint(self.num_items, shape, device=own.device)
            drawn = again if wrong is None else torch.where(wrong, again, drawn)
            place = torch.searchsorted(own, drawn).clamp(max=own.shape[1] - 1)
            wrong = own.gather(1, place) == drawn
            if not bool(wrong.any()):
                break
        assert wrong is not None
        return drawn.view(*targets.shape, count), ~wrong.view(*targets.shape, count)


def last_items(history: Int[Tensor, "B H"], longest: int) -> Int[Tensor, "B h"]:
    """The last items of each history, padded with -1 on the right; one column if nobody has a history.

    Example:
        >>> last_items(torch.tensor([[4, 5, 6], [7, -1, -1]]), 2)
        tensor([[ 5,  6],
                [ 7, -1]])
    """
    if not history.shape[1]:
        return history.new_full((len(history), 1), -1)
    sizes = (history >= 0).sum(dim=1, keepdim=True)
    width = min(longest, history.shape[1])
    place = (sizes - width).clamp(min=0) + torch.arange(width, device=history.device)
    there = place < sizes
    return history.gather(1, place.clamp(max=history.shape[1] - 1)).masked_fill(~there, -1)


def last_states(states: Float[Tensor, "B H E"], history: Int[Tensor, "B H"]) -> Float[Tensor, "B E"]:
    """The state at the last item of each history; zero if it is empty."""
    sizes = (history >= 0).sum(dim=1)
    last = (sizes - 1).clamp(min=0).view(-1, 1, 1).expand(-1, 1, states.shape[2])
    return states.gather(1, last).squeeze(1) * (sizes > 0).unsqueeze(1)
