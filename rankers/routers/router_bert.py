"""RouterBERT: an encoder reads the query and has one output for each model."""

from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, Unpack

import torch
from jaxtyping import Float
from torch import Tensor, nn

from language_models.backbone import Backbone
from language_models.conversation import Conversation
from language_models.lora import Lora, lora_targets
from language_models.states.pooling import Pooling
from rankers.base import Reporting
from rankers.text.text_ranker import DEFAULT_LORA, TextRanker
from ranking.batch import TextBatch
from registry import LOSSES, OPTIMIZERS, RANKERS, SCHEDULES, ConfigError, Node
from registry.ranges import Count, Text

DEFAULT_BACKBONE = Backbone(model="google-bert/bert-base-uncased")


@RANKERS.register("router_bert")
class RouterBERT(TextRanker):
    """A classifier of queries (RouteLLM's BERT, Ong et al. 2024, arXiv 2406.18665): s(q, m) = w_m . h(q) + b_m.

    Candidates are told apart by their texts. One that no training query has scores below all known ones.

    Note:
        The original has three classes for two models: one wins, the other wins, or a tie. This one has an output for
        each of any number of models, trained by a loss on their labels.

    Args:
        backbone: The model that reads the query.
        max_length: The most tokens of a query; the ends of longer ones are cut off.
        models: The texts of the models, in the order of the outputs; null for those of the training queries.
        train: Which weights are trained: `all`, `lora` for low-rank corrections and the head, or only the `head`.
        lora: The low-rank corrections, with `train: lora`.
        pooling: The state that the outputs read: that of the `first` or `last` token, or the `mean` over all tokens;
            `auto` is `last` for a causal backbone and `first` for a bidirectional one.
        batch_tokens: The most tokens that the backbone reads at once.
        gradient_checkpointing: Keep only tokens for the backward pass and read them again there.
    """

    default_loss: ClassVar[Node] = "bce"
    can_be_sharded: ClassVar[bool] = False

    def __init__(
        self,
        backbone: Backbone = DEFAULT_BACKBONE,
        max_length: Count = 512,
        models: list[Text] | None = None,
        train: Literal["all", "lora", "head"] = "all",
        lora: Lora = DEFAULT_LORA,
        pooling: Literal["auto"] | Pooling = "auto",
        batch_tokens: Count = 8192,
        gradient_checkpointing: bool = False,
        loss: Annotated[Node, LOSSES] | None = None,
        optimizer: Annotated[Node, OPTIMIZERS] = {"name": "adamw", "lr": 2e-5},  # noqa: B006
        schedule: Annotated[Node, SCHEDULES] = {"name": "linear", "warmup": 0.1},  # noqa: B006
        **reporting: Unpack[Reporting],
    ) -> None:
        super().__init__(
            backbone,
            "plain",
            max_length,
            train=train,
            lora=lora,
            pooling=pooling,
            batch_tokens=batch_tokens,
            gradient_checkpointing=gradient_checkpointing,
            loss=loss,
            optimizer=optimizer,
            schedule=schedule,
            **reporting,
        )
        self.models = models
        self._num_outputs = len(models or (1,))

    def learn_from(self, data: Any) -> None:
        """Make an output for each model of the training queries, unless the options name the models."""
        if self.models is not None:
            return
        found: dict[str, None] = {}
        for batch in data.evaluation_batches("train", data.most_candidates("train"), 1):
            for texts, mask in zip(batch.candidates, batch.mask.tolist(), strict=True):
                found |= dict.fromkeys(text for text, there in zip(texts, mask, strict=True) if there)
        assert isinstance(self.head, nn.Linear), "configure_model() was not called"
        self.models = list(found)
        head = nn.Linear(self.head.in_features, len(found))
        nn.init.normal_(head.weight, std=1 / (head.in_features + 1) ** 0.5)
        nn.init.zeros_(head.bias)
        self.head = head.to(self.device)

    def _check_room(self) -> None:
        """Nothing to check: it reads the query alone."""

    def check_backbone(self, *, download: bool) -> None:
        """Refuse what the backbone cannot do, using its config, its tokenizer and the hash of its weights."""
        outline = self._described.checked_outline(self.max_length, "ranker", download=download)
        if outline is not None and self._train == "lora":
            lora_targets(outline, self._lora)

    def forward(self, batch: TextBatch) -> Float[Tensor, "B K"]:
        """The output of each candidate; equal queries are read once."""
        distinct = list(dict.fromkeys(batch.queries))
        outputs = self._scores([Conversation((), [tokens]) for tokens in self._tokens(distinct)])
        lowest = outputs.min(dim=1, keepdim=True).values.detach() - 1
        outputs = torch.cat([outputs, lowest], dim=1)
        # A batch may be empty, and PyTorch makes an empty list a tensor of floats.
        integers = {"dtype": torch.int64, "device": outputs.device}
        row = torch.tensor([distinct.index(query) for query in batch.queries], **integers)
        numbers = self._numbers
        place = [[numbers.get(text, len(numbers)) for text in texts] for texts in batch.candidates]
        return outputs[row].gather(1, torch.tensor(place, **integers).view(batch.mask.shape))

    def description(self) -> dict[str, Any]:
        """The ranker's description, with the models in the order of the outputs."""
        described = super().description()
        described["ranker"]["models"] = self.models
        return described

    def _scores(self, conversations: Sequence[Conversation]) -> Float[Tensor, "N M"]:
        assert isinstance(self.head, nn.Linear), "configure_model() was not called"
        with torch.set_grad_enabled(torch.is_grad_enabled() and self._train != "head"):
            pooled = self.reader.read(conversations, self._pooled)
        with torch.autocast(pooled.device.type, enabled=False):
            return self.head(pooled.to(self.head.weight.dtype)).float()

    def _tokens(self, queries: Sequence[str]) -> list[list[int]]:
        """The tokens of each query, with the special ones around it."""
        if not queries:
            return []
        found = self._tokenizer(list(queries), truncation=True, max_length=self.max_length)["input_ids"]
        if [] in found:
            problem = f"a query has no tokens: {queries[found.index([])][:80]!r}."
            raise ConfigError("ranker.backbone", problem, cure="another backbone, or leave this query out")
        return found

    @cached_property
    def _tokenizer(self) -> Any:
        return self._described.tokenizer()

    @property
    def _numbers(self) -> dict[str, int]:
        return {text: number for number, text in enumerate(self.models or ())}
