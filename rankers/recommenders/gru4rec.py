"""GRU4Rec: a GRU over sessions, trained one item at a time on many sessions side by side (Hidasi et al. 2016)."""

from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Interval
from jaxtyping import Float
from torch import Tensor, nn

from rankers.recommenders.recommender import Positions, Recommender, last_items, last_states
from ranking.pools.pool_batch import PoolBatch
from ranking.pools.pool_data import Sequences
from registry import LOSSES, METRICS, OPTIMIZERS, RANKERS, SCHEDULES, Node
from registry.ranges import Dropout, Few, Fraction, Rows, Width


@RANKERS.register("gru4rec")
class GRU4Rec(Recommender):
    """score(history, i) = <h, embedding of i> + bias of i, with h the state of a GRU after the history.

    "Session-based Recommendations with Recurrent Neural Networks" (Hidasi et al. 2016) with the losses and negatives of
    "Recurrent Neural Networks with Top-k Gains for Session-based Recommendations" (Hidasi and Karatzoglou 2018). A step
    reads the next item of each of `batch_size` users. States are carried over to the next step, without gradients, and
    are zero at the beginning of a user's sequence. The negatives of a step, the same for all its users, are the other
    users' next items and items drawn by popularity ** alpha.

    Args:
        num_items: Number of items in the pool.
        dim: Size of the embeddings, which input and output share, and of the GRU's state.
        num_layers: Number of layers of the GRU.
        embedding_dropout: Dropout of the embeddings that the GRU reads.
        dropout: Dropout of the GRU's states.
        num_samples: Number of drawn negatives of a step.
        alpha: Exponent of the popularity by which they are drawn: 0 for all items alike.
        logq: How much of the logarithm of an item's probability to be drawn is subtracted from its score in training
            with the cross-entropy; other losses do not need it.
        loss: What training minimises: `infonce` is the cross-entropy, `bpr_max` the loss of 2018; null for `infonce`.
    """

    sequences: ClassVar[Sequences] = Sequences(in_lanes=True)

    counts: Tensor
    """How many training sequences have each item."""

    def __init__(
        self,
        num_items: Rows,
        dim: Width = 128,
        num_layers: Few = 1,
        embedding_dropout: Dropout = 0.0,
        dropout: Dropout = 0.3,
        num_samples: Annotated[int, Interval(ge=0, le=1_000_000)] = 2048,
        alpha: Fraction = 0.5,
        logq: Fraction = 1.0,
        loss: Annotated[Node, LOSSES] | None = None,
        optimizer: Annotated[Node, OPTIMIZERS] = {"name": "adagrad", "lr": 0.05},  # noqa: B006
        schedule: Annotated[Node, SCHEDULES] = "constant",
        metrics: list[Annotated[Node, METRICS]] = ["mrr", "ndcg@10", "recall@10"],  # noqa: B006
    ) -> None:
        super().__init__(num_items, loss=loss, num_negatives=1, optimizer=optimizer, schedule=schedule, metrics=metrics)
        self.num_samples, self.alpha, self.logq = num_samples, alpha, logq
        self.items, self.bias = nn.Embedding(num_items, dim), nn.Parameter(torch.zeros(num_items))
        nn.init.xavier_uniform_(self.items.weight)
        self.gru = nn.GRU(dim, dim, num_layers, batch_first=True)
        self.embedding_drop, self.drop = nn.Dropout(embedding_dropout), nn.Dropout(dropout)
        self.register_buffer("counts", torch.ones(num_items))
        self._lanes: tuple[Tensor, Tensor, int] | None = None
        self._seed = 0
        self._known_chances: Tensor | None = None

    def learn_from(self, data: Any) -> None:
        """Count how often each item occurs in the sequences to learn from, and take the seed of drawn negatives."""
        self._seed, self._known_chances, self._lanes = data.seed, None, None
        self.counts.copy_(torch.bincount(data.sequences.flat.long(), minlength=self.num_items))

    def item_table(self) -> Float[Tensor, "N E"]:
        """The embeddings of the items, and their biases as a last column."""
        return torch.cat([self.items.weight, self.bias.unsqueeze(1)], dim=1)

    def user_states(self, batch: PoolBatch) -> Float[Tensor, "B E"]:
        """The state after the whole history, and a one for the biases."""
        assert batch.history is not None
        history = last_items(batch.history, batch.history.shape[1])
        states = last_states(self.gru(self.items(history.clamp(min=0)))[0], history)
        return nn.functional.pad(states, (0, 1), value=1.0)

    def positions(self, batch: PoolBatch) -> Positions:
        """One item of each user's sequence; the state before it comes from the last step."""
        assert batch.history is not None
        states = self._step(batch)
        return Positions(states.unsqueeze(1), batch.history[:, 1:], batch.history[:, 1:] >= 0)

    def training_loss(self, batch: PoolBatch) -> Float[Tensor, ""]:
        """The loss of each user's next item against all negatives of the step."""
        found = self.positions(batch)
        targets, rows = found.targets[:, 0], torch.cat([batch.rows, self._samples()])
        scores = found.states[:, 0] @ self.items(rows).T + self.rows_of(self.bias, rows)
        if self.logq and self.loss_name == "infonce":
            scores = scores - self.logq * self._log_chances(batch, rows)
        same = rows == targets.unsqueeze(1)
        # The user's own item is once right; where it is another user's too, or drawn, it takes no part.
        own = torch.zeros_like(same)
        own[torch.arange(len(same)), same.int().argmax(dim=1)] = True
        return self.loss(scores.float(), own.float(), own | ~same)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the states, so that an epoch can be continued."""
        super().on_save_checkpoint(checkpoint)
        if self._lanes is not None and self._trainer is not None:
            states, group, epoch = self._lanes
            if self.trainer.world_size > 1:
                # Lane l belongs to process l % world.
                gathered: Any = self.all_gather((states, group))
                states, group = gathered[0].permute(1, 2, 0, 3).flatten(1, 2), gathered[1].T.flatten()
            checkpoint["lanes"] = [states.cpu(), group.cpu(), epoch]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the states of this process's users."""
        if (lanes := checkpoint.get("lanes")) is not None and self._trainer is not None:
            rank, world = self.trainer.global_rank, self.trainer.world_size
            self._lanes = lanes[0][:, rank::world], lanes[1][rank::world], lanes[2]

    def _step(self, batch: PoolBatch) -> Float[Tensor, "B E"]:
        assert batch.history is not None
        read = self.embedding_drop(self.items(batch.history[:, :1]))
        before = read.new_zeros(self.gru.num_layers, len(read), self.gru.hidden_size)
        epoch = self.current_epoch
        if self._lanes is not None and self._lanes[2] == epoch:
            states, group = (each.to(read.device) for each in self._lanes[:2])
            before = states * (group == batch.group).unsqueeze(1)
        out, after = self.gru(read, before)
        self._lanes = after.detach(), batch.group, epoch
        return self.drop(out[:, 0])

    def _samples(self) -> Tensor:
        """The same items in every process."""
        if not self.num_samples:
            return torch.zeros(0, dtype=torch.int64, device=self.counts.device)
        generator = torch.Generator().manual_seed(hash((self._seed, self.global_step)) % 2**63)
        sums = self._chances[1].cpu().cumsum(0)
        drawn = torch.rand(self.num_samples, generator=generator, dtype=torch.float64) * sums[-1]
        return torch.searchsorted(sums, drawn, right=True).clamp(max=self.num_items - 1).to(self.counts.device)

    def _log_chances(self, batch: PoolBatch, rows: Tensor) -> Float[Tensor, " C"]:
        """The logarithm of each item's probability: by popularity for other users' items, by alpha for drawn ones."""
        others, drawn = rows.split([len(batch.rows), len(rows) - len(batch.rows)])
        return torch.cat([self._chances[0, others], self._chances[1, drawn]]).clamp(min=1e-12).log().float()

    @property
    def _chances(self) -> Float[Tensor, "2 N"]:
        """Each item's probability as another user's item, and to be drawn."""
        if self._known_chances is None or self._known_chances.device != self.counts.device:
            powers = torch.stack([self.counts.double(), self.counts.double() ** self.alpha])
            self._known_chances = powers / powers.sum(dim=1, keepdim=True)
        return self._known_chances
