"""QueryEmbedder: reads queries in many contexts and computes what the contexts share only once.

If the backbone is causal and the query is before the placeholder, only the tokens from the placeholder on depend on the
context. The tokens before it are read once per query, and all contexts use their keys and values.
"""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from language_models import CACHE_ARGUMENT
from rankers.lranker.prompt_reader import PromptReader, total
from ranking.pools.pool_batch import Contexts

Embeddings = Float[Tensor, "B P N H"]

# The most tokens per call of the backbone, so memory does not grow with the number of contexts.
_BATCH_TOKENS = 1 << 14
# The most tokens of one query per call: attention between its parts is masked, which wastes time on a CPU.
_SHARED_TOKENS = {"cpu": 512}


@runtime_checkable
class QueryEmbedder(Protocol):
    """Embeds B queries, each in P contexts of its own."""

    def __call__(self, contexts: Contexts) -> Float[Tensor, "B P E"]:
        """The embedding of each query in each of its contexts, `[B, P, K, D]`."""
        ...

    def keep(self, queries: Int[Tensor, " b"]) -> None:
        """Embed only these queries from now on, in this order."""
        ...


class SeparatePrompts:
    """Reads the whole prompt for every context.

    Args:
        reader: The backbone and its prompts.
        tokens: The queries' own tokens, padded on the right.
        lengths: How many tokens each query has.
    """

    def __init__(self, reader: PromptReader, tokens: Int[Tensor, "B T"], lengths: Int[Tensor, " B"]) -> None:
        self._reader, self._tokens, self._lengths = reader, tokens, lengths

    def __call__(self, embeddings: Embeddings, mask: Bool[Tensor, "B P K"]) -> Float[Tensor, "B P H"]:
        """The pooled states of each query in each of its contexts."""
        count, width = embeddings.shape[:2]
        per_call = max(1, _BATCH_TOKENS // (self._reader.prompt.num_tokens + self._tokens.shape[1] + mask.shape[2]))
        query = torch.arange(count, device=self._tokens.device).repeat_interleave(width)
        parts = zip(
            query.split(per_call), *(each.flatten(0, 1).split(per_call) for each in (embeddings, mask)), strict=True
        )
        pooled = [self._reader.read(self._tokens[rows], self._lengths[rows], *part) for rows, *part in parts]
        return torch.cat(pooled).unflatten(0, (count, width))

    def keep(self, queries: Int[Tensor, " b"]) -> None:
        """Read only these queries from now on, in this order."""
        self._tokens, self._lengths = self._tokens[queries], self._lengths[queries]


class SharedPrefixes:
    """Reads the tokens before the placeholder once, then the tokens after it for all contexts in parallel.

    The contexts of a query form one sequence, in which each part attends only to the prefix and to itself.

    Args:
        reader: A causal backbone and prompts with the query before the placeholder.
        tokens: The queries' own tokens, padded on the right.
        lengths: How many tokens each query has.
    """

    def __init__(self, reader: PromptReader, tokens: Int[Tensor, "B T"], lengths: Int[Tensor, " B"]) -> None:
        from transformers import DynamicCache

        prompt = reader.prompt
        assert prompt.placeholder is not None and not prompt.shown_first
        self._reader, self._cache = reader, DynamicCache()
        laid = prompt.lay(tokens, lengths, prompt.after[: prompt.placeholder])
        self._seen, self._start = laid.mask, laid.mask.sum(dim=1)
        self._suffix = torch.tensor(prompt.after[prompt.placeholder :], device=tokens.device)
        states = reader.states(
            inputs_embeds=reader.embed(laid.ids),
            attention_mask=laid.mask.long(),
            use_cache=True,
            **{CACHE_ARGUMENT: self._cache},
        )
        pooled = {"query_eos": laid.query, "mean": laid.mask, "last": torch.zeros_like(laid.mask)}[reader.pooling]
        self._total, self._count = total(states, pooled), pooled.sum(dim=1)
        self._pooled = torch.ones_like(self._suffix, dtype=torch.bool)
        if reader.pooling != "mean":
            self._pooled[:-1] = False

    def __call__(self, embeddings: Embeddings, mask: Bool[Tensor, "B P K"]) -> Float[Tensor, "B P H"]:
        """The pooled states of each query in each of its contexts."""
        size = len(self._suffix)
        most = min(_SHARED_TOKENS.get(embeddings.device.type, _BATCH_TOKENS), _BATCH_TOKENS // len(embeddings))
        per_call = max(1, most // size)
        return torch.cat([self._read(part[:, :, 0]) for part in embeddings.split(per_call, dim=1)], dim=1)

    def keep(self, queries: Int[Tensor, " b"]) -> None:
        """Read only these queries from now on, in this order."""
        self._cache.batch_select_indices(queries)
        self._seen, self._start = self._seen[queries], self._start[queries]
        self._total, self._count = self._total[queries], self._count[queries]

    def _read(self, embeddings: Float[Tensor, "B P H"]) -> Float[Tensor, "B P H"]:
        (count, width), size = embeddings.shape[:2], len(self._suffix)
        inputs = self._reader.embed(self._suffix).expand(count, width, -1, -1)
        inputs = torch.cat([embeddings.unsqueeze(2).to(inputs.dtype), inputs[:, :, 1:]], dim=2).flatten(1, 2)
        places = self._start.unsqueeze(1) + torch.arange(size, device=inputs.device).repeat(width)
        try:
            states = self._reader.states(
                inputs_embeds=inputs,
                attention_mask=self._attention(width, inputs.dtype),
                position_ids=places,
                use_cache=True,
                **{CACHE_ARGUMENT: self._cache},
            )
        finally:
            self._cache.crop(self._seen.shape[1] - self._cache.get_seq_length())
        pooled = self._pooled.expand(count, width, -1)
        sums = self._total.unsqueeze(1) + total(states.unflatten(1, (width, size)), pooled)
        return sums / (self._count + self._pooled.sum()).view(-1, 1, 1)

    def _attention(self, width: int, dtype: torch.dtype) -> Tensor:
        """The attention mask in the backbone's format: each token attends to its query's prefix and its own part."""
        size, count = len(self._suffix), len(self._seen)
        place = torch.arange(width * size, device=self._seen.device)
        part = place // size
        own = (part.unsqueeze(1) == part) & (place.unsqueeze(1) >= place)
        prefix = self._seen[:, None, None].expand(-1, 1, len(place), -1)
        seen = torch.cat([prefix, own.expand(count, 1, -1, -1)], dim=-1)
        if self._reader.backbone.config._attn_implementation == "sdpa":
            return seen
        return torch.zeros_like(seen, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)


class PromptEmbedder:
    """Embeds queries by reading their prompts in contexts, without gradients.

    Args:
        project: Turns contexts `[B * P, K, D]` into embeddings of the backbone's width, and their mask.
        read: Reads the queries with these embeddings.
        finish: Turns the states of the backbone into embeddings.
        count: Is told how many contexts were read, after each call.
    """

    def __init__(
        self,
        project: Callable[[Contexts], tuple[Tensor, Tensor]],
        read: SeparatePrompts | SharedPrefixes,
        finish: Callable[[Tensor], Tensor],
        count: Callable[[int], None] | None = None,
    ) -> None:
        self._project, self._read, self._finish, self._count = project, read, finish, count

    @torch.no_grad()
    def __call__(self, contexts: Contexts) -> Float[Tensor, "B P E"]:
        """The embedding of each query in each of its contexts, `[B, P, K, D]`."""
        shape = contexts.mask.shape[:2]
        embeddings, mask = self._project(Contexts(*(each.flatten(0, 1) for each in contexts)))
        found = self._finish(self._read(embeddings.unflatten(0, shape), mask.unflatten(0, shape)))
        if self._count is not None:
            self._count(shape.numel())
        return found

    def keep(self, queries: Int[Tensor, " b"]) -> None:
        """Embed only these queries from now on, in this order."""
        self._read.keep(queries)


@torch.no_grad()
def shares_prefixes(reader: PromptReader, longest: int) -> bool:
    """Whether contexts can share prefixes; tested on two prompts, because a model's name and settings do not tell.

    Args:
        reader: The backbone and its prompts.
        longest: Number of tokens of the longest prompt.
    """
    prompt, backbone = reader.prompt, reader.backbone
    window = getattr(backbone.config, "sliding_window", None)
    if (
        reader.injection == "prefix"
        or prompt.placeholder is None
        or prompt.shown_first
        or longest > (window or longest)
    ):
        return False
    training, device = backbone.training, backbone.device
    tokens, lengths = torch.arange(6, device=device).view(2, 3), torch.tensor([3, 2], device=device)
    vectors = reader.embed(torch.arange(6, 10, device=device)).view(2, 2, 1, -1)
    mask = torch.ones(2, 2, 1, dtype=torch.bool, device=device)
    backbone.eval()
    try:
        with torch.autocast(device.type, enabled=False):
            if not _is_causal(reader):
                return False
            plain = SeparatePrompts(reader, tokens, lengths)(vectors, mask)
            shared = SharedPrefixes(reader, tokens, lengths)(vectors, mask)
    except (ValueError, TypeError, RuntimeError, AttributeError, NotImplementedError):
        return False
    finally:
        backbone.train(training)
    tolerance = 1e-3 if vectors.dtype == torch.float32 else 5e-2
    return bool((plain - shared).norm() <= tolerance * plain.norm())


def _is_causal(reader: PromptReader) -> bool:
    """Whether a token's state does not depend on the next token."""
    ids = torch.tensor([[1, 2], [1, 3]], device=reader.backbone.device)
    states = reader.states(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)[:, 0].float()
    return bool((states[0] - states[1]).abs().max() <= 1e-4 * states.abs().max())
