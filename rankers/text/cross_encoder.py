"""CrossEncoder: a language model that reads query and passage together (RankBERT, RankLLaMA, BGE)."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Unpack

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from language_models.backbone import Backbone
from rankers.judging.judging import Judging
from rankers.text.reranking import Rerank, RerankJudging
from rankers.text.text_ranker import TextOptions, TextRanker
from ranking.batch import Batch, TextBatch
from ranking.pools.pool_batch import PoolBatch
from ranking.pools.pool_data import PoolData, Reading
from registry import OPTIMIZERS, RANKERS, SCHEDULES, ConfigError, Node
from registry.ranges import Count, Text

DEFAULT_BACKBONE = Backbone(model="google-bert/bert-base-uncased")
# More pairs a query in one step can only be a mistake: every pair is read by the backbone.
_MOST_PAIRS = 256


@RANKERS.register("cross_encoder")
class CrossEncoder(TextRanker):
    """A cross-encoder: the score of a passage is a linear function of one state of [query; passage].

    RankBERT (Nogueira and Cho 2019, arXiv 1901.04085): `template: pair`, `max_query_length: 64`, `num_outputs: 2`,
    `loss: bce`, all weights at 1e-6 to 3e-6. BGE (Xiao et al. 2023, arXiv 2309.07597): `template: pair`, groups of 8.
    RankLLaMA (Ma et al. 2023, arXiv 2310.08319): `template: rankllama`, `max_length: 196`, groups of 16, `train: lora`
    at 1e-4. A trained model from the hub scores with `head: pretrained` and `train: nothing`. A teacher's scores are
    labels for `loss: listnet`.

    Args:
        backbone: The language model: bidirectional or causal.
        template: How a query and a passage become a text: `pair` for the tokenizer's own form of two texts, such as
            [CLS] query [SEP] passage [SEP], `rankllama` for `query: ... document: ...`, or your own with `{query}` and
            `{candidate}`.
        max_length: The most tokens of query and passage together; the ends of longer passages are cut off.
        rerank: Over a pool, which of its candidates are read; null to rank groups of texts.
    """

    default_loss: ClassVar[Node] = "listwise_kl"
    takes_shared_negatives: ClassVar[bool] = True

    def __init__(
        self,
        backbone: Backbone = DEFAULT_BACKBONE,
        template: Text = "pair",
        max_length: Count = 512,
        rerank: Rerank | None = None,
        optimizer: Annotated[Node, OPTIMIZERS] = {"name": "adamw", "lr": 2e-5},  # noqa: B006
        schedule: Annotated[Node, SCHEDULES] = {"name": "linear", "warmup": 0.1},  # noqa: B006
        **options: Unpack[TextOptions],
    ) -> None:
        super().__init__(backbone, template, max_length, optimizer=optimizer, schedule=schedule, **options)
        self.rerank = rerank

    @classmethod
    def batch_and_judging(cls, options: Mapping[str, Any]) -> tuple[type[Batch], type[Judging]]:
        """Groups of texts; with `rerank`, a pool."""
        return (PoolBatch, RerankJudging) if options.get("rerank") else (cls.batch_type, cls.judging)

    @property
    def data(self) -> PoolData:
        """The run's pool and queries."""
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def reading(self) -> Reading:
        """Read nothing but texts, which are taken from the pool."""
        return Reading()

    def training_scores(
        self, batch: TextBatch | PoolBatch
    ) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B K"], Bool[Tensor, "B K"]]:
        """Scores, labels and mask of a group; over a pool, of each query's candidates in the batch."""
        if isinstance(batch, TextBatch):
            return super().training_scores(batch)
        if int(batch.mask.sum(dim=1).max()) > _MOST_PAIRS:
            problem = f"each query would be read with more than {_MOST_PAIRS} candidates in each step."
            raise ConfigError("datamodule.negatives", problem, cure="mined or partition, with few num_negatives")
        pool = self.data.pool
        queries = [pool.queries.text(query) for query in batch.group.tolist()]
        rows = [batch.rows[there].tolist() for there in batch.mask]
        scores = self.score(queries, [[pool.text(row) for row in each] for each in rows])
        filled = scores.new_zeros(batch.mask.shape).masked_scatter(batch.mask, scores)
        return filled, batch.labels.to(torch.float32), batch.mask
