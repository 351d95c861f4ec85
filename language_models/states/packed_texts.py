"""PackedTexts: several texts as one sequence of tokens without padding, in which each text attends only to itself.

Texts that begin with the same prompt contain its tokens once, if the model is causal: each response attends to the
prompt and to itself. All layers but attention see one long sequence; attention gathers the tokens of each text.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from language_models.conversation import Conversation

ATTENTION = "packed_texts"
"""The name of the attention implementation that reads packed texts."""

# A text joins others in one call of the attention if it is at least this share of the longest one's length.
_ALIKE = 0.75
# Arguments that some models pass to their attention and `_attend` does not support.
_UNKNOWN = ("softcap", "s_aux", "position_bias", "head_mask")

_active: ContextVar["PackedTexts"] = ContextVar("active")


class _Piece(NamedTuple):
    """Tokens that stand together: a whole text, a prompt, or a response with its prompt elsewhere."""

    start: int
    length: int
    prompt_start: int
    prompt_length: int


class _Part(NamedTuple):
    """Pieces of similar length that attention reads together; -1 fills up short rows."""

    own: Int[Tensor, "N R"]
    seen: Int[Tensor, "N S"]


class PackedTexts:
    """Conversations as one sequence of T tokens.

    Args:
        conversations: Prompts and the responses to each; their texts are prompt and response together.
        shared: Whether the responses of a conversation share its prompt; only a causal model allows this.
        device: The device of all tensors.

    Attributes:
        ids: All tokens.
        positions: The position of each token in its text, from 0.
        types: 0 for tokens of prompts, 1 for tokens of responses.
        texts: For each text, in order, the places of its tokens; -1 fills up shorter texts.
    """

    def __init__(self, conversations: Sequence[Conversation], *, shared: bool, device: torch.device) -> None:
        ids: list[int] = []
        types: list[int] = []
        pieces: list[_Piece] = []
        texts: list[_Piece] = []

        def add(prompt: Sequence[int], response: Sequence[int], before: _Piece | None) -> _Piece:
            piece = _Piece(len(ids), len(prompt) + len(response), *(before[:2] if before else (0, 0)))
            ids.extend([*prompt, *response])
            types.extend([0] * len(prompt) + [1] * len(response))
            if piece.length:
                pieces.append(piece)
            return piece

        for prompt, responses in conversations:
            before = add(prompt, (), None) if shared else None
            texts += [add(() if shared else prompt, response, before) for response in responses]
        self.ids, self.types = (torch.tensor(each, dtype=torch.long, device=device) for each in (ids, types))
        self.positions = torch.cat([torch.arange(each.length) + each.prompt_length for each in pieces]).to(device)
        self.texts = _part(texts).seen.to(device)
        self._parts = [_Part(*(each.to(device) for each in _part(joined))) for joined in _alike(pieces)]
        own = torch.cat([part.own.flatten() for part in self._parts])
        seen = torch.cat([part.seen.flatten() for part in self._parts])
        self._own, self._seen = own.clamp(min=0), seen.clamp(min=0)
        self._back = torch.empty(len(ids), dtype=torch.long, device=device)
        kept = (own >= 0).nonzero().flatten()
        self._back[own[kept]] = kept
        self._visible: dict[tuple[int, bool, int | None], Bool[Tensor, "N 1 R S"]] = {}

    def inputs(self, config: Any, *, first_position: int = 0, typed: bool = True) -> dict[str, Any]:
        """The arguments of a model's forward.

        Args:
            config: The model's config.
            first_position: The position that the model gives to a text's first token.
            typed: Whether the model is told which tokens are a prompt's and which a response's.
        """
        given = {"input_ids": self.ids[None], "position_ids": self.positions[None] + first_position, "use_cache": False}
        if (kinds := getattr(config, "type_vocab_size", None)) is not None:
            given["token_type_ids"] = (self.types if typed and kinds > 1 else torch.zeros_like(self.types))[None]
        return given

    @contextmanager
    def read_by(self, model: nn.Module) -> Iterator[None]:
        """Within this context, the model's attention is that of these texts."""
        configs: dict[int, Any] = {id(each.config): each.config for each in model.modules() if hasattr(each, "config")}
        usual = [(config, config._attn_implementation) for config in configs.values()]
        token = _active.set(self)
        try:
            for config, _ in usual:
                config._attn_implementation = ATTENTION
            yield
        finally:
            _active.reset(token)
            for config, name in usual:
                config._attn_implementation = name

    def attend(
        self,
        query: Float[Tensor, "A T d"],
        key: Float[Tensor, "h T d"],
        value: Float[Tensor, "h T d"],
        *,
        causal: bool,
        window: int | None,
        **options: Any,
    ) -> Float[Tensor, "T A d"]:
        """The attention output of every token.

        Args:
            query: A heads.
            key: h heads; A is a multiple of h.
            value: h heads.
            causal: Whether a token attends only to tokens up to itself.
            window: How many tokens back a token attends, including itself; None for all.
            options: Further options of PyTorch's attention.
        """
        # Gathered for all parts at once: the backward pass of each gathering fills the gradient of the whole sequence.
        query, key, value = query[:, self._own], key[:, self._seen], value[:, self._seen]
        # With a mask and fewer heads of keys, PyTorch has no fast attention on GPUs and holds all weights in memory.
        key, value = (each.repeat_interleave(len(query) // len(each), dim=0) for each in (key, value))
        queries = query.split([part.own.numel() for part in self._parts], dim=1)
        sizes = [part.seen.numel() for part in self._parts]
        found = []
        for number, (part, q, k, v) in enumerate(
            zip(self._parts, queries, key.split(sizes, dim=1), value.split(sizes, dim=1), strict=True)
        ):
            output = nn.functional.scaled_dot_product_attention(
                q.unflatten(1, part.own.shape).transpose(0, 1),
                k.unflatten(1, part.seen.shape).transpose(0, 1),
                v.unflatten(1, part.seen.shape).transpose(0, 1),
                attn_mask=self._mask(number, causal, window),
                **options,
            )
            found.append(output.transpose(1, 2).flatten(0, 1))
        return torch.cat(found)[self._back]

    def _mask(self, number: int, causal: bool, window: int | None) -> Bool[Tensor, "N 1 R S"]:
        if (number, causal, window) not in self._visible:
            own, seen = self._parts[number]
            back = self.positions[own.clamp(min=0)].unsqueeze(2) - self.positions[seen.clamp(min=0)].unsqueeze(1)
            visible = (seen >= 0).unsqueeze(1).expand_as(back)
            if causal:
                visible = visible & (back >= 0)
            if window is not None:
                visible = visible & (back.abs() < window)
            # Rows that fill up would have nothing to attend to, and their softmax would be nan.
            self._visible[number, causal, window] = (visible | (own < 0).unsqueeze(2)).unsqueeze(1)
        return self._visible[number, causal, window]


def _alike(pieces: Sequence[_Piece]) -> Iterator[list[_Piece]]:
    """Pieces of similar length together, those with a prompt elsewhere apart from the others."""
    rows = sorted(pieces, key=lambda piece: (piece.prompt_length > 0, piece.length, piece.prompt_length), reverse=True)
    start = 0
    while start < len(rows):
        first, end = rows[start], start
        while end < len(rows) and (rows[end].prompt_length > 0) == (first.prompt_length > 0):
            if rows[end].length < _ALIKE * first.length:
                break
            end += 1
        yield rows[start:end]
        start = end


def _part(pieces: Sequence[_Piece]) -> _Part:
    """The places of the pieces' own tokens, and of all tokens that these attend to."""
    table = torch.tensor(pieces, dtype=torch.long).view(len(pieces), 4, 1)
    start, length, prompt_start, prompt_length = table.unbind(dim=1)
    own, seen = (torch.arange(int(each.amax()) if len(pieces) else 0) for each in (length, prompt_length + length))
    response = torch.where(seen < prompt_length + length, start + seen - prompt_length, -1)
    return _Part(
        torch.where(own < length, start + own, -1),
        torch.where(seen < prompt_length, prompt_start + seen, response),
    )


def _attend(
    module: nn.Module,
    query: Float[Tensor, "1 A T d"],
    key: Float[Tensor, "1 h T d"],
    value: Float[Tensor, "1 h T d"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    if any(others.get(name) is not None for name in _UNKNOWN):
        raise NotImplementedError(f"an attention with one of {', '.join(_UNKNOWN)}")
    causal = bool(getattr(module, "is_causal", True)) if is_causal is None else is_causal
    output = _active.get().attend(
        query[0], key[0], value[0], causal=causal, window=sliding_window, scale=scaling, dropout_p=dropout
    )
    return output.unsqueeze(0), None


ALL_ATTENTION_FUNCTIONS[ATTENTION] = _attend
