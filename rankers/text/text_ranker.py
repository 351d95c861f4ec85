"""TextRanker: the base of all rankers that read query and candidate together and give a scalar."""

from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, TypedDict, Unpack

import torch
from annotated_types import Interval
from jaxtyping import Float
from torch import Tensor, nn

from language_models.backbone import Backbone
from language_models.conversation import Conversation
from language_models.lora import Lora, add_lora, lora_targets
from language_models.precision import print_once
from language_models.states.block_states import base_of, blocks_of
from language_models.states.pooling import Pooling
from rankers.base import Ranker, Training
from rankers.text.pair_template import PairTemplate, check_pair_template
from ranking.batch import Batch, TextBatch
from registry import LOSSES, METRICS, ConfigError, Node
from registry.ranges import Count

DEFAULT_LORA = Lora(rank=64, alpha=64.0, dropout=0.0)
Trained = Literal["all", "lora", "head", "nothing"]


class TextOptions(TypedDict, total=False):
    """Options of all rankers that read query and candidate together.

    Args:
        train: Which weights are trained: `all`, `lora` for low-rank corrections and the head, only the `head`, or
            `nothing`.
        lora: The low-rank corrections, with `train: lora`.
        head: `new` for a linear layer on the pooled state, `pretrained` for the backbone's own classification head.
        num_outputs: Outputs of a new head: 1, or 2 for two classes, whose difference is the score.
        pooling: The state that a new head reads: that of the `first` or `last` token, or the `mean` over all tokens;
            `auto` is `last` for a causal backbone and `first` for a bidirectional one.
        max_query_length: The most tokens of a query, whose end is cut off; null for three quarters of `max_length`.
        batch_tokens: The most tokens that the backbone reads at once.
        gradient_checkpointing: Keep only tokens for the backward pass and read them again there, `batch_tokens` at a
            time.
        loss: What training minimises; null for the ranker's default loss.
        metrics: The metrics that validation and test report.
    """

    train: Trained
    lora: Lora
    head: Literal["new", "pretrained"]
    num_outputs: Annotated[int, Interval(ge=1, le=2)]
    pooling: Literal["auto"] | Pooling
    max_query_length: Count | None
    batch_tokens: Count
    gradient_checkpointing: bool
    loss: Annotated[Node, LOSSES] | None
    metrics: list[Annotated[Node, METRICS]]


