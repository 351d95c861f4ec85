"""TIGER: generates the semantic ids of the next item (Rajput et al. 2023)."""

from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Interval
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rankers.judging.generation import GenerationJudging
from rankers.judging.judging import Judging
from rankers.pool_ranker import PoolRanker
from rankers.recommenders.recommender import last_items
from rankers.recommenders.semantic_ids import CodeTree, residual_codes
from ranking.pools.pool_batch import PoolBatch
from ranking.pools.pool_data import Reading, Sequences
from registry import METRICS, OPTIMIZERS, RANKERS, SCHEDULES, ConfigError, Node
from registry.ranges import Count, Dropout, FeatureDim, Few, Rows, Width

_QUERIES = 16
"""How many queries are decoded at once."""


@RANKERS.register("tiger")
class Tiger(PoolRanker):
    """A small T5 reads the codes of a history and writes the codes of the next item.

    "Recommender Systems with Generative Retrieval". An item's codes are from residual k-means on the pool's vectors,
    with one more code for items that have the same. A beam search that follows only codes of items gives the ranking.
    Items that it does not reach count as never found.

    Args:
        num_items: Number of items in the pool.
        feature_dim: Size of the pool's vectors.
        num_levels: Number of levels of clusters.
        num_codes: Number of codes in each level.
        dim: Width of the T5.
        num_layers: Number of layers of its encoder, and of its decoder.
        num_heads: Number of attention heads.
        head_dim: Size of a head.
        hidden_dim: Width of its feed-forward layers.
        dropout: Dropout everywhere in it.
        max_length: The most items that are read, the latest ones.
        num_user_tokens: Number of tokens that users share by their numbers, the first token of an input; 0 for none.
        num_targets: How many items of each sequence are drawn to be predicted per epoch.
        num_beams: Number of beams, and so of items in a ranking.

    Raises:
        ConfigError: If there are too few codes to tell all items apart.

    Note:
        The paper's codes are from an RQ-VAE; GRID (Ju et al. 2025) finds residual k-means about as good. Nobody has
        reproduced the paper's numbers on Toys.
    """

    judging: ClassVar[type[Judging]] = GenerationJudging

    codes: Tensor
    """The codes of each item."""

    def __init__(
        self,
        num_items: Rows,
        feature_dim: FeatureDim,
        num_levels: Few = 3,
        num_codes: Width = 256,
        dim: Width = 128,
        num_layers: Few = 4,
        num_heads: Few = 6,
        head_dim: Width = 64,
        hidden_dim: Width = 1024,
        dropout: Dropout = 0.1,
        max_length: Few = 20,
        num_user_tokens: Annotated[int, Interval(ge=0, le=1_000_000)] = 2000,
        num_targets: Few = 4,
        num_beams: Count = 50,
        optimizer: Annotated[Node, OPTIMIZERS] = {"name": "adamw", "lr": 1e-3, "weight_decay": 0.05},  # noqa: B006
        schedule: Annotated[Node, SCHEDULES] = {"name": "cosine", "warmup": 0.1},  # noqa: B006
        metrics: list[Annotated[Node, METRICS]] = ["mrr", "ndcg@10", "recall@10"],  # noqa: B006
    ) -> None:
        from transformers import T5Config, T5ForConditionalGeneration  # here, since it takes a second

        super().__init__(optimizer=optimizer, schedule=schedule, metrics=metrics)
        self.num_codes, self.max_length, self.num_user_tokens = num_codes, max_length, num_user_tokens
        self.num_targets, self.num_beams = num_targets, num_beams
        self.register_buffer("codes", torch.zeros(num_items, num_levels + 1, dtype=torch.int64))
        config = T5Config(
            # 0 is padding, and where a decoder starts.
            vocab_size=1 + (num_levels + 1) * num_codes + num_user_tokens,
            d_model=dim,
            d_kv=head_dim,
            d_ff=hidden_dim,
            num_layers=num_layers,
            num_decoder_layers=num_layers,
            num_heads=num_heads,
            dropout_rate=dropout,
            eos_token_id=None,
            use_cache=False,
        )
        config.decoder_start_token_id = 0
        self.model: Any = T5ForConditionalGeneration(config)
        self._tree: tuple[int, CodeTree] | None = None

    def reading(self) -> Reading:
        """Read histories; learn from users' sequences."""
        return Reading(histories=True, longest_history=self.max_length, sequences=Sequences())

    def learn_from(self, data: Any) -> None:
        """Compute the codes of all items from their vectors."""
        levels = self.codes.shape[1] - 1
        try:
            self.codes.copy_(residual_codes(data.pool, levels, self.num_codes, data.seed))
        except ValueError as error:
            raise ConfigError("ranker.num_codes", f"{error}.", cure="more codes or levels") from error

    def training_loss(self, batch: PoolBatch) -> Float[Tensor, ""]:
        """The cross-entropy of the codes of some items of each sequence, drawn anew in each epoch."""
        assert batch.history is not None and batch.user is not None
        sizes = (batch.history >= 0).sum(dim=1, keepdim=True)
        chance = torch.rand(len(sizes), self.num_targets, device=sizes.device)
        at = (1 + (chance * (sizes - 1)).long()).flatten()
        items = batch.history.repeat_interleave(self.num_targets, dim=0)
        target = items.gather(1, at.unsqueeze(1)).squeeze(1)
        before = items.masked_fill(torch.arange(items.shape[1], device=at.device) >= at.unsqueeze(1), -1)
        tokens, there = self._inputs(before, batch.user.repeat_interleave(self.num_targets))
        return self.model(input_ids=tokens, attention_mask=there.long(), labels=self._tokens(target)).loss

    def generate(self, batch: PoolBatch) -> tuple[Float[Tensor, "B k"], Int[Tensor, "B k"]]:
        """The log-probabilities and rows of the items that a beam search finds, best first."""
        assert batch.history is not None and batch.user is not None
        history = last_items(batch.history, self.max_length)
        parts = zip(history.split(_QUERIES), batch.user.split(_QUERIES), strict=True)
        found = [self._beams(*self._inputs(*part)) for part in parts]
        if not found:
            return torch.zeros(0, 1), torch.zeros(0, 1, dtype=torch.int64)
        scores, rows = (torch.cat(each) for each in zip(*found, strict=True))
        return scores, rows

    def _tokens(self, items: Int[Tensor, "*n"]) -> Int[Tensor, "*n levels"]:
        """The tokens of items; each level has its own."""
        codes = self.codes[items]
        return 1 + codes + self.num_codes * torch.arange(codes.shape[-1], device=codes.device)

    def _inputs(
        self, history: Int[Tensor, "B H"], user: Int[Tensor, " B"]
    ) -> tuple[Int[Tensor, "B T"], Bool[Tensor, "B T"]]:
        """The tokens of users and of their latest items, and which are not padding."""
        history = last_items(history, self.max_length)
        levels = self.codes.shape[1]
        there = (history >= 0).repeat_interleave(levels, dim=1)
        tokens = self._tokens(history.clamp(min=0)).flatten(1).masked_fill(~there, 0)
        # Without a user's token, an empty history would leave nothing to read.
        first = self.model.config.vocab_size - 1 - user % max(1, self.num_user_tokens)
        first = first.unsqueeze(1) if self.num_user_tokens else torch.zeros_like(user).unsqueeze(1)
        return torch.cat([first, tokens], dim=1), torch.nn.functional.pad(there, (1, 0), value=True)

    def _beams(
        self, tokens: Int[Tensor, "B T"], there: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B k"], Int[Tensor, "B k"]]:
        size, tree = len(tokens), self._codes_tree()
        read = self.model.encoder(input_ids=tokens, attention_mask=there.long()).last_hidden_state
        written = torch.zeros(size, 1, 1, dtype=torch.int64, device=tokens.device)
        nodes, scores = written[:, :, 0], torch.zeros(size, 1, device=tokens.device)
        for level in range(self.codes.shape[1]):
            beams = written.shape[1]
            logits = self.model(
                encoder_outputs=(read.repeat_interleave(beams, dim=0),),
                attention_mask=there.repeat_interleave(beams, dim=0).long(),
                decoder_input_ids=written.flatten(0, 1),
            ).logits[:, -1]
            first = 1 + level * self.num_codes
            chances = logits.float().log_softmax(dim=1)[:, first : first + self.num_codes].unflatten(0, (size, beams))
            follow, possible = tree.children(level, nodes)
            possible &= (scores > -torch.inf).unsqueeze(2)
            total = (scores.unsqueeze(2) + chances).masked_fill(~possible, -torch.inf).flatten(1)
            scores, place = total.topk(min(self.num_beams, total.shape[1]), dim=1)
            nodes = follow.flatten(1).gather(1, place)
            old = written.gather(1, (place // self.num_codes).unsqueeze(2).expand(-1, -1, written.shape[2]))
            written = torch.cat([old, (first + place % self.num_codes).unsqueeze(2)], dim=2)
        rows = tree.rows[nodes].masked_fill(scores == -torch.inf, -1)
        missing = self.num_beams - rows.shape[1]
        pad = torch.nn.functional.pad
        return pad(scores, (0, missing), value=-torch.inf), pad(rows, (0, missing), value=-1)

    def _codes_tree(self) -> CodeTree:
        if self._tree is None or self._tree[0] != self.codes._version or self._tree[1].rows.device != self.codes.device:
            self._tree = self.codes._version, CodeTree(self.codes, self.num_codes)
        return self._tree[1]
