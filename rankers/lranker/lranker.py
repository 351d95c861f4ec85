"""LRanker: a language model embeds the query together with all candidates, summarised as centroids."""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from language_models.backbone import Backbone
from language_models.lora import Lora, add_lora, is_adapter, lora_targets
from rankers.judging.judging import Judging
from rankers.judging.share_curve import ShareCurve
from rankers.lranker.aggregators import Aggregator
from rankers.lranker.candidate_encoding import encode_pool
from rankers.lranker.candidate_memory import CandidateMemory
from rankers.lranker.context_embeddings import ContextEmbeddings
from rankers.lranker.mixing import Mixing, mix
from rankers.lranker.pool_contexts import PoolContexts
from rankers.lranker.prompt import Pooling, check_template
from rankers.lranker.prompt_reader import Injection, PromptReader
from rankers.lranker.prompt_tokenizer import PromptTokenizer
from rankers.lranker.query_embedder import PromptEmbedder, SeparatePrompts, SharedPrefixes, shares_prefixes
from rankers.lranker.scaling.grid import ScalingGrid
from rankers.lranker.scaling.judging import ScaledJudging
from rankers.lranker.scaling.scaling import Scaling
from rankers.pool_ranker import POOL_METRICS, PoolRanker
from ranking.pools.pool_batch import Contexts, PoolBatch
from ranking.pools.pool_data import Reading
from ranking.stores.candidate_pool import CandidatePool
from ranking.vectors.partitions import Partitions
from registry import (
    AGGREGATORS,
    LOSSES,
    METRICS,
    OPTIMIZERS,
    PROJECTORS,
    RANKERS,
    SCHEDULES,
    ConfigError,
    Node,
)
from registry.ranges import Count, FeatureDim, Limit, Temperature, Text

DEFAULT_BACKBONE, DEFAULT_LORA, DEFAULT_SCALING, DEFAULT_MIXING = Backbone(), Lora(), Scaling(), Mixing()


