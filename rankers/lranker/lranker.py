"""LRanker: a language model embeds the query in view of all candidates, summarised by centroids."""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from language_models.backbone import Backbone
from language_models.lora import Lora, add_lora, is_adapter, lora_targets
from rankers.judging.judging import Judging
from rankers.lranker.aggregators import Aggregator
from rankers.lranker.candidate_encoding import encode_pool
from rankers.lranker.context_embeddings import ContextEmbeddings
from rankers.lranker.pool_contexts import PoolContexts
from rankers.lranker.prompt import Pooling, check_template
from rankers.lranker.prompt_reader import Injection, PromptReader
from rankers.lranker.prompt_tokenizer import PromptTokenizer
from rankers.lranker.query_embedder import QueryEmbedder, SeparatePrompts, SharedPrefixes, shares_prefixes
from rankers.lranker.scaling.grid import ScalingGrid
from rankers.lranker.scaling.judging import ScaledJudging
from rankers.lranker.scaling.scaling import Scaling
from rankers.pool_ranker import PoolRanker
from ranking.pool_batch import Contexts, PoolBatch
from ranking.pool_data import Reading
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
from registry.ranges import Count, FeatureDim, Temperature, Text

DEFAULT_BACKBONE, DEFAULT_LORA, DEFAULT_SCALING = Backbone(), Lora(), Scaling()


