"""PromptSharing: tests on the model itself whether prompts can share a key-value cache."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from language_models.sampling.prompt_cache import PromptCache, SharedAttention
from language_models.states.block_states import base_of

# Two prompts of different lengths and the responses to each; the numbers stand for tokens.
_PROMPTS = ((0, 1, 2, 3, 4), (5, 6, 7))
_RESPONSES = (((8, 9, 10), (11, 12)), ((13, 14),))
# Spreads the tokens over the vocabulary: its first tokens are often special, and states after them are mere noise in
# half precision.
_SPREAD = 7919
_ORDER = ((1, 0), (0, 0), (0, 1))

# What models raise if they do not support this cache.
_REFUSALS = (ValueError, TypeError, RuntimeError, AttributeError, NotImplementedError, KeyError, IndexError)


class PromptSharing:
    """Tests a model; each test is a few forwards over a few tokens.

    Args:
        model: A causal model of the transformers library, with or without a head.
    """

    def __init__(self, model: Any) -> None:
        self._model, self.attention = base_of(model), SharedAttention(model)
        embeddings = model.get_input_embeddings().weight
        self._device, self._vocabulary = embeddings.device, len(embeddings)
        self._plain: dict[tuple[int, ...], Tensor] = {}

    @torch.no_grad()
    def is_causal(self) -> bool:
        """Whether a token's output does not depend on later tokens."""
        full, start = self._run((0, 1, 2, 3)), self._run((0, 1))
        return _close(full[:2], start)

    @torch.no_grad()
    def continues(self) -> bool:
        """Whether a forward over whole responses can use the cache of prompts that were read before."""
        cache = PromptCache(shared=False)
        try:
            self._read_prompts(cache)
            width = max(len(_RESPONSES[of][place]) for of, place in _ORDER)
            ids, seen = self._filled([_RESPONSES[of][place] for of, place in _ORDER], width, left=False)
            states = self._model(input_ids=ids, **cache.continuations([of for of, _ in _ORDER], seen)).last_hidden_state
        except _REFUSALS:
            return False
        return all(
            self._agrees(states[row, place], _PROMPTS[of] + _RESPONSES[of][at][: place + 1])
            for row, (of, at) in enumerate(_ORDER)
            for place in range(len(_RESPONSES[of][at]))
        )

    @torch.no_grad()
    def steps(self, *, shared: bool, longest: int | None = None) -> bool:
        """Whether responses can grow token by token.

        Args:
            shared: Whether to test with the shared attention.
            longest: Largest number of tokens of prompt and response together.
        """
        cache = PromptCache(shared=shared)
        try:
            agree = self._grow(cache)
        except _REFUSALS:
            return False
        window = _window_of(self._model.config.get_text_config())
        if not shared or window is None or window in cache.windows:
            return agree
        return agree and longest is not None and longest <= window

    def _grow(self, cache: PromptCache) -> bool:
        states, order = self._read_prompts(cache), list(_ORDER)
        agree = all(self._agrees(each[-1], prompt) for each, prompt in zip(states, _PROMPTS, strict=True))
        for of, _ in order:
            cache.add_rows(of, 1)
        for step in range(2):
            ids = self._ids([[_RESPONSES[of][place][step]] for of, place in order])
            with self.attention.through(cache):
                states = self._model(input_ids=ids, **cache.step()).last_hidden_state
            for row, (of, place) in enumerate(order):
                agree &= self._agrees(states[row, -1], _PROMPTS[of] + _RESPONSES[of][place][: step + 1])
            if step == 0:
                cache.remove_row(0)
                order = [order[2], order[1]]
                cache.keep_prompts([0])
        return agree

    def _read_prompts(self, cache: PromptCache) -> Float[Tensor, "Q P D"]:
        ids, seen = self._filled(_PROMPTS, max(map(len, _PROMPTS)), left=True)
        return self._model(input_ids=ids, **cache.prompts(seen)).last_hidden_state

    def _filled(self, rows: Any, width: int, *, left: bool) -> tuple[Tensor, Tensor]:
        ids, seen = filled(rows, width, left=left, device=self._device)
        return self._ids(ids), seen

    def _ids(self, rows: Any) -> Int[Tensor, "B T"]:
        return (torch.as_tensor(rows, device=self._device) * _SPREAD + 1) % self._vocabulary

    def _agrees(self, states: Float[Tensor, " D"], tokens: tuple[int, ...]) -> bool:
        if tokens not in self._plain:
            self._plain[tokens] = self._run(tokens)[-1]
        return _close(states, self._plain[tokens])

    def _run(self, tokens: tuple[int, ...]) -> Float[Tensor, "T D"]:
        return self._model(input_ids=self._ids([tokens]), use_cache=False).last_hidden_state[0]


def filled(rows: Any, width: int, *, left: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    """Tokens as a batch padded on one side, and a mask that is True where a token is."""
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    seen = torch.zeros(len(rows), width, dtype=torch.bool)
    for row, tokens in enumerate(rows):
        part = slice(width - len(tokens), width) if left else slice(len(tokens))
        ids[row, part] = torch.tensor(tokens, dtype=torch.long)
        seen[row, part] = True
    return ids.to(device), seen.to(device)


def _close(found: Tensor, plain: Tensor) -> bool:
    tolerance = 1e-3 if plain.dtype == torch.float32 else 1e-1
    return bool((found.float() - plain.float()).norm() <= tolerance * plain.float().norm())


def _window_of(config: Any) -> int | None:
    """The smallest attention window of any layer; None if all layers attend to everything."""
    kinds = getattr(config, "layer_types", None)
    if kinds is not None and all(kind == "full_attention" for kind in kinds):
        return None
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    chunk = getattr(config, "attention_chunk_size", None)
    return min(filter(None, (window, chunk)), default=None)
