"""Encoder: a pretrained model that turns texts into vectors, described so that it can be saved and made again."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Interval
from jaxtyping import Float
from torch import Tensor, nn

from language_models.backbone import Backbone
from language_models.precision import device_named
from ranking.texts import check_texts
from registry.ranges import FilePath, Rows, Text

Report = Callable[[int, int, int], None]
"""Called after each batch with its number of texts, of tokens, and of texts that were cut."""


@dataclass(frozen=True)
class Encoder(Backbone):
    """A model of the transformers library, read from safetensors or GGUF and without code of its own, and its pooling.

    Args:
        dtype: Of the computation. `auto` is bfloat16 on a GPU or processor that has it, else float32; bfloat16 is
            about three times as fast there, and moves the vectors' cosine by some 1e-4.
        pooling: `mean` over the tokens, or the state of the first (`cls`) or `last` token.
        normalize: Whether vectors get length one.
        max_length: In tokens, special ones included; longer texts are cut.
        query_prompt: Put before each query.
        candidate_prompt: Put before each candidate.
        device: `cpu`, `cuda`, ...; `auto` is the first GPU if there is one.
        batch_tokens: Tokens in a batch, padding included; more pays on a GPU.
    """

    model: FilePath = "sentence-transformers/all-MiniLM-L6-v2"
    pooling: Literal["mean", "cls", "last"] = "mean"
    normalize: bool = False
    max_length: Annotated[int, Interval(ge=3, le=1_000_000)] = 256
    query_prompt: str = ""
    candidate_prompt: str = ""
    device: Text = "auto"
    batch_tokens: Rows = 4096

    yaml_path: ClassVar[str] = "encoder"

    def encode(self, texts: Sequence[str], prompt: str = "", report: Report | None = None) -> Float[Tensor, "N D"]:
        """The texts' vectors, in fp32 on the CPU; other texts in the same call change them by rounding only.

        Texts that are equal once cut get equal vectors, which are computed once.

        Args:
            texts: None of them empty.
            prompt: Put before each text.
            report: Told of each batch.

        Raises:
            ValueError: If a text is empty, or `texts` is one text and not a list.
        """
        check_texts("texts", texts)
        if (empty := next((place for place, text in enumerate(texts) if not text.strip()), None)) is not None:
            raise ValueError(f"text {empty} of {len(texts)} is empty: there is nothing to encode")
        vectors = torch.empty(len(texts), self.feature_dim)
        tokens, cut = self._tokenize([prompt + text for text in texts])
        first: dict[tuple[int, ...], int] = {}
        source = [first.setdefault(tuple(ids), place) for place, ids in enumerate(tokens)]
        again = [place for place, at in enumerate(source) if at != place]
        if report and again:
            report(len(again), 0, len(cut.intersection(again)))
        # Longest first: memory runs out at once or never, and the time left is not underrated.
        order = sorted(first.values(), key=lambda place: -len(tokens[place]))
        for batch in self._batches(order, tokens):
            vectors[batch] = self._forward([tokens[place] for place in batch])
            if report:
                report(len(batch), sum(len(tokens[place]) for place in batch), len(cut.intersection(batch)))
        vectors = vectors[source]
        return nn.functional.normalize(vectors, dim=-1) if self.normalize else vectors

    @property
    def compute_device(self) -> torch.device:
        """Where it computes."""
        return device_named(self.device)

    @property
    def feature_dim(self) -> int:
        """Size D of the vectors."""
        return self._model.config.hidden_size

    def identity(self) -> dict[str, Any]:
        """The fields that make this encoder again, on any device, with the hash of the weights it has now.

        Raises:
            ConfigError: If the hash is not the one asked for.
        """
        return super().identity() | {"device": "auto"}

    def settings(self) -> dict[str, Any]:
        """The fields that vectors depend on."""
        return {name: value for name, value in self._fields().items() if name not in ("package", "device")}

    @cached_property
    def _tokenizer(self) -> Any:
        return self.tokenizer()

    @cached_property
    def _model(self) -> Any:
        model = self.load()
        self.check_length(self.max_length, "encoder", model.config)
        return model.to(self.compute_device)

    def _tokenize(self, texts: list[str]) -> tuple[list[list[int]], set[int]]:
        """Token ids of each text, and the places of the texts that were cut."""
        if not texts:
            return [], set()
        tokens = self._tokenizer(texts, verbose=False)["input_ids"]
        cut = [place for place, ids in enumerate(tokens) if len(ids) > self.max_length]
        if cut:
            shortened = self._tokenizer([texts[place] for place in cut], truncation=True, max_length=self.max_length)
            for place, ids in zip(cut, shortened["input_ids"], strict=True):
                tokens[place] = ids
        if (empty := next((place for place, ids in enumerate(tokens) if not ids), None)) is not None:
            raise ValueError(f"text {empty} has no tokens: {texts[empty][:80]!r}")
        return tokens, set(cut)

    def _batches(self, order: list[int], tokens: list[list[int]]) -> Iterator[list[int]]:
        """Runs of the sorted places that fill `batch_tokens` when padded to their first."""
        start = 0
        while start < len(order):
            size = max(1, self.batch_tokens // len(tokens[order[start]]))
            yield order[start : start + size]
            start += size

    @torch.inference_mode()
    def _forward(self, tokens: list[list[int]]) -> Float[Tensor, "B D"]:
        ids = nn.utils.rnn.pad_sequence([torch.tensor(each) for each in tokens], batch_first=True).to(
            self.compute_device
        )
        lengths = torch.tensor([len(each) for each in tokens], device=self.compute_device)
        mask = torch.arange(ids.shape[1], device=self.compute_device) < lengths.unsqueeze(1)
        states = self._model(input_ids=ids, attention_mask=mask.long()).last_hidden_state.float()
        if self.pooling == "cls":
            pooled = states[:, 0]
        elif self.pooling == "last":
            pooled = states[torch.arange(len(tokens), device=self.compute_device), lengths - 1]
        else:
            pooled = states.masked_fill(~mask.unsqueeze(-1), 0).sum(dim=1) / lengths.unsqueeze(1)
        return pooled.cpu()
