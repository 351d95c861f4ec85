"""PromptCache: keys and values of prompts, each stored once, and of the responses that grow after them.

A forward over one new token of each response attends in two parts that share one softmax. The first part attends to the
prompt: all responses to a prompt are rows of one matrix product. The second part attends to the response's own tokens.
Nothing is copied as responses grow, and no key is repeated for the heads of its group.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from language_models import CACHE_ARGUMENT

ATTENTION = "shared_prompts"
"""The name of the attention implementation that this cache needs while responses grow."""

# Space for response tokens grows in these portions. Matrix products use the same widths, so few widths occur.
_PORTION = 32

# Arguments that some models pass to their attention and `attend` does not support.
_UNKNOWN = ("s_aux", "position_bias", "head_mask")

_active: ContextVar["PromptCache"] = ContextVar("active")


class PromptCache(DynamicCache):
    """Replaces a model's own cache in three kinds of forward; a method begins each: prompts, continuations and step.

    Prompts are padded on the left. The rows of the cache are responses, in any order; when a row is removed, the last
    row moves to its place.

    Args:
        shared: Whether to replace the model's attention while responses grow. If not, each step copies prompts to their
            responses, as the model's own attention requires, and all responses must start together.
    """

    def __init__(self, *, shared: bool) -> None:
        super().__init__()
        self.shared = shared
        self.windows: set[int] = set()
        self._prompts: list[tuple[Tensor, Tensor]] = []
        self._seen = torch.zeros(0, 0, dtype=torch.bool)
        self._rows: list[tuple[Tensor, Tensor]] = []
        self._lengths: list[int] = []
        self._prompt_of: list[int] = []
        self._update: Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]] | None = None
        self._step: _Step | None = None
        self._past = self._layer = 0

    @property
    def num_prompts(self) -> int:
        """Number of prompts in the cache."""
        return len(self._seen)

    @property
    def num_rows(self) -> int:
        """Number of responses in the cache."""
        return len(self._lengths)

    def prompts(self, seen: Bool[Tensor, "Q P"]) -> dict[str, Any]:
        """Begin a forward over further prompts; return the model's arguments besides their tokens.

        Args:
            seen: True where a prompt has a token; padding is on the left.
        """
        old, width = self._seen.to(seen.device), max(self._seen.shape[1], seen.shape[1])
        self._seen = torch.cat([_widened(old, width, dim=1), _widened(seen, width, dim=1)])
        self._update, self._past = self._add_prompts, 0
        places = (seen.cumsum(dim=1) - 1).clamp(min=0)
        return {"attention_mask": seen.long(), "position_ids": places, CACHE_ARGUMENT: self, "use_cache": True}

    def continuations(self, prompt_of: Sequence[int], seen: Bool[Tensor, "N T"]) -> dict[str, Any]:
        """Begin a forward over whole responses, which are not added to the cache.

        Args:
            prompt_of: The index of each response's prompt.
            seen: True where a response has a token; padding is on the right.
        """
        of = torch.tensor(prompt_of, device=seen.device)
        before = self._seen[of]

        def extended(keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
            rows = of.to(keys.device)
            turned, past = self._prompts[layer]
            return (
                torch.cat([turned.transpose(-1, -2)[rows], keys], dim=2),
                torch.cat([past[rows], values], dim=2),
            )

        self._update, self._past = extended, before.shape[1]
        places = before.sum(dim=1, keepdim=True) + torch.arange(seen.shape[1], device=seen.device)
        mask = torch.cat([before, seen], dim=1)
        return {"attention_mask": mask.long(), "position_ids": places, CACHE_ARGUMENT: self, "use_cache": True}

    def step(self) -> dict[str, Any]:
        """Begin a forward over one new token of each response."""
        device, longest = self._seen.device, max(self._lengths) + 1
        width = -(-longest // _PORTION) * _PORTION if self.shared else longest
        self._step = _Step(self._seen, self._prompt_of, self._lengths, width)
        self._lengths = [length + 1 for length in self._lengths]
        self._update, self._past = self._grow, self._seen.shape[1] + longest - 1
        mask = None if self.shared else self._step.visible(None).long()
        places = self._step.places.unsqueeze(1).to(device)
        return {"attention_mask": mask, "position_ids": places, CACHE_ARGUMENT: self, "use_cache": True}

    def add_rows(self, prompt: int, number: int) -> None:
        """Add rows for further responses to a prompt."""
        assert self.shared or not any(self._lengths)
        self._prompt_of += [prompt] * number
        self._lengths += [0] * number

    def remove_row(self, row: int) -> None:
        """Remove a response; the last row moves to its place."""
        last = len(self._lengths) - 1
        length = self._lengths[last]
        if row != last:
            for keys, values in self._rows if length else ():
                keys[row, :, :, :length] = keys[last, :, :, :length]
                values[row, :, :length] = values[last, :, :length]
            self._lengths[row], self._prompt_of[row] = self._lengths[last], self._prompt_of[last]
        del self._lengths[last], self._prompt_of[last]

    def keep_prompts(self, kept: Sequence[int]) -> None:
        """Remove all other prompts, which must not have any responses left."""
        number = {old: new for new, old in enumerate(kept)}
        self._prompt_of = [number[of] for of in self._prompt_of]
        rows = torch.tensor(kept, dtype=torch.long, device=self._seen.device)
        self._seen = self._seen[rows]
        start = int((~self._seen).all(dim=0).sum())
        self._seen = self._seen[:, start:]
        self._prompts = [
            (keys[rows.to(keys.device)][..., start:], values[rows.to(values.device)][:, :, start:])
            for keys, values in self._prompts
        ]

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        """Add new keys and values [B, heads, T, size of a head]; the model's layers call this."""
        assert self._update is not None
        return self._update(key_states, value_states, layer_idx)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Number of positions before the tokens of this forward."""
        return self._past

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """The same as `get_seq_length`."""
        return self._past

    def get_mask_sizes(self, query_length: Any, layer_idx: int = 0) -> tuple[int, int]:
        """Number of positions including the tokens of this forward, and where they start."""
        length = len(query_length) if isinstance(query_length, Tensor) and query_length.ndim else int(query_length)
        return self._past + length, 0

    def attend(
        self, query: Float[Tensor, "S A 1 d"], scaling: float | None, softcap: float | None, window: int | None
    ) -> Float[Tensor, "S 1 A d"]:
        """The attention output of each response's new token in the layer that was updated last."""
        assert self._step is not None
        if window is not None:
            self.windows.add(window)
        (turned, past), (keys, values) = self._prompts[self._layer], self._rows[self._layer]
        step, count, width = self._step.on(query.device), len(query), self._step.width
        heads, size = past.shape[1], query.shape[-1]
        grouped = query.reshape(count, heads, -1, size)
        own = grouped @ keys[:count, :, :, :width]
        scores = torch.cat([step.to_rows(step.to_prompts(grouped) @ turned), own], dim=-1).float()
        scores *= size**-0.5 if scaling is None else scaling
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        hidden = ~step.visible(window)[:, None, None]
        weights = scores.masked_fill_(hidden, -torch.inf).softmax(dim=-1).to(query.dtype)
        before, own = weights.split([past.shape[2], width], dim=-1)
        found = step.to_rows(step.to_prompts(before) @ past) + own @ values[:count, :, :width]
        return found.reshape(count, 1, -1, found.shape[-1])

    def _add_prompts(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        turned, width = keys.transpose(-1, -2).contiguous(), self._seen.shape[1]
        if layer == len(self._prompts):
            self._prompts.append((turned[:0], values[:0]))
        old_keys, old_values = self._prompts[layer]
        self._prompts[layer] = (
            torch.cat([_widened(old_keys, width, dim=3), _widened(turned, width, dim=3)]),
            torch.cat([_widened(old_values, width, dim=2), _widened(values, width, dim=2)]),
        )
        return keys, values

    def _grow(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        assert self._step is not None
        if layer == len(self._rows):
            self._rows.append((keys.new_zeros(0, *keys.shape[1:2], keys.shape[3], 0), values[:0, :, :0]))
        step, count, width = self._step.on(keys.device), len(keys), self._step.width
        self._rows[layer] = held_keys, held_values = _with_room(*self._rows[layer], count, width)
        held_keys[step.rows, :, :, step.lengths] = keys[:, :, 0]
        held_values[step.rows, :, step.lengths] = values[:, :, 0]
        self._layer = layer
        if self.shared:
            return keys, values
        turned, past = self._prompts[layer]
        return (
            torch.cat([turned.transpose(-1, -2)[step.prompt_of], held_keys[:count, :, :, :width].transpose(-1, -2)], 2),
            torch.cat([past[step.prompt_of], held_values[:count, :, :width]], dim=2),
        )


class _Step:
    """One forward over a new token of each response: the prompt of each response, and its number of tokens so far.

    Args:
        seen: True where a prompt has a token.
        prompt_of: The index of each row's prompt.
        lengths: Number of tokens of each row before the new one.
        width: Number of positions of the rows that take part.
    """

    def __init__(self, seen: Bool[Tensor, "Q P"], prompt_of: Sequence[int], lengths: Sequence[int], width: int) -> None:
        device = seen.device
        self.width, self._seen = width, seen
        self.rows = torch.arange(len(lengths), device=device)
        self.lengths = torch.tensor(lengths, device=device)
        self.prompt_of = torch.tensor(prompt_of, device=device)
        self.places = seen.sum(dim=1)[self.prompt_of] + self.lengths
        self._visible: dict[int | None, Bool[Tensor, "S K"]] = {}
        self._elsewhere: dict[torch.device, _Step] = {}
        rows_of: list[list[int]] = [[] for _ in range(len(seen))]
        slots = [0] * len(lengths)
        for row, prompt in enumerate(prompt_of):
            slots[row] = len(rows_of[prompt])
            rows_of[prompt].append(row)
        most = max(map(len, rows_of))
        self._alone = len(seen) == 1
        self._slots = torch.tensor([prompt * most + slot for prompt, slot in zip(prompt_of, slots, strict=True)])
        self._laid = torch.tensor([rows + [0] * (most - len(rows)) for rows in rows_of])
        self._slots, self._laid = self._slots.to(device), self._laid.to(device)

    def on(self, device: torch.device) -> "_Step":
        """A copy with its tensors on another device."""
        if device == self._seen.device:
            return self
        if device not in self._elsewhere:
            lists = self.prompt_of.tolist(), self.lengths.tolist()
            self._elsewhere[device] = _Step(self._seen.to(device), *lists, self.width)
        return self._elsewhere[device]

    def visible(self, window: int | None) -> Bool[Tensor, "S K"]:
        """Which positions the new token of each row attends to: first those of its prompt, then those of the row.

        Args:
            window: How many tokens back, including itself; None for all.
        """
        if window not in self._visible:
            own = torch.arange(self.width, device=self.rows.device)
            distance = self.lengths.unsqueeze(1) - own
            found = torch.cat([self._seen[self.prompt_of], distance >= 0], dim=1)
            if window is not None:
                before = torch.arange(self._seen.shape[1], 0, -1, device=self.rows.device)
                distance = torch.cat([self.lengths.unsqueeze(1) + before, distance], dim=1)
                found &= distance < window
            self._visible[window] = found
        return self._visible[window]

    def to_prompts(self, rows: Float[Tensor, "S h G n"]) -> Float[Tensor, "Q h m n"]:
        """Rearrange values of rows by prompt: the heads of a group of all rows of a prompt become one dimension m."""
        laid = rows.unsqueeze(0) if self._alone else rows[self._laid]
        return laid.transpose(1, 2).flatten(2, 3)

    def to_rows(self, laid: Float[Tensor, "Q h m n"]) -> Float[Tensor, "S h G n"]:
        """The inverse of `to_prompts`."""
        rows = laid.unflatten(2, (self._laid.shape[1], -1)).transpose(1, 2)
        return rows[0] if self._alone else rows.flatten(0, 1)[self._slots]


class SharedAttention:
    """A model's attention, which can temporarily be replaced by that of a cache.

    Args:
        model: A model of the transformers library; its layers look up their attention by the name in their config.
    """

    def __init__(self, model: nn.Module) -> None:
        configs: dict[int, Any] = {id(each.config): each.config for each in model.modules() if hasattr(each, "config")}
        self._usual = [(config, config._attn_implementation) for config in configs.values()]

    @contextmanager
    def through(self, cache: PromptCache) -> Iterator[None]:
        """Within this context the model uses the cache's attention; only forwards begun by `step` are allowed."""
        token = _active.set(cache)
        try:
            for config, _ in self._usual if cache.shared else ():
                config._attn_implementation = ATTENTION
            yield
        finally:
            _active.reset(token)
            for config, usual in self._usual:
                config._attn_implementation = usual


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    if any(others.get(name) is not None for name in _UNKNOWN):
        raise NotImplementedError(f"an attention with one of {', '.join(_UNKNOWN)}")
    return _active.get().attend(query, scaling, softcap, sliding_window), None


ALL_ATTENTION_FUNCTIONS[ATTENTION] = _attend


def _widened(part: Tensor, width: int, dim: int) -> Tensor:
    """Pad a tensor with zeros at the start of a dimension, up to a width."""
    missing = width - part.shape[dim]
    if missing == 0:
        return part
    shape = list(part.shape)
    shape[dim] = missing
    return torch.cat([part.new_zeros(shape), part], dim=dim)


def _with_room(
    keys: Float[Tensor, "S h d T"], values: Float[Tensor, "S h T d"], rows: int, width: int
) -> tuple[Tensor, Tensor]:
    """Make room for a number of rows and tokens; grow the buffers geometrically."""
    there, length = values.shape[0], values.shape[2]
    if rows <= there and width <= length:
        return keys, values
    number = max(rows, there)
    size = length if width <= length else max(width, length + length // 2, 2 * _PORTION)
    more_keys = keys.new_zeros(number, *keys.shape[1:3], size)
    more_values = values.new_zeros(number, values.shape[1], size, values.shape[3])
    more_keys[:there, :, :, :length], more_values[:there, :, :length] = keys, values
    return more_keys, more_values
