"""LRanker: a language model embeds the query in view of all candidates, summarised by centroids."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from rankers.aggregators import Aggregator
from rankers.context_projection import ContextProjection
from rankers.lora import Lora, add_lora, is_adapter
from rankers.pool_contexts import pool_contexts
from rankers.pool_ranker import Baseline, PoolRanker
from rankers.prompt import Pooling, Prompt, check_template
from rankers.prompt_reader import Injection, PromptReader
from rankers.query_embedder import QueryEmbedder, SeparatePrompts, SharedPrefixes, shares_prefixes
from rankers.scaling_grid import ScalingGrid
from rankers.test_time_scaling import Scaling, scale, scale_grid
from ranking.backbone import Backbone
from ranking.candidate_pool import CandidatePool
from ranking.partitions import Partitions
from ranking.pool_batch import Contexts, PoolBatch
from ranking.pool_evaluation import Relevant
from registry import (
    AGGREGATORS,
    LOSSES,
    OPTIMIZERS,
    PROJECTORS,
    RANK_METRICS,
    RANKERS,
    SCHEDULES,
    ConfigError,
    Node,
)

DEFAULT_BACKBONE, DEFAULT_LORA, DEFAULT_SCALING = Backbone(), Lora(), Scaling()

# Enough of the queries' own lists to know what contexts look like.
_NUM_OWN = 128


@RANKERS.register("lranker")
class LRanker(PoolRanker):
    """LRanker: score(q, c) = <h_q, h_c> / temperature (arXiv id unknown; sections 3.1 and 3.2).

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
        candidates: In training, their vectors as stored, or encoded anew by the model that is trained.
        max_length: Of a prompt, in tokens; longer queries are cut at their end.
        gradient_checkpointing: Compute states again in the backward pass rather than keep them.
        exclude_positive: Take a query's positive out of the centroids it is trained with.
        scaling: Test-time scaling; null for direct ranking.
        baselines: What to report beside it.
        loss: What training minimises; Eq. 10 by default.
        optimizer: How weights follow gradients.
        schedule: How the learning rate changes, step by step.
        metrics: What validation and test report.

    Note:
        Where the backbone is not as wide as the stored vectors, a linear map, trained with it, follows.
    """

    def __init__(
        self,
        feature_dim: int,
        backbone: Backbone = DEFAULT_BACKBONE,
        template: str = "passage_ranking",
        injection: Injection = "placeholder",
        pooling: Pooling = "query_eos",
        aggregator: Annotated[Node, AGGREGATORS] | None = "kmeans",
        projector: Annotated[Node, PROJECTORS] | None = None,
        lora: Lora | None = DEFAULT_LORA,
        normalize: bool = True,
        temperature: float = 0.15,
        candidates: Literal["cached", "encoded"] = "cached",
        max_length: int = 256,
        gradient_checkpointing: bool = False,
        exclude_positive: bool = False,
        scaling: Scaling | None = DEFAULT_SCALING,
        baselines: list[Baseline] = ["bm25", "encoder"],  # noqa: B006
        loss: Annotated[Node, LOSSES] | None = None,
        optimizer: Annotated[Node, OPTIMIZERS] = {"name": "adamw", "weight_decay": 0.01},  # noqa: B006
        schedule: Annotated[Node, SCHEDULES] = {"name": "cosine", "warmup": 0.1},  # noqa: B006
        metrics: list[Annotated[Node, RANK_METRICS]] = [  # noqa: B006
            "mrr",
            "ndcg@10",
            "recall@1",
            "recall@10",
            "recall@100",
        ],
    ) -> None:
        super().__init__(loss=loss, optimizer=optimizer, schedule=schedule, metrics=metrics)
        if temperature <= 0:
            raise ConfigError("ranker.temperature", f"has to be above 0, got {temperature:g}.")
        self.feature_dim, self.max_length = feature_dim, max_length
        self._described, self._injection, self._pooling = backbone, injection, pooling
        self._template, self._lora, self.temperature = template, lora, temperature
        self.normalize, self.baselines, self.candidates = normalize, baselines, candidates
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
        self.context: ContextProjection | None = None
        self.head: nn.Linear | None = None
        self.partition_contexts: Contexts | None = None
        self._own_examples: Contexts | None = None
        self._pool: CandidatePool | None = None
        self._partitions: Partitions | None = None
        self.grid: ScalingGrid | None = None
        self.num_cut = 0

    def configure_model(self) -> None:
        """Load the backbone and add what is trained; once.

        Raises:
            ConfigError: If the backbone cannot be had, or is too short for the prompts.
        """
        if self.backbone is not None:
            return
        backbone = self._described.load()
        longest = getattr(backbone.config, "max_position_embeddings", None)
        if longest is not None and self.max_length > longest:
            raise ConfigError("ranker.max_length", f"{self.max_length} is more than the backbone's {longest}.")
        add_lora(backbone, self._lora)
        if self._gradient_checkpointing:
            _checkpoint_blocks(backbone)
        width = backbone.config.hidden_size
        if self.aggregator is not None:
            self.context = ContextProjection(
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
        self.train(self.training)  # models of the transformers library come in evaluation mode

    def prepare(self, pool: CandidatePool, partitions: Partitions | None) -> None:
        """Summarise a pool and its parts, or read what was summarised before; needed to train and to embed.

        Args:
            pool: The candidates.
            partitions: The parts in which queries are read in training; None to embed only, and where queries have
                candidates of their own.
        """
        if self.aggregator is None or (self._pool is pool and self._partitions is partitions):
            return
        self.configure_model()
        assert self.context is not None
        self._pool, self._partitions = pool, partitions
        self.partition_contexts = pool_contexts(pool, partitions, self.aggregator, self._summary)
        listed = (pool.queries.own_offsets.diff() > 0).nonzero().flatten()
        if partitions is None and len(listed):
            own = [
                pool.queries.own[slice(*pool.queries.own_offsets[query : query + 2].tolist())]
                for query in listed[:: -(-len(listed) // _NUM_OWN)]
            ]
            self._own_examples = self._summarised(nn.utils.rnn.pad_sequence(own, batch_first=True, padding_value=-1))
        with torch.no_grad():
            self.context.calibrate(self._refined(self._examples))

    def train(self, mode: bool = True) -> "LRanker":
        """As ever; a backbone that is not trained drops nothing."""
        super().train(mode)
        if self.backbone is not None and self._lora is None:
            self.backbone.eval()
        return self

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """The queries' own tokens, cut so that their prompts fit into `max_length`; `num_cut` counts the cut ones.

        Raises:
            ValueError: If a text has no tokens.
            ConfigError: If no token of a query fits.
        """
        num_prefix = self.aggregator.num_centroids if self.aggregator and self._injection == "prefix" else 0
        prompt = self._prompt
        return self._cut([prompt.space + text for text in texts], self.max_length - prompt.num_tokens - num_prefix)

    def tokenize_candidates(self, texts: Sequence[str]) -> list[list[int]]:
        """The candidates' own tokens, cut so that they fit into `max_length`; `num_cut` counts the cut ones.

        Raises:
            ValueError: If a text has no tokens.
        """
        return self._cut(list(texts), self.max_length - self._bare_prompt.num_tokens)

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

    def on_fit_start(self) -> None:
        """Summarise the pool and its parts."""
        self._prepare_from_data()

    def on_validation_start(self) -> None:
        """Summarise the pool, where that was not done for training."""
        self._prepare_from_data()

    def on_test_start(self) -> None:
        """Summarise the pool, where that was not done for training."""
        self._prepare_from_data()

    def validation_step(self, batch: PoolBatch, batch_idx: int) -> None:
        """Keep the vectors of one batch, or of those of its queries that scaling is chosen on."""
        vectors = self.query_vectors
        if self._chooses and (most := self.scaling.num_queries) is not None:  # type: ignore[union-attr]
            queries = self.trainer.datamodule.queries("val")  # type: ignore[attr-defined]
            some = queries[torch.linspace(0, len(queries) - 1, min(most, len(queries))).long()]
            if (kept := torch.isin(batch.group.cpu(), some).nonzero().flatten()).numel() == 0:
                return
            batch = batch.only(kept.to(batch.group.device))
        self._state.update(batch.group, vectors(batch))

    def query_vectors(self, batch: PoolBatch) -> Float[Tensor, "B V E"]:
        """Each query's embedding in the context of all its candidates and, after training, those of test-time scaling.

        While width and depth are still to be chosen, these are the vectors of every width and depth; afterwards the
        direct one and the chosen one.
        """
        if self.scaling is None or self._trainer is None or self.trainer.state.fn == "fit":
            return self.embed_batch(batch).unsqueeze(1)
        embed, scaling = self.embedder(batch.tokens, batch.lengths), self.scaling
        given: dict[str, Any] = {
            "num_queries": len(batch.tokens),
            "keep": scaling.keep,
            "limit": scaling.limit,
            "seed": scaling.seed,
            "inverse_norms": self.candidate_scales(),
            "own": batch.own,
            "removed": batch.removed,
        }
        sets = embed, self.candidates_to_rank(), self.aggregator, self.whole_contexts(batch)
        if self._chooses:
            return scale_grid(*sets, widths=self._widths, max_depth=self._max_depth, **given).flatten(1, 2)
        assert scaling.width is not None and scaling.depth is not None
        steps = scale(*sets, width=scaling.width, depth=scaling.depth, **given)
        return torch.stack([steps[:, 0], steps.mean(dim=1)], dim=1)

    def judge_variants(
        self, ranks: Float[Tensor, "V Q P"], relevant: Relevant
    ) -> tuple[int, dict[str, Float[Tensor, "Q P"]]]:
        """The chosen width and depth, with direct ranking beside it."""
        if self.scaling is None or self.trainer.state.fn == "fit":
            return 0, {}
        if not self._chooses:
            return 1, {"depth 0": ranks[0]}
        name, metric = next(iter(self.metrics.items()))
        means = torch.stack([metric(each, relevant.labels, relevant.mask).mean() for each in ranks])
        values = means.view(len(self._widths), self._max_depth + 1)
        self.grid = ScalingGrid(name, self._widths, values, len(relevant.queries))
        width, depth = self.grid.chosen
        place = self.grid.place
        self.scaling = dataclasses.replace(self.scaling, width=width, depth=depth)
        return place, {"depth 0": ranks[0]}

    def findings(self) -> dict[str, Any]:
        """The width and depth of scaling that validation has chosen, and what it chose among."""
        return {} if self.grid is None else {"scaling": self.grid.plain()}

    def embed_batch(self, batch: PoolBatch) -> Float[Tensor, "B E"]:
        """Each query's embedding, read in the context of all its candidates: scaling of depth 0."""
        whole = Contexts(*(each.unsqueeze(1) for each in self.whole_contexts(batch)))
        return self.embedder(batch.tokens, batch.lengths)(whole)[:, 0]

    def whole_contexts(self, batch: PoolBatch) -> Contexts:
        """The context of each query's own candidates or, where it has none, of the whole pool."""
        size = len(batch.tokens)
        if self.aggregator is None:
            nothing = batch.candidates.new_zeros(size, 1, 1, dtype=torch.float32)
            return Contexts(nothing, nothing[..., 0].bool())
        if batch.own is not None:
            return self._summarised(batch.own)
        return Contexts(*(each[-1:].expand(size, *each.shape[1:]) for each in self._table))

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
        return self._finish(PromptReader(self.backbone, self._bare_prompt).read(tokens, lengths))

    def candidate_vectors(self, vectors: Float[Tensor, "C D"]) -> Float[Tensor, "C E"]:
        """Stored vectors as they are scored, in fp32."""
        return self._scaled(vectors.float())

    def description(self) -> dict[str, Any]:
        """As ever, with the hash of the backbone's weights."""
        described = super().description()
        if self.scaling is not None:
            described["ranker"]["scaling"] = dataclasses.asdict(self.scaling)
        described["ranker"]["backbone"] = {"gguf": None, **self._described.identity()}
        return described

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
    def _tokenizer(self) -> Any:
        return self._described.tokenizer()

    @cached_property
    def _prompt(self) -> Prompt:
        return Prompt.of(self._template, self._tokenizer, placed=self._placed)

    @cached_property
    def _bare_prompt(self) -> Prompt:
        return Prompt.of("{query}", self._tokenizer, placed=False)

    @property
    def _placed(self) -> bool:
        return self.aggregator is not None and self._injection == "placeholder"

    @property
    def _reader(self) -> PromptReader:
        return PromptReader(self.backbone, self._prompt, self._injection, self._pooling)

    @cached_property
    def _shares_prefixes(self) -> bool:
        return shares_prefixes(self._reader, self.max_length)

    @property
    def _chooses(self) -> bool:
        """Whether the width and depth of scaling are still to be chosen, now that training is done."""
        scaling = self.scaling
        return scaling is not None and None in (scaling.width, scaling.depth) and self.trainer.state.fn == "validate"

    @property
    def _widths(self) -> list[int]:
        assert self.scaling is not None
        return self.scaling.widths if self.scaling.width is None else [self.scaling.width]

    @property
    def _max_depth(self) -> int:
        assert self.scaling is not None
        return self.scaling.max_depth if self.scaling.depth is None else self.scaling.depth

    def _prepare_from_data(self) -> None:
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        self.prepare(data.pool, data.partitions)

    @property
    def _table(self) -> Contexts:
        """The contexts of all parts and of the whole pool, where the ranker is."""
        assert self.partition_contexts is not None, "prepare() was not called"
        if self.partition_contexts.mask.device != self.device:
            self.partition_contexts = Contexts(*(each.to(self.device) for each in self.partition_contexts))
        return self.partition_contexts

    @property
    def _examples(self) -> Contexts:
        """Contexts like those that queries are read in."""
        if self._own_examples is None:
            return self._table
        return Contexts(*(each.to(self.device) for each in self._own_examples))

    def _summarised(self, own: Int[Tensor, "B L"]) -> Contexts:
        """The contexts of lists of rows, -1 beyond their ends."""
        assert self.aggregator is not None and self._pool is not None, "prepare() was not called"
        mask = own >= 0
        vectors = self._pool.features(own.clamp(min=0).flatten().cpu()).to(own.device).unflatten(0, own.shape)
        return self.aggregator.summarise(vectors.float().masked_fill(~mask.unsqueeze(-1), 0), mask, 0)

    def _training_contexts(self, batch: PoolBatch) -> tuple[()] | tuple[Float[Tensor, "B N H"], Bool[Tensor, "B K"]]:
        """Each query's context as input embeddings; one that several queries share is projected once."""
        if self.context is None:
            return ()
        if batch.own is not None:
            return self._project(self._summarised(batch.own), self._examples)
        table = self._table
        unique, place = (batch.partition % len(table.mask)).unique(return_inverse=True)
        embeddings, mask = self._project(Contexts(*(each[unique] for each in table)), self._examples)
        return embeddings[place], mask[place]

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

    def _cut(self, texts: list[str], room: int) -> list[list[int]]:
        if room < 1:
            problem = f"{self.max_length} leaves no place for a query: the prompt alone has {self.max_length - room}."
            raise ConfigError("ranker.max_length", problem)
        tokens = self._tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []
        for place, (text, ids) in enumerate(zip(texts, tokens, strict=True)):
            if not ids or not text.strip():
                raise ValueError(f"text {place} of {len(texts)} has no tokens: {text.strip()[:80]!r}")
        self.num_cut += sum(len(ids) > room for ids in tokens)
        return [ids[:room] for ids in tokens]

    def _is_frozen(self, name: str) -> bool:
        return name.startswith("backbone.") and not is_adapter(name)


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
