"""Sampling: samples many responses to one prompt, against transformers' generate and the matrix products alone."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from benchmarks.comparison import Comparison, Ratio, in_turns
from benchmarks.peers import Way, Work
from benchmarks.speed.training.workload import MBPP, TINY, Workload
from language_models.precision import Dtype, resolve_dtype
from language_models.sampling.prompt import Prompt
from language_models.sampling.sampler import Sampled, Sampler
from language_models.sampling.token_choice import TokenChoice
from language_models.states.block_states import layers_of

_END = 2
_ENDS = {_END}


@dataclass(frozen=True)
class Case:
    """A model with random weights, and the responses to sample from it; the default shape is that of SmolLM2-135M.

    Args:
        hidden_size: Width of the model.
        intermediate_size: Width of the feed-forward network.
        num_layers: Number of blocks.
        num_heads: Number of attention heads.
        num_key_heads: Number of heads of keys and values.
        vocabulary: Number of tokens; one of them ends a response.
        prompt_tokens: Number of tokens of the prompt.
        num_responses: Number of responses to the prompt.
        mean_tokens: Mean number of tokens of an uncut response: each token is the last with probability 1 / mean.
        most_tokens: Number of tokens where a response is cut.
        dtype: Number format of the computation; `auto` is resolved before the measurement.
    """

    hidden_size: int = 576
    intermediate_size: int = 1536
    num_layers: int = 30
    num_heads: int = 9
    num_key_heads: int = 3
    vocabulary: int = 49152
    prompt_tokens: int = 150
    num_responses: int = 64
    mean_tokens: int = 100
    most_tokens: int = 256
    dtype: Dtype = "auto"

    @property
    def resolved(self) -> "Case":
        """A copy with `auto` replaced by what it stands for on this CPU."""
        return replace(self, dtype=resolve_dtype(self.dtype, torch.device("cpu")))


FULL = Case()
SMALL = Case(32, 48, 3, 4, 2, 200, 20, 8, 6, 16, "float32")
WAYS = {
    "ours": "language_models.sampling: the prompt read once, ended responses leave",
    "generate": "model.generate(do_sample=True, num_return_sequences=...) in the same precision",
    "products": "the matrix products with all weights alone, each step with the rows that have not ended: the floor",
}
RATIOS = [Ratio("generate", "ours", at_least=1.3), Ratio("ours", "products")]


def measure(data: Path, workload: Workload = MBPP, repeats: int = 5, *, apart: bool = True) -> Comparison:
    """Sample with the same model in each way, each in its own process, with another seed in each repeat.

    In all ways, responses end with the same probability at each token, so their lengths have the same distribution. The
    ways draw different lengths, so the time of each is divided by its number of tokens.

    Args:
        data: Not used.
        workload: The tiny one stands for a small model.
        repeats: How often each way runs.
        apart: Run each in a process of its own.
    """
    case = (SMALL if workload == TINY else FULL).resolved
    start = partial(Way, apart=apart)
    ways = {
        "ours": start(ours, case, False),
        "generate": start(_generate, case),
        "products": start(_products, case),
    }
    seconds, tokens = in_turns_by_token(ways, case, repeats)
    facts = {
        "case": asdict(case),
        "tokens": tokens,
        "tokens_a_second": {name: mean_tokens(case) / statistics.median(values) for name, values in seconds.items()},
        "note": f"seconds are for {mean_tokens(case):,.0f} tokens, the mean of a run",
        "gflop_a_token": 2 * sum(map(torch.numel, weights_of(case, case.num_layers, head=True))) / 1e9,
    }
    return Comparison("sampling", "how long does sampling take?", WAYS, seconds, RATIOS, facts)


def in_turns_by_token(
    ways: Mapping[str, Way], case: Case, repeats: int
) -> tuple[dict[str, list[float]], dict[str, list[int]]]:
    """Run ways whose result is a number of tokens, and close them.

    Args:
        ways: The ways to run.
        case: The case that they sample.
        repeats: How often each way runs.

    Returns:
        The seconds of each way, scaled to the mean number of tokens of a run, and the actual numbers of tokens.
    """
    tokens: dict[str, list[int]] = {name: [] for name in ways}

    def timed(name: str) -> float:
        seconds = ways[name].seconds()
        tokens[name].append(ways[name].result)
        return seconds * mean_tokens(case) / ways[name].result

    seconds = in_turns({name: partial(timed, name) for name in ways}, repeats)
    for way in ways.values():
        way.close()
    return seconds, tokens


def mean_tokens(case: Case) -> float:
    """The mean number of tokens of all responses, by a truncated geometric distribution."""
    length = case.mean_tokens * (1 - (1 - 1 / case.mean_tokens) ** case.most_tokens)
    return case.num_responses * length


def model_of(case: Case) -> Any:
    """A Llama with this shape, whose end token has the same probability after every text."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=case.vocabulary,
        hidden_size=case.hidden_size,
        intermediate_size=case.intermediate_size,
        num_hidden_layers=case.num_layers,
        num_attention_heads=case.num_heads,
        num_key_value_heads=case.num_key_heads,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=_END,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config).to(getattr(torch, case.dtype)).eval()
    model.lm_head.register_forward_hook(partial(_with_ends, case.mean_tokens))
    return model


