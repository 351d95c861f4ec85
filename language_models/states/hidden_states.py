"""HiddenStates: states of prompts and existing responses at several depths, in one forward pass that ends early.

The state of a prompt is the state of its last token, which includes the template's opening of the response. The state
of a response is the state of its last token: the end token if the model sampled one, else the last token before the
cut. An empty response has the state of its prompt.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from console.progress import Report
from language_models.conversation import Conversation, States
from language_models.sampling.prompt_cache import PromptCache
from language_models.sampling.prompt_sharing import PromptSharing, filled
from language_models.states.block_states import BlockStates, base_of


class HiddenStates:
    """Reads each prompt once, then its responses, longest first, up to the deepest requested layer.

    Args:
        model: A causal model of the transformers library; its head, if any, is not used.
        layers: Blocks, counted from 1, after which states are taken.
        batch_tokens: Tokens in a forward, padding included; larger batches are faster on a GPU.
    """

    def __init__(self, model: Any, layers: Sequence[int], batch_tokens: int = 4096) -> None:
        self._base = base_of(model)
        self._states = BlockStates(model, layers)
        self._device = model.get_input_embeddings().weight.device
        self._batch_tokens = batch_tokens
        self._shares = PromptSharing(model).continues()

    def read(self, conversations: Sequence[Conversation], report: Report | None = None) -> Iterator[States]:
        """Yield the states of each conversation in order.

        Args:
            conversations: Prompts with their responses; no prompt may be empty.
            report: Called after each batch.
        """
        for batch in self._batches(conversations):
            yield from self._read(batch, report or (lambda responses, tokens: None))

    def _batches(self, conversations: Sequence[Conversation]) -> Iterator[list[Conversation]]:
        """Split conversations into batches whose prompts have up to `batch_tokens` tokens, padded to the longest."""
        batch: list[Conversation] = []
        for each in conversations:
            if not each.prompt:
                raise ValueError("a prompt has no tokens")
            longest = max(len(one.prompt) for one in [*batch, each])
            if batch and longest * (len(batch) + 1) > self._batch_tokens:
                yield batch
                batch = []
            batch.append(each)
        if batch:
            yield batch

    @torch.no_grad()
    def _read(self, batch: list[Conversation], report: Report) -> list[States]:
        # Equal responses to a prompt have equal states: read them once.
        copies = Counter((of, tuple(response)) for of, each in enumerate(batch) for response in each.responses)
        rows = [(of, response) for of, response in copies if response]
        rows.sort(key=lambda row: -len(row[1]))
        with self._states.taken(cut=True):
            cache = PromptCache(shared=False)
            queries = self._prompts([each.prompt for each in batch], cache)
            report(sum(copies[of, ()] for of in range(len(batch))), sum(len(each.prompt) for each in batch))
            found: dict[tuple[int, tuple[int, ...]], Tensor] = {(of, ()): state for of, state in enumerate(queries)}
            before = [0 if self._shares else len(each.prompt) for each in batch]
            for part in self._parts(rows, max(before)):
                states = self._continued(part, cache) if self._shares else self._whole(part, batch)
                found |= dict(zip(part, states, strict=True))
                report(sum(map(copies.__getitem__, part)), sum(before[of] + len(response) for of, response in part))
        return [
            States(
                queries[of],
                torch.stack([found[of, tuple(response)] for response in each.responses])
                if each.responses
                else queries.new_empty(0, *queries.shape[1:]),
            )
            for of, each in enumerate(batch)
        ]

    def _parts(self, rows: list[tuple[int, tuple[int, ...]]], before: int) -> Iterator[list[Any]]:
        """Split sorted rows into batches of up to `batch_tokens` tokens, padded to the first and longest row."""
        start = 0
        while start < len(rows):
            size = max(1, self._batch_tokens // (before + len(rows[start][1])))
            yield rows[start : start + size]
            start += size

    def _prompts(self, prompts: Sequence[Sequence[int]], cache: PromptCache) -> Float[Tensor, "Q L D"]:
        ids, seen = filled(prompts, max(map(len, prompts)), left=self._shares, device=self._device)
        if self._shares:
            self._forward(ids, cache.prompts(seen))
            return self._states.at(range(len(prompts)))
        self._forward(ids, {"attention_mask": seen.long(), "use_cache": False})
        return self._states.at(range(len(prompts)), [len(prompt) - 1 for prompt in prompts])

    def _continued(self, part: list[tuple[int, tuple[int, ...]]], cache: PromptCache) -> Float[Tensor, "N L D"]:
        responses = [response for _, response in part]
        ids, seen = filled(responses, len(responses[0]), left=False, device=self._device)
        self._forward(ids, cache.continuations([of for of, _ in part], seen))
        return self._states.at(range(len(part)), [len(response) - 1 for response in responses])

    def _whole(self, part: list[tuple[int, tuple[int, ...]]], batch: list[Conversation]) -> Float[Tensor, "N L D"]:
        texts = [[*batch[of].prompt, *response] for of, response in part]
        ids, seen = filled(texts, max(map(len, texts)), left=False, device=self._device)
        self._forward(ids, {"attention_mask": seen.long(), "use_cache": False})
        return self._states.at(range(len(part)), [len(text) - 1 for text in texts])

    def _forward(self, ids: Tensor, inputs: dict[str, Any]) -> None:
        self._base(input_ids=ids, **inputs)