@RANKERS.register("lranker")
class LRanker(PoolRanker):
    """LRanker: score(q, c) = <h_q, h_c> / temperature.

    "LRanker: LLM Ranker for Massive Candidates", sections 3.1 and 3.2.

    h_q is a language model's embedding of a prompt. The prompt contains the query and the centroids of the candidates,
    either as one input embedding or as a prefix of several (Eqs. 3-7). h_c is the candidate's stored vector, or its
    embedding by the same model (Eq. 8).

    Args:
        feature_dim: Size D of the stored vectors, and of the vectors whose inner products are the scores.
        backbone: The language model.
        template: The prompt: the name of a template, or a text with `{query}` and `<|embedding|>`.
        injection: How centroids enter the prompt: `placeholder` for one embedding of all centroids, or `prefix` for one
            embedding per centroid before the prompt.
        pooling: The tokens whose hidden states are averaged: `query_eos` for the query's own tokens and the last one
            (Eq. 7), `mean` for all tokens, or `last` for the last one.
        aggregator: Summarises a set of candidates as centroids; null to embed queries without the candidates.
        projector: Maps centroids to input embeddings; null for `mlp` at a placeholder and `linear` in a prefix.
        lora: How to train the language model with LoRA; null to keep its weights frozen.
        normalize: Scale query and candidate vectors to length 1.
        temperature: Scores are divided by it in training.
        candidates: `cached` to use the stored vectors of candidates, or `encoded` to embed candidates with the model in
            training: those of each batch in training, and the whole pool at each validation.
        memory: With encoded candidates: the number of candidates of earlier steps whose vectors of then are further
            negatives of all queries; 0 for none.
        max_length: The longest prompt, in tokens; the ends of longer queries are cut off.
        gradient_checkpointing: Recompute hidden states in the backward pass instead of storing them.
        exclude_positive: In training, leave a query's positive out of the centroids that the query is read with.
        scaling: Options of test-time scaling; null for direct ranking.
        mixing: Options of the frozen encoder's share in each score; null for the ranker's own scores alone.
        start_counts: Whether the state before training can be the best checkpoint: a validation before the first step.
        loss: What training minimises; null for Eq. 10.

    Note:
        With encoded candidates, the contexts of training and of the whole pool still use stored vectors. The contexts
        of test-time scaling use the encoded vectors.

    Note:
        If the backbone's width is not D, a trained linear map follows it.

    Note:
        `mixing` and `start_counts` are not in the paper. Encoded candidates are not in the space of the encoder's
        vectors of queries, so there is no `mixing` with them, nor in a pool without vectors of queries.
    """

    judging: ClassVar[type[Judging]] = ScaledJudging

    scaling: Scaling | None
    """Options of test-time scaling, and the chosen width and depth once validation chose; None for direct ranking."""

    grid: ScalingGrid | None = None
    """The validation results of each width and depth of scaling."""

    mixing: Mixing | None
    """Options of the encoder's share, and the chosen one once validation chose; None for the ranker's scores alone."""

    curve: ShareCurve | None = None
    """The validation results of each share of the encoder."""

    def __init__(
        self,
        feature_dim: FeatureDim,
        backbone: Backbone = DEFAULT_BACKBONE,
        template: Text = "passage_ranking",
        injection: Injection = "placeholder",
        pooling: Pooling = "query_eos",
        aggregator: Annotated[Node, AGGREGATORS] | None = "kmeans",
        projector: Annotated[Node, PROJECTORS] | None = None,
        lora: Lora | None = DEFAULT_LORA,
        normalize: bool = True,
        temperature: Temperature = 0.15,
        candidates: Literal["cached", "encoded"] = "cached",
        memory: Limit = 0,
        max_length: Count = 256,
        gradient_checkpointing: bool = False,
        exclude_positive: bool = False,
        scaling: Scaling | None = DEFAULT_SCALING,
        mixing: Mixing | None = DEFAULT_MIXING,
        start_counts: bool = True,
        loss: Annotated[Node, LOSSES] | None = None,
        optimizer: Annotated[Node, OPTIMIZERS] = {"name": "adamw", "weight_decay": 0.01},  # noqa: B006
        schedule: Annotated[Node, SCHEDULES] = {"name": "cosine", "warmup": 0.1},  # noqa: B006
        metrics: list[Annotated[Node, METRICS]] = POOL_METRICS,
    ) -> None:
        super().__init__(loss=loss, optimizer=optimizer, schedule=schedule, metrics=metrics)
        self.feature_dim, self.max_length = feature_dim, max_length
        self._described = backbone
        self._injection: Injection = injection
        self._pooling: Pooling = pooling
        self._template, self._lora, self.temperature = template, lora, temperature
        self.normalize, self.candidates = normalize, candidates
        self._gradient_checkpointing = gradient_checkpointing
        self.exclude_positive = exclude_positive
        self.aggregator: Aggregator | None = None
        if aggregator is not None:
            path = "ranker.aggregator"
            self._summary = AGGREGATORS.complete(aggregator, {"feature_dim": feature_dim}, path)
            self.aggregator = AGGREGATORS.build(self._summary, path=path)
        # Without contexts, every part of the pool gives the same embedding.
        self.scaling = scaling if aggregator is not None else None
        self.mixing = mixing if candidates == "cached" else None
        self.start_counts = start_counts
        if memory and candidates == "cached":
            problem = "stored vectors do not change, so that there is nothing to remember."
            raise ConfigError("ranker.memory", problem, cure="0, or ranker.candidates=encoded")
        self._memory = CandidateMemory(memory) if memory else None
        self._projector = projector or ("mlp" if injection == "placeholder" else "linear")
        check_template(template, placed=self._placed)
        self.backbone: Any = None
        self.context: ContextEmbeddings | None = None
        self.head: nn.Linear | None = None
        self.contexts: PoolContexts | None = None
        self._examples: Contexts | None = None
        self._encoded: Tensor | None = None
        self._encoded_at: int | None = None

    def configure_model(self) -> None:
        """Load the backbone and add the trained modules; only the first call does this.

        Raises:
            ConfigError: If the backbone cannot be loaded, or its context or `max_length` is too short for the prompts.
        """
        if self.backbone is not None:
            return
        backbone = self._described.load()
        self._described.check_length(self.max_length, "ranker", backbone)
        # Refuse a template without room for a query before any file is written.
        _ = self._tokens
        add_lora(backbone, self._lora)
        if self._gradient_checkpointing:
            _checkpoint_blocks(backbone)
        width = backbone.config.hidden_size
        if self.aggregator is not None:
            self.context = ContextEmbeddings(
                self._projector,
                self._injection,
                self.feature_dim,
                self.aggregator.num_centroids,
                width,
                _root_mean_square(backbone),
            )
        if width != self.feature_dim:
            self.head = nn.Linear(width, self.feature_dim, bias=False)
            nn.init.orthogonal_(self.head.weight)
        self.backbone = backbone
        # Models are loaded in evaluation mode, and Lightning does not change the mode of modules.
        self.train(self.training)

    def check_backbone(self, *, download: bool) -> None:
        """Refuse what the backbone cannot do, using its config, its tokenizer and the hash of its weights."""
        outline = self._described.checked_outline(self.max_length, "ranker", download=download)
        if outline is None:
            return
        _ = self._tokens
        if self._lora is not None:
            lora_targets(outline, self._lora)

    def prepare(self, pool: CandidatePool, partitions: Partitions | None) -> None:
        """Summarise a pool and its parts, or read saved summaries; required before training and embedding.

        Args:
            pool: The candidates.
            partitions: The parts of the pool that queries are trained with; None for embedding only, or if each query
                has its own candidates.
        """
        known = self.contexts
        if self.aggregator is None or (known and known.pool is pool and known.partitions is partitions):
            return
        self.configure_model()
        assert self.context is not None
        self.contexts = PoolContexts(pool, partitions, self.aggregator, self._summary, members=self.exclude_positive)
        self._examples = self.contexts.of_some_lists() if partitions is None else None
        with torch.no_grad():
            self.context.calibrate(self._refined(self._references_on(self.device)))

    @property
    def partition_contexts(self) -> Contexts:
        """The contexts of all parts of the pool; the last one is that of the whole pool."""
        assert self.contexts is not None, "prepare() was not called"
        return self.contexts.on(self.device)

    def train(self, mode: bool = True) -> "LRanker":
        """Set the mode; a frozen backbone stays in evaluation mode, without dropout."""
        super().train(mode)
        if self.backbone is not None and self._lora is None:
            self.backbone.eval()
        return self

    def reading(self) -> Reading:
        """Read queries as tokens; also candidates, if the model in training encodes them."""
        candidates = self.tokenize_candidates if self.candidates == "encoded" else None
        return Reading(self.tokenize, candidates, lambda: self.num_cut)

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """The queries' own tokens, cut so that their prompts fit into `max_length`; `num_cut` counts the cut ones.

        Raises:
            ValueError: If a text has no tokens.
        """
        return self._tokens.queries(texts)

    def tokenize_candidates(self, texts: Sequence[str]) -> list[list[int]]:
        """The candidates' own tokens, cut so that they fit into `max_length`; `num_cut` counts the cut ones.

        Raises:
            ValueError: If a text has no tokens.
        """
        return self._tokens.candidates(texts)

    @property
    def num_cut(self) -> int:
        """How many texts have been cut so far."""
        return self._tokens.num_cut

    def training_scores(
        self, batch: PoolBatch
    ) -> tuple[Float[Tensor, "B C"], Bool[Tensor, "B C"] | Float[Tensor, "B C"], Bool[Tensor, "B C"]]:
        """Score each query, read in the context of its part of the pool, against every candidate of the batch."""
        queries = self._finish(self._reader.read(batch.tokens, batch.lengths, *self._training_contexts(batch)))
        if self.candidates == "encoded":
            assert batch.candidate_tokens is not None and batch.candidate_lengths is not None
            candidates = self.embed_candidates(batch.candidate_tokens, batch.candidate_lengths)
        else:
            candidates = self.candidate_vectors(batch.candidates)
        labels, mask = batch.labels, batch.mask
        if self._memory is not None:
            remembered, allowed = self._memory.negatives(batch, self.data, candidates)
            candidates, mask = torch.cat([candidates, remembered]), torch.cat([mask, allowed], dim=1)
            labels = nn.functional.pad(labels, (0, len(remembered)))
        with torch.autocast(queries.device.type, enabled=False):
            return queries @ candidates.T / self.temperature, labels, mask

    def training_step(self, batch: PoolBatch, batch_idx: int) -> Tensor:
        """The loss of one batch; also logs how often a query's context includes its right candidate."""
        loss = super().training_step(batch, batch_idx)
        if self.contexts is not None:
            positives = _positives(batch)
            if batch.own is not None:
                shown = (batch.own == positives.unsqueeze(1)).any(dim=1)
            else:
                index = batch.partition % len(self.contexts.table.mask)
                shown = self.contexts.inside(index.cpu(), positives.cpu())
            self.log("train/positive_in_partition", shown.float().mean(), batch_size=len(shown))
        return loss

    def on_fit_start(self) -> None:
        """Summarise the pool and its parts, and forget the candidates of an earlier training."""
        self._prepare_from_data()
        if self._memory is not None:
            self._memory.forget()

    def on_validation_start(self) -> None:
        """Summarise the pool, if training has not; encode it, unless its stored vectors are used."""
        self._prepare_from_data()
        self._encode_candidates()

    def on_test_start(self) -> None:
        """Summarise the pool, if training has not; encode it, unless its stored vectors are used."""
        self._prepare_from_data()
        self._encode_candidates()

    def attach(self, pool: CandidatePool) -> None:
        """Set the pool to rank outside of a run."""
        super().attach(pool)
        self.prepare(pool, None)
        self._encode_candidates()

    def query_vectors(self, batch: PoolBatch) -> Float[Tensor, "B V E"]:
        """Each query's direct embedding and, after training, the embedding of test-time scaling."""
        judging = self._judging
        assert isinstance(judging, ScaledJudging)
        return judging.query_vectors(batch)

    def final_vectors(self, batch: PoolBatch, start: Float[Tensor, "B E"] | None) -> Float[Tensor, "B E"]:
        """The embedding of test-time scaling with the encoder's share, as far as validation chose them."""
        vectors = self.query_vectors(batch)[:, -1:]
        share = self.mixing.share if self.mixing is not None else None
        return (mix(vectors, start, share) if share and start is not None else vectors)[:, 0]

    def embed_batch(self, batch: PoolBatch) -> Float[Tensor, "B E"]:
        """Each query's embedding in the context of all its candidates, that is, scaling with depth 0."""
        if self.context is None:
            with torch.no_grad():
                return self._finish(self._reader.read(batch.tokens, batch.lengths))
        whole = Contexts(*(each.unsqueeze(1) for each in self.whole_contexts(batch)))
        return self.embedder(batch.tokens, batch.lengths)(whole)[:, 0]

    def refresh_candidates(self) -> None:
        """Encode the pool again in training, unless no step was made since it was encoded."""
        if self._encoded_at != self.trainer.global_step:
            self._encode_candidates()

    def candidates_to_rank(self) -> Any:
        """The pool, or its candidates as encoded by the current model."""
        return super().candidates_to_rank() if self._encoded is None else self._encoded

    def candidate_scales(self) -> Float[Tensor, " N"] | None:
        """1 / length of each candidate vector; None if the vectors are used as they are."""
        return super().candidate_scales() if self._encoded is None else None

    def whole_contexts(self, batch: PoolBatch) -> Contexts:
        """The context of each query's own candidates, or of the whole pool if queries have no own candidates."""
        size = len(batch.tokens)
        if self.aggregator is None:
            nothing = batch.candidates.new_zeros(size, 1, 1, dtype=torch.float32)
            return Contexts(nothing, nothing[..., 0].bool())
        assert self.contexts is not None, "prepare() was not called"
        if batch.own is not None:
            return self.contexts.of_lists(batch.own)
        return Contexts(*(each[-1:].expand(size, *each.shape[1:]) for each in self.contexts.on(batch.tokens.device)))

    def embedder(
        self, tokens: Int[Tensor, "B T"], lengths: Int[Tensor, " B"], count: Callable[[int], None] | None = None
    ) -> PromptEmbedder:
        """Embeds these queries in contexts `[B, P, K, D]` as `[B, P, E]`, without gradients.

        Args:
            tokens: The queries' own tokens, padded on the right.
            lengths: How many tokens each query has.
            count: Is told how many contexts were read.
        """
        reading = SharedPrefixes if len(tokens) and self._shares_prefixes else SeparatePrompts
        with torch.no_grad():
            return PromptEmbedder(self._project, reading(self._reader, tokens, lengths), self._finish, count)

    def embed_candidates(self, tokens: Int[Tensor, "C U"], lengths: Int[Tensor, " C"]) -> Float[Tensor, "C E"]:
        """Embed candidates with the model in training: the mean over their tokens and the last one (Eq. 8)."""
        return self._finish(PromptReader(self.backbone, self._tokens.bare).read(tokens, lengths))

    def candidate_vectors(self, vectors: Float[Tensor, "C D"]) -> Float[Tensor, "C E"]:
        """Convert stored vectors to fp32, normalized if the ranker normalizes."""
        return self._scaled(vectors.float())

    def description(self) -> dict[str, Any]:
        """The ranker's description, with the hash of the backbone's weights and what validation chose."""
        described = super().description()
        described["ranker"]["backbone"] = {"gguf": None, **self._described.identity()}
        if self.scaling is not None:
            described["ranker"]["scaling"] = dataclasses.asdict(self.scaling)
        if self.mixing is not None:
            described["ranker"]["mixing"] = dataclasses.asdict(self.mixing)
        return described

    def findings(self) -> dict[str, Any]:
        """The width and depth of scaling and the encoder's share that validation chose, with the results of all."""
        chosen = {"scaling": self.grid, "mixing": self.curve}
        return {name: each.plain() for name, each in chosen.items() if each is not None}

    def draw_findings(self, folder: Path) -> dict[str, Path]:
        """Draw the validation metric of each width and depth of scaling."""
        if self.grid is None:
            return {}
        self.grid.draw(folder / "scaling.png")
        return {"val/scaling": folder / "scaling.png"}

    def is_kept(self, name: str) -> bool:
        """Whether checkpoints hold a weight: all but the frozen ones of the backbone."""
        return not name.startswith("backbone.") or is_adapter(name)

    @cached_property
    def _tokens(self) -> PromptTokenizer:
        num_prefix = self.aggregator.num_centroids if self.aggregator and self._injection == "prefix" else 0
        return PromptTokenizer(
            self._described.tokenizer(),
            self._template,
            placed=self._placed,
            max_length=self.max_length,
            num_prefix=num_prefix,
        )

    @property
    def _placed(self) -> bool:
        return self.aggregator is not None and self._injection == "placeholder"

    @property
    def _reader(self) -> PromptReader:
        return PromptReader(self.backbone, self._tokens.prompt, self._injection, self._pooling)

    @cached_property
    def _shares_prefixes(self) -> bool:
        return shares_prefixes(self._reader, self.max_length)

    def _encode_candidates(self) -> None:
        """Encode the pool in the precision of training, if a trainer is attached."""
        if self.candidates != "encoded":
            return
        trainer = self._trainer
        precision = contextlib.nullcontext() if trainer is None else trainer.precision_plugin.forward_context()
        shared = trainer is not None and trainer.world_size > 1
        with precision:
            self._encoded = encode_pool(
                self.pool, self.tokenize_candidates, self.embed_candidates, self.device, distributed=shared
            )
        self._encoded_at = None if trainer is None else trainer.global_step

    def _prepare_from_data(self) -> None:
        self.prepare(self.data.pool, self.data.partitions)

    def _training_contexts(self, batch: PoolBatch) -> tuple[()] | tuple[Float[Tensor, "B N H"], Bool[Tensor, "B K"]]:
        """Each query's context as input embeddings; a context that several queries share is projected once."""
        if self.context is None:
            return ()
        assert self.contexts is not None, "prepare() was not called"
        device = batch.tokens.device
        others = self._references_on(device)
        if batch.own is not None:
            own = batch.own
            if self.exclude_positive:
                own = own.masked_fill(own == _positives(batch).unsqueeze(1), -1)
            return self._project(self.contexts.of_lists(own), others)
        table = self.contexts.on(device)
        index = batch.partition % len(table.mask)
        if self.exclude_positive:
            found = self.contexts.without(index.cpu(), _positives(batch).cpu())
            return self._project(Contexts(*(each.to(device) for each in found)), others)
        unique, place = index.unique(return_inverse=True)
        embeddings, mask = self._project(Contexts(*(each[unique] for each in table)), others)
        return embeddings[place], mask[place]

    def _references_on(self, device: torch.device) -> Contexts:
        """Contexts of the same kind as those of the queries."""
        assert self.contexts is not None
        if self._examples is None:
            return self.contexts.on(device)
        return Contexts(*(each.to(device) for each in self._examples))

    def _project(
        self, contexts: Contexts, references: Contexts | None = None
    ) -> tuple[Float[Tensor, "P N H"], Bool[Tensor, "P K"]]:
        """Contexts as input embeddings, and, for a prefix, which of them exist."""
        assert self.context is not None
        more = None if references is None else self._refined(references)
        return self.context(self._refined(contexts), more), contexts.mask

    def _refined(self, contexts: Contexts) -> Contexts:
        """Contexts after the trained part of the aggregator."""
        assert self.aggregator is not None
        return Contexts(self.aggregator(contexts), contexts.mask)

    def _finish(self, states: Float[Tensor, "*B H"]) -> Float[Tensor, "*B E"]:
        """Convert pooled states to the vectors to score with, in fp32."""
        return self._scaled((states if self.head is None else self.head(states)).float())

    def _scaled(self, vectors: Float[Tensor, "*B E"]) -> Float[Tensor, "*B E"]:
        return nn.functional.normalize(vectors, dim=-1) if self.normalize else vectors


def _positives(batch: PoolBatch) -> Int[Tensor, " B"]:
    """The row of the right candidate of each query of a training batch."""
    return batch.rows[batch.labels.argmax(dim=1)]


def _checkpoint_blocks(backbone: Any) -> None:
    """Turn on gradient checkpointing for each block."""
    # The first name is that of transformers 5.
    enable = getattr(backbone, "activation_checkpointing_enable", None) or backbone.gradient_checkpointing_enable
    try:
        enable({"use_reentrant": False})
    except ValueError as error:
        raise ConfigError("ranker.gradient_checkpointing", f"{error}", cure="set it to false") from error


def _root_mean_square(backbone: Any) -> float:
    """The root mean square of a model's token embeddings, at the input of its first block."""
    embed = backbone.get_input_embeddings()
    step = max(1, embed.num_embeddings // 4096)
    with torch.no_grad():
        vectors = embed(torch.arange(0, embed.num_embeddings, step, device=backbone.device))
    return float(vectors.detach().float().square().mean().sqrt())
