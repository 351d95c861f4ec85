"""Sampling: many responses to one prompt, against transformers' generate, and what it costs to keep hidden states."""

import statistics
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.comparison import Comparison, Ratio, in_turns
from benchmarks.peers import Way, Work
from benchmarks.workload import MBPP, TINY, Workload
from features.sampling import Prompt, Sampled, Sampler
from features.token_choice import TokenChoice

_END = 2
_ENDS = {_END}


@dataclass(frozen=True)
class Case:
    """A model of random weights, and what is sampled from it.

    Args:
        hidden_size: Of the model, as the fields after it; those of SmolLM2-135M.
        intermediate_size: Of the feed-forward network.
        num_layers: Blocks.
        num_heads: Of attention.
        num_key_heads: Of its keys and values.
        vocabulary: Tokens, of which one ends a response.
        prompt_tokens: Of the one prompt.
        num_responses: To it.
        mean_tokens: Of a response, where nothing cuts it: each token is the last with one over this probability.
        most_tokens: Where it is cut.
        dtype: Of the computation.
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
    dtype: str = "bfloat16"


FULL = Case()
SMALL = Case(32, 48, 3, 4, 2, 200, 20, 8, 6, 16, "float32")
WAYS = {
    "ours": "features.sampling: the prompt read once, ended responses leave",
    "ours, states kept": "the same, and the state at depth 0.6 of each last token",
    "generate": "model.generate(do_sample=True, num_return_sequences=...) in the same precision",
}
RATIOS = [Ratio("generate", "ours", at_least=1.3), Ratio("ours, states kept", "ours", at_most=1.03)]


def measure(data: Path, workload: Workload = MBPP, repeats: int = 5, *, apart: bool = True) -> Comparison:
    """Sample with the same model in each way, each in its own process, with another seed each time.

    All ways' responses end with the same probability at each token, so their lengths vary alike. Those of generate
    are drawn by a generator of its own, and each time is divided by the tokens that were sampled in it.

    Args:
        data: Nothing is written.
        workload: The tiny one stands for a small model.
        repeats: How often each way runs.
        apart: Run each in a process of its own.
    """
    case = SMALL if workload == TINY else FULL
    start = partial(Way, apart=apart)
    ways = {
        "ours": start(_ours, case, False),
        "ours, states kept": start(_ours, case, True),
        "generate": start(_generate, case),
    }
    sampled: dict[str, list[int]] = {name: [] for name in ways}
    per_second: dict[str, list[float]] = {name: [] for name in ways}
    expected = case.num_responses * _mean(case)

    def timed(name: str) -> float:
        seconds = ways[name].seconds()
        sampled[name].append(ways[name].result)
        per_second[name].append(ways[name].result / seconds)
        return seconds * expected / ways[name].result

    seconds = in_turns({name: partial(timed, name) for name in ways}, repeats)
    for way in ways.values():
        way.close()
    facts = {
        "case": asdict(case),
        "tokens": sampled,
        "tokens_a_second": {name: statistics.median(values) for name, values in per_second.items()},
        "note": f"seconds are for {expected:,.0f} tokens, the mean of a run",
        "floor": {"gflop of a token's weights": 2 * _weights(case) / 1e9},
    }
    return Comparison("sampling", "how long does sampling take?", WAYS, seconds, RATIOS, facts)


def model_of(case: Case) -> Any:
    """A Llama of that shape, whose end token has the same probability after whatever text."""
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


def prompt_of(case: Case) -> list[int]:
    """Random tokens."""
    draw = torch.Generator().manual_seed(1)
    return torch.randint(3, case.vocabulary, (case.prompt_tokens,), generator=draw).tolist()


def _with_ends(mean_tokens: int, head: Any, inputs: Any, logits: Tensor) -> Tensor:
    """Logits under which a text ends with one over so many."""
    logits[..., _END] = -torch.inf
    logits[..., _END] = logits.float().logsumexp(dim=-1) - torch.tensor(mean_tokens - 1.0).log()
    return logits


def _ours(case: Case, states: bool) -> Work:
    model, prompt, seeds = model_of(case), Prompt("prompt", prompt_of(case)), iter(range(1 << 30))
    layers = [round(0.6 * case.num_layers)] if states else []
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


def _mean(case: Case) -> float:
    """Tokens of a response: a geometric distribution's mean, cut."""
    return case.mean_tokens * (1 - (1 - 1 / case.mean_tokens) ** case.most_tokens)


def _weights(case: Case) -> int:
    size = case.hidden_size
    attention = size * size * (2 + 2 * case.num_key_heads / case.num_heads)
    return round(case.num_layers * (attention + 3 * size * case.intermediate_size) + case.vocabulary * size)