class TextRanker(Ranker[TextBatch]):
    """A backbone that reads query and candidate as one text, and a head that gives a scalar.

    The state is pooled by the tokens of the text itself, so that a score does not depend on padding, on the size of a
    batch or on the other texts in it, beyond rounding. Equal texts of a batch are read once.

    A subclass sets the defaults.
    """

    batch_type: ClassVar[type[Batch]] = TextBatch
    can_be_sharded: ClassVar[bool] = True
    can_be_rounded: ClassVar[bool] = False

    def __init__(
        self,
        backbone: Backbone,
        template: str,
        max_length: int,
        *,
        train: Trained = "lora",
        lora: Lora = DEFAULT_LORA,
        head: Literal["new", "pretrained"] = "new",
        num_outputs: int = 1,
        pooling: Literal["auto"] | Pooling = "auto",
        max_query_length: int | None = None,
        batch_tokens: int = 8192,
        gradient_checkpointing: bool = False,
        **training: Unpack[Training],
    ) -> None:
        super().__init__(**training)
        check_pair_template(template)
        _check_options(train, lora, head, num_outputs, pooling)
        self.max_length, self._template = max_length, template
        self._max_query_length = max_query_length or max(1, max_length * 3 // 4)
        self._described, self._train, self._lora = backbone, train, lora
        self._head, self._num_outputs = head, num_outputs
        self._pooling: Literal["auto"] | Pooling = pooling
        self._batch_tokens, self._recompute = batch_tokens, gradient_checkpointing
        self.backbone: Any = None
        self.head: nn.Module | None = None
        self._trained: frozenset[str] = frozenset()
        self._told_of_cut = self._is_sharded = False

    def configure_model(self) -> None:
        """Load the backbone and add what is trained, once; with FSDP2, give each process its share of the weights.

        Raises:
            ConfigError: If the backbone cannot be loaded, has no trained head where one is asked for, or is too short.
        """
        if self.backbone is None:
            self.backbone = self._load_backbone()
            self._check_room()
            self._trained = frozenset(name for name, weight in self.named_parameters() if weight.requires_grad)
            # Models are loaded in evaluation mode, and Lightning does not change the mode of modules.
            self.train(self.training)
        if self.device_mesh is not None and not self._is_sharded:
            self._shard(self.device_mesh["data_parallel"])

    def check_backbone(self, *, download: bool) -> None:
        """Refuse what the backbone cannot do, using its config, its tokenizer and the hash of its weights."""
        outline = self._described.checked_outline(self.max_length, "ranker", download=download)
        if outline is None:
            return
        if self._head == "pretrained":
            self._described.check_classifier(outline.config)
        self._check_room()
        if self._train == "lora":
            lora_targets(outline, self._lora)

    def _check_room(self) -> None:
        """Check that the longest text has room for a candidate."""
        self._pairs.check_room()

    @property
    def is_pointwise(self) -> bool:
        """True: each text is read alone."""
        return True

    def forward(self, batch: TextBatch) -> Float[Tensor, "B K"]:
        """Score every candidate of every query."""
        texts = [
            [text for text, there in zip(row, mask, strict=True) if there]
            for row, mask in zip(batch.candidates, batch.mask.tolist(), strict=True)
        ]
        scores = self.score(batch.queries, texts)
        return scores.new_zeros(batch.mask.shape).masked_scatter(batch.mask, scores)

    def score(self, queries: Sequence[str], candidates: Sequence[Sequence[str]]) -> Float[Tensor, " N"]:
        """The scores of all candidates, query by query, in fp32.

        Args:
            queries: One text for each list of candidates.
            candidates: The candidates of each query.
        """
        pairs = [(query, text) for query, texts in zip(queries, candidates, strict=True) for text in texts]
        distinct: dict[str, dict[str, None]] = {query: {} for query in queries}
        for query, text in pairs:
            distinct[query][text] = None
        found = self._scores(self._pairs.conversations(list(distinct), [list(texts) for texts in distinct.values()]))
        self._tell_of_cut()
        once = ((query, text) for query, texts in distinct.items() for text in texts)
        number = {pair: place for place, pair in enumerate(once)}
        return found[torch.tensor([number[pair] for pair in pairs], dtype=torch.long, device=found.device)]

    def train(self, mode: bool = True) -> "TextRanker":
        """Set the mode; a frozen backbone stays in evaluation mode, without dropout."""
        super().train(mode)
        if self.backbone is not None and self._train in ("head", "nothing"):
            self.backbone.eval()
        return self

    def description(self) -> dict[str, Any]:
        """The ranker's description, with the hash of the backbone's weights."""
        described = super().description()
        described["ranker"]["backbone"] = {"gguf": None, **self._described.identity()}
        return described

    def is_kept(self, name: str) -> bool:
        """Whether checkpoints hold a weight: all that are trained, and no frozen ones."""
        return name in self._trained

    def _load_backbone(self) -> Any:
        """The backbone with the weights to train; a new head is added to the ranker."""
        if self._head == "new":
            backbone = self._described.load()
            # Nothing reads the pooler's output, and several processes would wait for its gradient.
            if getattr(backbone, "pooler", None) is not None:
                backbone.pooler = None
            head: nn.Module = _new_head(backbone.config.hidden_size, self._num_outputs)
        else:
            backbone, head, self._pooling = self._described.load_classifier()
        self._described.check_length(self.max_length, "ranker", backbone)
        if self._train == "lora":
            add_lora(backbone, self._lora)
        else:
            backbone.requires_grad_(self._train == "all")
        self.head = head.requires_grad_(self._train != "nothing")
        return backbone

    def _shard(self, mesh: Any) -> None:
        """Shard each block, the rest of the backbone and the head over the processes of a mesh."""
        from torch.distributed.fsdp import fully_shard

        # Look at the model while every process still has it whole.
        self.reader.keep_in_step(mesh.get_group())
        for module in [*blocks_of(self.backbone), base_of(self.backbone), self.head]:
            fully_shard(module, mesh=mesh)
        # Lightning reads checkpoints of shards itself, and would miss the frozen weights in them.
        self.strict_loading, self._is_sharded = False, True

    def _scores(self, conversations: Sequence[Conversation]) -> Float[Tensor, " N"]:
        assert self.head is not None, "configure_model() was not called"
        frozen = self._train in ("head", "nothing")
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            pooled = self.reader.read(conversations, self._pooled)
        # The head computes in fp32: in bfloat16 many scores would be equal.
        with torch.autocast(pooled.device.type, enabled=False):
            outputs = self.head(pooled)
        return outputs[:, -1] - outputs[:, 0] if outputs.shape[1] == 2 else outputs[:, 0]

    def tokens_to_read(self, query: str, candidates: Sequence[str]) -> tuple[int, int]:
        """How many tokens are read to score a query's candidates, and how many of these texts are cut for that."""
        before = self._pairs.num_cut
        (pairs,) = self._pairs.conversations([query], [candidates])
        return sum(len(pairs.prompt) + len(each) for each in pairs.responses), self._pairs.num_cut - before

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of the backbone."""
        return self._described.tokenizer()

    @cached_property
    def _pairs(self) -> PairTemplate:
        return PairTemplate(
            self.tokenizer,
            self._template,
            max_length=self.max_length,
            max_query_length=self._max_query_length,
        )

    @cached_property
    def reader(self) -> Any:
        """The `PooledStates` that reads texts with the backbone."""
        from language_models.states.pooled_states import PooledStates  # here, since it loads transformers

        return PooledStates(
            self.backbone,
            batch_tokens=self._batch_tokens,
            max_length=self.max_length,
            typed=self._pairs.typed,
            recompute=self._recompute,
        )

    @property
    def _pooled(self) -> Pooling:
        if self._pooling != "auto":
            return self._pooling
        return "last" if self.reader.causal else "first"

    def _tell_of_cut(self) -> None:
        if self._pairs.num_cut and not self._told_of_cut:
            self._told_of_cut = True
            print_once(
                f"Some texts are cut: a query is read up to {self._max_query_length} tokens, a pair up to "
                f"ranker.max_length={self.max_length}",
                style="yellow",
            )


def _new_head(hidden_size: int, num_outputs: int) -> nn.Linear:
    head = nn.Linear(hidden_size, num_outputs)
    nn.init.normal_(head.weight, std=1 / (hidden_size + 1) ** 0.5)
    nn.init.zeros_(head.bias)
    return head


def _check_options(train: str, lora: Lora, head: str, num_outputs: int, pooling: str) -> None:
    """Refuse options that would have no effect, and scores of a head that nobody trained."""
    if train != "lora" and lora != DEFAULT_LORA:
        raise ConfigError("ranker.lora", f"has no effect with train: {train}.", cure="ranker.train=lora")
    if head == "pretrained" and num_outputs != 1:
        raise ConfigError("ranker.num_outputs", "has no effect with head: pretrained.", cure="leave it out")
    if head == "pretrained" and pooling != "auto":
        raise ConfigError("ranker.pooling", "has no effect with head: pretrained.", cure="leave it out")
    if head == "new" and train == "nothing":
        problem = "nobody has trained a new head."
        raise ConfigError("ranker.train", problem, given=train, cure="ranker.head=pretrained, or train the head")