@RANKERS.register("lranker")
class LRanker(PoolRanker):
    """LRanker: score(q, c) = <h_q, h_c> / temperature.

    "LRanker: LLM Ranker for Massive Candidates", sections 3.1 and 3.2.

    h_q is a language model's embedding of a prompt that holds the query and, as one input embedding or as a prefix of
    several, the centroids of the candidates (Eqs. 3-7); h_c is the candidate's stored vector, or its embedding by the
    same model (Eq. 8).

    Args:
        feature_dim: Size D of the stored vectors, and of the space of the scores.
        backbone: The language model.
        template: The prompt: a name, or a text with `{query}` and `<|embedding|>`.
        injection: Where centroids enter: all of them as one embedding at the `placeholder`, or each as one of its own
            in a `prefix`.
        pooling: Which states make the embedding: `query_eos` for the query's own tokens and the last one (Eq. 7),
            `mean` for all tokens, or the `last` one.
        aggregator: What summarises a set of candidates; null for queries that know nothing of the candidates.
        projector: From centroids to input embeddings; null for `mlp` at a placeholder and `linear` in a prefix.
        lora: How the language model is trained; null to keep it as it is.
        normalize: Whether queries and candidates get length one.
        temperature: Divides the scores in training.
        candidates: Their vectors as stored (`cached`), or `encoded` anew by the model that is trained: those of each
            batch in training, and the whole pool at each validation.
        max_length: Of a prompt, in tokens; longer queries are cut at their end.
        gradient_checkpointing: Compute states again in the backward pass rather than keep them.
        exclude_positive: Take a query's positive out of the centroids it is trained with.
        scaling: Test-time scaling; null for direct ranking.
        loss: What training minimises; Eq. 10 by default.
        optimizer: How weights follow gradients.
        schedule: How the learning rate changes, step by step.
        metrics: What validation and test report.

    Note:
        With encoded candidates, contexts in training and of the whole pool are still of stored vectors; those of
        test-time scaling are of the encoded ones.

    Note:
        Where the backbone is not as wide as the stored vectors, a linear map, trained with it, follows.
    """

    judging: ClassVar[type[Judging]] = ScaledJudging

    scaling: Scaling | None
    """Test-time scaling: what to try or, after the validation that chooses, what to do; None for direct ranking."""

    grid: ScalingGrid | None = None
    """What validation found of each width and depth of scaling."""

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
        max_length: Count = 256,
        gradient_checkpointing: bool = False,
        exclude_positive: bool = False,
        scaling: Scaling | None = DEFAULT_SCALING,
        loss: Annotated[Node, LOSSES] | None = None,
        optimizer: Annotated[Node, OPTIMIZERS] = {"name": "adamw", "weight_decay": 0.01},  # noqa: B006
        schedule: Annotated[Node, SCHEDULES] = {"name": "cosine", "warmup": 0.1},  # noqa: B006
        metrics: list[Annotated[Node, METRICS]] = [  # noqa: B006
            "mrr",
            "ndcg@10",
            "recall@1",
            "recall@10",
            "recall@100",
        ],
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
        # Without contexts every part of the pool gives the same embedding.
        self.scaling = scaling if aggregator is not None else None
        self._projector = projector or ("mlp" if injection == "placeholder" else "linear")
        check_template(template, placed=self._placed)
        self.backbone: Any = None
        self.context: ContextEmbeddings | None = None
        self.head: nn.Linear | None = None
        self.contexts: PoolContexts | None = None
        self._examples: Contexts | None = None
        self._encoded: Tensor | None = None

    def configure_model(self) -> None:
        """Load the backbone and add what is trained; once.

        Raises:
            ConfigError: If the backbone cannot be had, or it or `max_length` is too short for the prompts.
        """
        if self.backbone is not None:
            return
        backbone = self._described.load()
        self._described.check_length(self.max_length, "ranker", backbone.config)
        # Refuses a template that leaves no place for a query, before anything is written.
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
        # Lightning leaves each module in the mode it finds it in, and models are loaded in that of evaluation.
        self.train(self.training)

    def check_backbone(self, *, download: bool) -> None:
        """Refuse what the backbone cannot do, as far as its config, its tokenizer and the hash of its weights tell.

        Args:
            download: Whether to get a backbone that is not on this machine; else nothing is known of it.

        Raises:
            ConfigError: As `configure_model`.
        """
        if not download and not self._described.is_here:
            return
        if self._described.sha256 is not None:
            assert self._described.checked_hash
        outline = self._described.outline()
        self._described.check_length(self.max_length, "ranker", outline.config)
        _ = self._tokens
        if self._lora is not None:
            lora_targets(outline, self._lora)

    def prepare(self, pool: CandidatePool, partitions: Partitions | None) -> None:
        """Summarise a pool and its parts, or read what was summarised before; needed to train and to embed.

        Args:
            pool: The candidates.
            partitions: The parts in which queries are read in training; None to embed only, and where queries have
                candidates of their own.
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
        """The contexts of all parts of the pool, and last that of all of it."""
        assert self.contexts is not None, "prepare() was not called"
        return self.contexts.on(self.device)

    def train(self, mode: bool = True) -> "LRanker":
        """As ever; a backbone that is not trained drops nothing."""
        super().train(mode)
        if self.backbone is not None and self._lora is None:
            self.backbone.eval()
        return self

    def reading(self) -> Reading:
        """Queries as tokens; candidates too where they are encoded anew."""
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
        """How many texts were too long so far."""
        return self._tokens.num_cut

    def training_scores(
        self, batch: PoolBatch
    ) -> tuple[Float[Tensor, "B C"], Bool[Tensor, "B C"] | Float[Tensor, "B C"], Bool[Tensor, "B C"]]:
        """Scores of each query, read in the context of its partition, against every candidate of the batch."""
        queries = self._finish(self._reader.read(batch.tokens, batch.lengths, *self._training_contexts(batch)))
        if self.candidates == "encoded":
            assert batch.candidate_tokens is not None and batch.candidate_lengths is not None
            candidates = self.embed_candidates(batch.candidate_tokens, batch.candidate_lengths)
        else:
            candidates = self.candidate_vectors(batch.candidates)
        with torch.autocast(queries.device.type, enabled=False):
            return queries @ candidates.T / self.temperature, batch.labels, batch.mask

    def training_step(self, batch: PoolBatch, batch_idx: int) -> Tensor:
        """As ever; logs how often the candidates that a query is shown hold its right one."""
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
        """Summarise the pool and its parts."""
        self._prepare_from_data()

    def on_validation_start(self) -> None:
        """Summarise the pool, where that was not done for training; encode it where it is not to be read."""
        self._prepare_from_data()
        self._encode_candidates()

    def on_test_start(self) -> None:
        """Summarise the pool, where that was not done for training; encode it where it is not to be read."""
        self._prepare_from_data()
        self._encode_candidates()

    def attach(self, pool: CandidatePool) -> None:
        """Rank this pool, outside of any run."""
        super().attach(pool)
        self.prepare(pool, None)
        self._encode_candidates()

    def query_vectors(self, batch: PoolBatch) -> Float[Tensor, "B V E"]:
        """Each query's direct embedding and, after training, that of test-time scaling."""
        judging = self._judging
        assert isinstance(judging, ScaledJudging)
        return judging.query_vectors(batch)

    def embed_batch(self, batch: PoolBatch) -> Float[Tensor, "B E"]:
        """Each query's embedding in the context of all its candidates: scaling of depth 0."""
        whole = Contexts(*(each.unsqueeze(1) for each in self.whole_contexts(batch)))
        return self.embedder(batch.tokens, batch.lengths)(whole)[:, 0]

    def candidates_to_rank(self) -> Any:
        """The pool, or its candidates as the model encodes them now."""
        return super().candidates_to_rank() if self._encoded is None else self._encoded

    def candidate_scales(self) -> Float[Tensor, " N"] | None:
        """One over each candidate's length; None where they all count as they are."""
        return super().candidate_scales() if self._encoded is None else None

    def whole_contexts(self, batch: PoolBatch) -> Contexts:
        """The context of each query's own candidates or, where it has none, of the whole pool."""
        size = len(batch.tokens)
        if self.aggregator is None:
            nothing = batch.candidates.new_zeros(size, 1, 1, dtype=torch.float32)
            return Contexts(nothing, nothing[..., 0].bool())
        assert self.contexts is not None, "prepare() was not called"
        if batch.own is not None:
            return self.contexts.of_lists(batch.own)
        return Contexts(*(each[-1:].expand(size, *each.shape[1:]) for each in self.contexts.on(batch.tokens.device)))

    def embedder(self, tokens: Int[Tensor, "B T"], lengths: Int[Tensor, " B"]) -> QueryEmbedder:
        """What embeds these queries in any contexts, `[B, P, K, D]`, into `[B, P, E]`; without gradients.

        Args:
            tokens: The queries' own, filled up on the right.
            lengths: How many tokens each query has.
        """
        with torch.no_grad():
            if self.context is None:
                alone = self._finish(self._reader.read(tokens, lengths)).unsqueeze(1)
                return lambda contexts: alone
            shared = self._shares_prefixes
            read = (SharedPrefixes if shared else SeparatePrompts)(self._reader, tokens, lengths)

        @torch.no_grad()
        def embed(contexts: Contexts) -> Float[Tensor, "B P E"]:
            shape = contexts.mask.shape[:2]
            flat = Contexts(*(each.flatten(0, 1) for each in contexts))
            embeddings, mask = self._project(flat)
            return self._finish(read(embeddings.unflatten(0, shape), mask.unflatten(0, shape)))

        return embed

    def embed_candidates(self, tokens: Int[Tensor, "C U"], lengths: Int[Tensor, " C"]) -> Float[Tensor, "C E"]:
        """Candidates by the model that is trained: mean over their tokens and the last one (Eq. 8)."""
        return self._finish(PromptReader(self.backbone, self._tokens.bare).read(tokens, lengths))

    def candidate_vectors(self, vectors: Float[Tensor, "C D"]) -> Float[Tensor, "C E"]:
        """Stored vectors as they are scored, in fp32."""
        return self._scaled(vectors.float())

    def description(self) -> dict[str, Any]:
        """As ever, with the hash of the backbone's weights, and the width and depth of scaling that were chosen."""
        described = super().description()
        described["ranker"]["backbone"] = {"gguf": None, **self._described.identity()}
        if self.scaling is not None:
            described["ranker"]["scaling"] = dataclasses.asdict(self.scaling)
        return described

    def findings(self) -> dict[str, Any]:
        """The width and depth of scaling that validation has chosen, and what it chose among."""
        return {} if self.grid is None else {"scaling": self.grid.plain()}

    def draw_findings(self, folder: Path) -> dict[str, Path]:
        """How each width and depth of scaling did on validation."""
        if self.grid is None:
            return {}
        self.grid.draw(folder / "scaling.png")
        return {"val/scaling": folder / "scaling.png"}

    def state_dict(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        """What is trained: the backbone's own weights stay where they came from."""
        weights = super().state_dict(*arguments, **options)
        prefix = options.get("prefix", "")
        return {name: weight for name, weight in weights.items() if not self._is_frozen(name.removeprefix(prefix))}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """What `state_dict` gave.

        Raises:
            RuntimeError: If weights are missing or unknown, unless not strict; or if they have other shapes.
        """
        self.configure_model()
        expected = self.state_dict().keys()
        missing, unknown = sorted(expected - state_dict.keys()), sorted(state_dict.keys() - expected)
        if strict and (missing or unknown):
            parts = {"missing": missing, "unknown": unknown}
            problem = "; ".join(f"{len(names)} {kind}: {names[0]} ..." for kind, names in parts.items() if names)
            raise RuntimeError(f"weights of LRanker: {problem}")
        return super().load_state_dict(state_dict, strict=False, assign=assign)

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
        """Encode the pool as training encodes its batches: in the trainer's precision, where there is a trainer."""
        if self.candidates != "encoded":
            return
        trainer = self._trainer
        precision = contextlib.nullcontext() if trainer is None else trainer.precision_plugin.forward_context()
        shared = trainer is not None and trainer.world_size > 1
        with precision:
            self._encoded = encode_pool(
                self.pool, self.tokenize_candidates, self.embed_candidates, self.device, distributed=shared
            )

    def _prepare_from_data(self) -> None:
        self.prepare(self.data.pool, self.data.partitions)

    def _training_contexts(self, batch: PoolBatch) -> tuple[()] | tuple[Float[Tensor, "B N H"], Bool[Tensor, "B K"]]:
        """Each query's context as input embeddings; one that several queries share is projected once."""
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
        """Contexts like those that queries are read in."""
        assert self.contexts is not None
        if self._examples is None:
            return self.contexts.on(device)
        return Contexts(*(each.to(device) for each in self._examples))

    def _project(
        self, contexts: Contexts, references: Contexts | None = None
    ) -> tuple[Float[Tensor, "P N H"], Bool[Tensor, "P K"]]:
        """Contexts as input embeddings, and which of these exist in a prefix."""
        assert self.context is not None
        more = None if references is None else self._refined(references)
        return self.context(self._refined(contexts), more), contexts.mask

    def _refined(self, contexts: Contexts) -> Contexts:
        """Contexts after what an aggregator learns."""
        assert self.aggregator is not None
        return Contexts(self.aggregator(contexts), contexts.mask)

    def _finish(self, states: Float[Tensor, "*B H"]) -> Float[Tensor, "*B E"]:
        """From pooled states to what is scored, in fp32."""
        return self._scaled((states if self.head is None else self.head(states)).float())

    def _scaled(self, vectors: Float[Tensor, "*B E"]) -> Float[Tensor, "*B E"]:
        return nn.functional.normalize(vectors, dim=-1) if self.normalize else vectors

    def _is_frozen(self, name: str) -> bool:
        return name.startswith("backbone.") and not is_adapter(name)


def _positives(batch: PoolBatch) -> Int[Tensor, " B"]:
    """The row of the right candidate of each query of a training batch."""
    return batch.rows[batch.labels.argmax(dim=1)]


def _checkpoint_blocks(backbone: Any) -> None:
    """Let the backward pass compute each block's states again."""
    # The first is the name since transformers 5.
    enable = getattr(backbone, "activation_checkpointing_enable", None) or backbone.gradient_checkpointing_enable
    try:
        enable({"use_reentrant": False})
    except ValueError as error:
        raise ConfigError("ranker.gradient_checkpointing", f"{error}", cure="set it to false") from error


def _root_mean_square(backbone: Any) -> float:
    """Of the input embeddings of a model's tokens, as they enter its first block."""
    embed = backbone.get_input_embeddings()
    step = max(1, embed.num_embeddings // 4096)
    with torch.no_grad():
        vectors = embed(torch.arange(0, embed.num_embeddings, step, device=backbone.device))
    return float(vectors.detach().float().square().mean().sqrt())