def weights_of(case: Case, num_layers: int, *, head: bool) -> list[Float[Tensor, "o i"]]:
    """Random weights with the shapes of the model's matrices, block by block."""
    size, keys = case.hidden_size, case.hidden_size * case.num_key_heads // case.num_heads
    shapes = [(size, size), (keys, size), (keys, size), (size, size), *2 * [(case.intermediate_size, size)]]
    block = [*shapes, (size, case.intermediate_size)]
    draw = torch.Generator().manual_seed(3)
    return [
        torch.randn(shape, generator=draw).to(getattr(torch, case.dtype)) * 0.02
        for shape in [*block * num_layers, *([(case.vocabulary, size)] if head else [])]
    ]


def multiplied(weights: Sequence[Float[Tensor, "o i"]], rows: int) -> None:
    """Multiply rows with all weights."""
    inputs = {each.shape[1]: torch.ones(rows, each.shape[1], dtype=each.dtype) for each in weights}
    for each in weights:
        torch.nn.functional.linear(inputs[each.shape[1]], each)


def prompt_of(case: Case) -> list[int]:
    """Random tokens."""
    draw = torch.Generator().manual_seed(1)
    return torch.randint(3, case.vocabulary, (case.prompt_tokens,), generator=draw).tolist()


def _with_ends(mean_tokens: int, head: Any, inputs: Any, logits: Tensor) -> Tensor:
    """Logits that end a text with probability 1 / `mean_tokens`."""
    logits[..., _END] = -torch.inf
    logits[..., _END] = logits.float().logsumexp(dim=-1) - torch.tensor(mean_tokens - 1.0).log()
    return logits


def ours(case: Case, states: bool) -> Work:
    """Sample with `language_models.sampling`, with another seed at each call; keep the number of tokens.

    Args:
        case: The case to sample.
        states: Whether to keep the states of each last token at depth 0.6.
    """
    model, prompt, seeds = model_of(case), Prompt("prompt", prompt_of(case)), iter(range(1 << 30))
    layers = layers_of([0.6], case.num_layers) if states else []
    options = {"end_tokens": _ENDS, "max_new_tokens": case.most_tokens, "batch_size": case.num_responses}
    sampler = Sampler(model, TokenChoice(), layers=layers, **options)
    assert sampler.shared

    def work() -> list[Sampled]:
        return list(sampler.sample([prompt._replace(id=f"prompt {next(seeds)}")], range(case.num_responses)))

    return work, lambda found: sum(len(sample.tokens) for each in found for sample in each.samples)


def _generate(case: Case) -> Work:
    from transformers import GenerationConfig

    model, ids = model_of(case), torch.tensor([prompt_of(case)])
    model.generation_config = GenerationConfig(
        do_sample=True,
        top_k=0,
        num_return_sequences=case.num_responses,
        max_new_tokens=case.most_tokens,
        eos_token_id=_END,
        pad_token_id=0,
    )

    def work() -> Tensor:
        return model.generate(ids, attention_mask=torch.ones_like(ids))[:, case.prompt_tokens :]

    return work, lambda found: int((found != 0).sum())


def _products(case: Case) -> Work:
    weights, draw = weights_of(case, case.num_layers, head=True), torch.Generator().manual_seed(4)

    @torch.inference_mode()
    def work() -> Int[Tensor, " n"]:
        lengths = torch.empty(case.num_responses).geometric_(1 / case.mean_tokens, generator=draw).long()
        lengths = lengths.clamp(max=case.most_tokens)
        multiplied(weights, case.prompt_tokens)
        for step in range(1, int(lengths.max())):
            multiplied(weights, int((lengths > step).sum()))
        return lengths

    return work, lambda lengths: int(lengths.sum())
