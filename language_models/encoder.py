"""Encoder: a pretrained model that turns texts into vectors, with a description that rebuilds it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Interval
from jaxtyping import Float
from torch import Tensor, nn

from language_models.backbone import Backbone
from language_models.precision import device_named
from language_models.single_threads import in_single_threads
from ranking.texts import check_texts
from registry.ranges import FilePath, Rows, Text

# Products of 16 rows or more compute each row alike, whatever their number; smaller ones have kernels of their own.
_TILE = 16

Report = Callable[[int, int, int], None]
"""Called after each batch with its number of texts, of tokens, and of truncated texts."""


@dataclass(frozen=True)
class Encoder(Backbone):
    """A model of the transformers library, read from safetensors or GGUF without custom code, and its pooling.

    Args:
        dtype: Number format of the computation. `auto` is bfloat16 on a GPU or CPU with bfloat16 hardware, else
            float32. There bfloat16 is about three times as fast, and changes cosines of vectors by about 1e-4.
        pooling: How token states become one vector: `mean` of all tokens, or the first (`cls`) or `last` token's state.
        normalize: Whether to scale each vector to length one.
        max_length: Longest text in tokens, special tokens included; longer texts are truncated.
        query_prompt: Text put before each query.
        candidate_prompt: Text put before each candidate.
        device: `cpu`, `cuda`, ...; `auto` is the first GPU if there is one, else the CPU.
        batch_tokens: Tokens in a batch, padding included; larger batches are faster on a GPU.
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

    def encode(
        self, texts: Sequence[str], prompt: str = "", report: Report | None = None, *, alone: bool = False
    ) -> Float[Tensor, "N D"]:
        """The texts' vectors, in fp32 on the CPU; other texts in the same call change them only by rounding.

        Texts that are equal after truncation are computed once and get equal vectors.

        Args:
            texts: The texts; none may be empty.
            prompt: Text put before each text.
            report: Called after each batch.
            alone: Whether other texts in the call must not change a vector at all: each text is padded to the next
                multiple of 16 tokens and shares a batch with texts of this length alone. In float32 on a processor
                vectors are then equal to the bit; elsewhere a matrix product may still depend on its number of rows.

        Raises:
            ValueError: If a text is empty, or `texts` is one text and not a list.
        """
        check_texts("texts", texts)
        if (empty := next((place for place, text in enumerate(texts) if not text.strip()), None)) is not None:
            raise ValueError(f"text {empty} of {len(texts)} is empty")
        vectors = torch.empty(len(texts), self.feature_dim)
        tokens, cut = self._tokenize([prompt + text for text in texts])
        first: dict[tuple[int, ...], int] = {}
        source = [first.setdefault(tuple(ids), place) for place, ids in enumerate(tokens)]
        again = [place for place, at in enumerate(source) if at != place]
        if report and again:
            report(len(again), 0, len(cut.intersection(again)))
        # Longest first: memory runs out at once or never, and the remaining time is not underestimated.
        order = sorted(first.values(), key=lambda place: -len(tokens[place]))
        batches = self._batches(order, tokens, alone=alone)
        for batch, computed in self._computed(batches, tokens, alone=alone):
            vectors[batch] = computed
            if report:
                report(len(batch), sum(len(tokens[place]) for place in batch), len(cut.intersection(batch)))
        vectors = vectors[source]
        return nn.functional.normalize(vectors, dim=-1) if self.normalize else vectors

    def lengths(self, texts: Sequence[str], prompt: str = "") -> list[int]:
        """The number of tokens of each text with its prompt and special tokens, before truncation."""
        if not texts:
            return []
        return [len(ids) for ids in self._tokenizer([prompt + text for text in texts], verbose=False)["input_ids"]]

    @property
    def compute_device(self) -> torch.device:
        """The device that the encoder runs on."""
        return device_named(self.device)

    @property
    def feature_dim(self) -> int:
        """Size D of the vectors."""
        return self._model.config.hidden_size

    def identity(self) -> dict[str, Any]:
        """The fields that rebuild this encoder on any device, with the hash of its present weights.

        Raises:
            ConfigError: If the hash is not `sha256`.
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
        self.check_length(self.max_length, "encoder", model)
        return model.to(self.compute_device)

    def _tokenize(self, texts: list[str]) -> tuple[list[list[int]], set[int]]:
        """Token ids of each text, and the indices of truncated texts."""
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

    def _batches(self, order: list[int], tokens: list[list[int]], *, alone: bool) -> Iterator[list[int]]:
        """Split sorted texts into batches of up to `batch_tokens` tokens, padded to the first and longest text."""
        start, most = 0, self.batch_tokens
        if alone:
            total = sum(self._padded(len(tokens[place]), alone=True) for place in order)
            most = min(most, -(-total // torch.get_num_threads()))
        while start < len(order):
            length = self._padded(len(tokens[order[start]]), alone=alone)
            batch = order[start : start + max(1, most // length)]
            if alone:
                batch = [place for place in batch if self._padded(len(tokens[place]), alone=True) == length]
            yield batch
            start += len(batch)

    def _computed(
        self, batches: Iterable[list[int]], tokens: list[list[int]], *, alone: bool
    ) -> Iterator[tuple[list[int], Float[Tensor, "B D"]]]:
        """Each batch with its vectors."""

        def forward(batch: list[int]) -> Float[Tensor, "B D"]:
            return self._forward([tokens[place] for place in batch], alone=alone)

        if not alone or self.compute_device.type != "cpu":
            yield from ((batch, forward(batch)) for batch in batches)
            return
        _ = self._model  # loaded by this thread, so that the others find it
        parts = list(batches)
        yield from zip(parts, in_single_threads(forward, parts), strict=True)

    def _padded(self, length: int, *, alone: bool) -> int:
        return min(-(-length // _TILE) * _TILE, self.max_length) if alone else length

    @torch.inference_mode()
    def _forward(self, tokens: list[list[int]], *, alone: bool) -> Float[Tensor, "B D"]:
        length = self._padded(max(map(len, tokens)), alone=alone)
        rows = max(len(tokens), -(-_TILE // length)) if alone else len(tokens)
        ids = torch.zeros(rows, length, dtype=torch.int64)
        for row in range(rows):
            text = tokens[row % len(tokens)]
            ids[row, : len(text)] = torch.tensor(text)
        ids = ids.to(self.compute_device)
        lengths = torch.tensor([len(tokens[row % len(tokens)]) for row in range(rows)], device=self.compute_device)
        mask = torch.arange(length, device=self.compute_device) < lengths.unsqueeze(1)
        states = self._model(input_ids=ids, attention_mask=mask.long()).last_hidden_state.float()
        if self.pooling == "cls":
            pooled = states[:, 0]
        elif self.pooling == "last":
            pooled = states[torch.arange(rows, device=self.compute_device), lengths - 1]
        else:
            pooled = states.masked_fill(~mask.unsqueeze(-1), 0).sum(dim=1) / lengths.unsqueeze(1)
        return pooled[: len(tokens)].cpu()
