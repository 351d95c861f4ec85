"""PooledStates: one state for each text that a model reads, with gradients, in passes of limited size."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from language_models.conversation import Conversation
from language_models.sampling.prompt_sharing import PromptSharing, filled
from language_models.states.block_states import base_of, first_position_of
from language_models.states.packed_texts import PackedTexts
from language_models.states.pooling import Pooling

# Two prompts of different lengths and the responses to each; the numbers stand for tokens.
_PROBE = (Conversation((1, 2, 3), ((4, 5), (6,))), Conversation((7, 8), ((9, 10, 11),)))
# Spreads the tokens over the vocabulary: its first tokens are often special.
_SPREAD = 7919
# What a pass reads that is only there because other processes make one more.
_SPARE = [Conversation((1,), ((1,),))]
# What models raise if they do not support packed texts.
_REFUSALS = (ValueError, TypeError, RuntimeError, AttributeError, NotImplementedError, KeyError, IndexError)


class PooledStates:
    """Reads prompts and responses as texts, and pools the model's last hidden states.

    Texts are packed without padding where the model allows it, and a causal model then reads each prompt once for all
    of its responses. Other models read texts of similar length together, padded on the right. Neither changes a state
    beyond rounding.

    Args:
        model: A model of the transformers library, with or without a head.
        batch_tokens: The most tokens in one pass, so that memory does not grow with the number of texts.
        max_length: The most tokens of a text.
        typed: Whether the model is told which tokens are a prompt's and which a response's, if it knows such types.
        recompute: Whether to keep only tokens for the backward pass and to read each pass again there (Chen et al.
            2016, arXiv 1604.06174).
    """

    def __init__(
        self, model: Any, *, batch_tokens: int, max_length: int, typed: bool = True, recompute: bool = False
    ) -> None:
        self._model = base_of(model)
        self._batch_tokens, self._typed, self._recompute = batch_tokens, typed, recompute
        self._first_position = first_position_of(model)
        self._processes: Any = None
        training = model.training
        model.eval()
        try:
            with torch.no_grad(), torch.autocast(model.device.type, enabled=False):
                self.causal = PromptSharing(model).is_causal()
                self.packs = (
                    _window_allows(model.config.get_text_config(), self.causal, max_length) and self._packs_well()
                )
        finally:
            model.train(training)

    def read(self, conversations: Sequence[Conversation], pooling: Pooling) -> Float[Tensor, "N H"]:
        """The pooled state of each text, conversation by conversation.

        Args:
            conversations: Prompts and responses as tokens; no text may be empty.
            pooling: The state of the `first` or of the `last` token, or the `mean` over all tokens of a text.
        """
        if self.packs:
            return self._in_passes(self._packed_passes(conversations), partial(self._packed, pooling=pooling))
        return self._in_passes(self._padded_passes(conversations), partial(self._padded, pooling=pooling))

    def keep_in_step(self, processes: Any) -> None:
        """Make as many passes as the other processes, which gather sharded weights together in each pass.

        Args:
            processes: The process group that shares the weights.
        """
        self._processes = processes

    def _in_passes(
        self,
        passes: Iterator[tuple[list[Conversation], list[int]]],
        read: Callable[[list[Conversation]], Float[Tensor, "n H"]],
    ) -> Float[Tensor, "N H"]:
        parts = list(passes)
        # Asked before the first pass: a process that waits in one would never answer.
        spare = self._most_passes(len(parts)) - len(parts)
        found = [self._in_pass(read, part) for part, _ in parts]
        states = (
            torch.cat(found) if found else torch.zeros(0, self._model.config.hidden_size, device=self._model.device)
        )
        for _ in range(spare):
            states = states + 0 * self._in_pass(read, _SPARE).sum()
        places = torch.tensor([row for _, rows in parts for row in rows], dtype=torch.long)
        return states[places.argsort().to(states.device)]

    def _in_pass(
        self, read: Callable[[list[Conversation]], Float[Tensor, "n H"]], part: list[Conversation]
    ) -> Float[Tensor, "n H"]:
        if self._recompute and torch.is_grad_enabled():
            return checkpoint(read, part, use_reentrant=False)  # type: ignore[return-value]
        return read(part)

    def _most_passes(self, own: int) -> int:
        """The largest number of passes of any process."""
        if self._processes is None:
            return own
        most = torch.tensor(own, device=self._model.device)
        torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX, group=self._processes)
        return int(most)

    def _packed(self, part: list[Conversation], pooling: Pooling) -> Float[Tensor, "n H"]:
        packed = PackedTexts(part, shared=self.causal, device=self._model.device)
        with packed.read_by(self._model):
            given = packed.inputs(self._model.config, first_position=self._first_position, typed=self._typed)
            states = self._model(**given).last_hidden_state[0]
        return _pooled(states, packed.texts, pooling)

    def _padded(self, part: list[Conversation], pooling: Pooling) -> Float[Tensor, "n H"]:
        given, seen = self._filled(part)
        if self.causal:
            given["use_cache"] = False
        states = self._model(**given).last_hidden_state
        width = seen.shape[1]
        rows = torch.arange(len(seen), device=seen.device).unsqueeze(1) * width
        places = torch.where(seen, rows + torch.arange(width, device=seen.device), -1)
        return _pooled(states.flatten(0, 1), places, pooling)

    def _filled(self, part: list[Conversation]) -> tuple[dict[str, Any], Bool[Tensor, "n L"]]:
        """The arguments of a model's forward for texts padded on the right, and which tokens exist."""
        texts = [[*prompt, *response] for prompt, responses in part for response in responses]
        width = max(map(len, texts))
        ids, seen = filled(texts, width, left=False, device=self._model.device)
        given: dict[str, Any] = {"input_ids": ids, "attention_mask": seen.long()}
        if self._typed and getattr(self._model.config, "type_vocab_size", 0) > 1:
            kinds = [[0] * len(prompt) + [1] * len(response) for prompt, responses in part for response in responses]
            given["token_type_ids"] = filled(kinds, width, left=False, device=ids.device)[0]
        return given, seen

    def _packed_passes(self, conversations: Sequence[Conversation]) -> Iterator[tuple[list[Conversation], list[int]]]:
        """Fill each pass up to `batch_tokens`; a conversation that does not fit is continued in the next one."""
        part: list[Conversation] = []
        rows: list[int] = []
        used = number = 0
        for prompt, responses in conversations:
            once, each = (len(prompt), 0) if self.causal else (0, len(prompt))
            taken: list[Sequence[int]] = []
            for response in responses:
                size = each + len(response) + (0 if taken else once)
                if (part or taken) and used + size > self._batch_tokens:
                    yield [*part, *([Conversation(prompt, taken)] if taken else [])], rows
                    part, taken, rows, used = [], [], [], 0
                    size = each + len(response) + once
                taken.append(response)
                rows.append(number)
                used, number = used + size, number + 1
            if taken:
                part.append(Conversation(prompt, taken))
        if part:
            yield part, rows

    def _padded_passes(self, conversations: Sequence[Conversation]) -> Iterator[tuple[list[Conversation], list[int]]]:
        """Longest first, so that texts of similar length are padded to the same width and memory runs out at once."""
        texts = [(prompt, response) for prompt, responses in conversations for response in responses]
        order = sorted(range(len(texts)), key=lambda place: -sum(map(len, texts[place])))
        start = 0
        while start < len(order):
            size = max(1, self._batch_tokens // max(1, sum(map(len, texts[order[start]]))))
            rows = order[start : start + size]
            yield [Conversation(prompt, [response]) for prompt, response in (texts[place] for place in rows)], rows
            start += size

    def _packs_well(self) -> bool:
        """Whether packed texts have the states that they have alone; tested, because a model's name does not tell."""
        vocabulary = self._model.get_input_embeddings().num_embeddings
        probe = [
            Conversation(*(_spread(each, vocabulary) for each in (prompt, responses))) for prompt, responses in _PROBE
        ]
        try:
            packed = self._packed(probe, "mean")
            alone = [Conversation(prompt, [response]) for prompt, responses in probe for response in responses]
            plain = torch.cat([self._padded([each], "mean") for each in alone])
        except _REFUSALS:
            return False
        tolerance = 1e-3 if plain.dtype == torch.float32 else 5e-2
        return bool((packed - plain).norm() <= tolerance * plain.norm())


def _spread(tokens: Any, vocabulary: int) -> Any:
    if isinstance(tokens, int):
        return (tokens * _SPREAD + 1) % vocabulary
    return tuple(_spread(each, vocabulary) for each in tokens)


def _pooled(states: Float[Tensor, "T H"], places: Int[Tensor, "n L"], pooling: Pooling) -> Float[Tensor, "n H"]:
    """One state for each row of places, -1 where there is none, in fp32."""
    there = places >= 0
    lengths = there.sum(dim=1)
    if pooling == "mean":
        row, column = there.nonzero(as_tuple=True)
        sums = states.new_zeros(len(places), states.shape[1], dtype=torch.float32)
        return sums.index_add(0, row, states[places[row, column]].float()) / lengths.unsqueeze(1)
    column = lengths - 1 if pooling == "last" else torch.zeros_like(lengths)
    return states[places.gather(1, column.unsqueeze(1)).squeeze(1)].float()


def _window_allows(config: Any, causal: bool, max_length: int) -> bool:
    """Whether attention to packed texts sees what the model sees: all of a text, or a sliding window before a token."""
    window = getattr(config, "local_attention", None) or getattr(config, "sliding_window", None)
    part = getattr(config, "attention_chunk_size", None)
    return (not part or max_length <= part) and (causal or not window or max_length <= window // 2)
