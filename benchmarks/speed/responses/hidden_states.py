"""Hidden states: reads states of existing responses, against a plain full forward of each with its prompt."""

from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.comparison import Comparison, Ratio, in_turns
from benchmarks.peers import Way, Work
from benchmarks.speed.responses import sampling
from benchmarks.speed.training.workload import MBPP, TINY, Workload
from language_models.conversation import Conversation
from language_models.states.block_states import layers_of
from language_models.states.hidden_states import HiddenStates

_WITHIN = 0.05


@dataclass(frozen=True)
class Case:
    """The texts to read, and the model that reads them.

    Args:
        model: The shape of the model, which has random weights.
        num_prompts: Number of prompts.
        num_responses: Number of responses to each prompt.
        tokens: Number of tokens of a prompt; its responses have 0.5 to 1.5 times as many, the same on average.
        depth: Depth of the states.
    """

    model: sampling.Case = field(default_factory=sampling.Case)
    num_prompts: int = 2
    num_responses: int = 10
    tokens: int = 150
    depth: float = 0.6


FULL, SMALL = Case(), Case(sampling.SMALL, 2, 3, 12)
WAYS = {
    "ours": "features.hidden_states: prompts read once, responses by length, up to the layer asked for",
    "plain": "the model without its head, output_hidden_states=True, a prompt's texts as one padded batch",
    "plain with head": "the same with its head, which gives logits of every token",
    "products": "the matrix products alone, of each prompt once and each response, up to that layer: the floor",
}
RATIOS = [Ratio("plain", "ours", at_least=1.8), Ratio("plain with head", "ours"), Ratio("ours", "products")]


def measure(data: Path, workload: Workload = MBPP, repeats: int = 5, *, apart: bool = True) -> Comparison:
    """Read the same texts in each way, each in its own process.

    Args:
        data: Not used.
        workload: The tiny one stands for a small model and short texts.
        repeats: How often each way runs.
        apart: Run each in a process of its own.

    Raises:
        AssertionError: If the states differ by more than rounding.
    """
    case = SMALL if workload == TINY else FULL
    case = replace(case, model=case.model.resolved)
    start = partial(Way, apart=apart)
    ways = {
        "ours": start(_ours, case),
        "plain": start(_plain, case, False),
        "plain with head": start(_plain, case, True),
        "products": start(_products, case),
    }
    seconds = in_turns({name: way.seconds for name, way in ways.items()}, repeats)
    found = {name: torch.tensor(way.result) for name, way in ways.items() if way.result}
    for way in ways.values():
        way.close()
    far = {name: float((states - found["plain"]).norm() / found["plain"].norm()) for name, states in found.items()}
    assert max(far.values()) <= _WITHIN, far
    tokens = sum(len(each.prompt) + len(response) for each in conversations(case) for response in each.responses)
    facts = {"case": asdict(case), "tokens": tokens, "distance_from_plain": far}
    return Comparison("hidden_states", "how long does it take to read responses?", WAYS, seconds, RATIOS, facts)


def conversations(case: Case) -> list[Conversation]:
    """Random tokens."""
    draw = torch.Generator().manual_seed(2)

    def text(length: int) -> list[int]:
        return torch.randint(3, case.model.vocabulary, (length,), generator=draw).tolist()

    lengths = torch.randint(
        case.tokens // 2, 3 * case.tokens // 2, (case.num_prompts, case.num_responses), generator=draw
    )
    return [Conversation(text(case.tokens), [text(length) for length in row]) for row in lengths.tolist()]


def _ours(case: Case) -> Work:
    model, asked = sampling.model_of(case.model), conversations(case)
    reader = HiddenStates(model, layers_of([case.depth], case.model.num_layers))

    def work() -> list[Float[Tensor, "N D"]]:
        return [states.responses[:, 0] for states in reader.read(asked)]

    return work, _summary


def _plain(case: Case, head: bool) -> Work:
    causal, asked = sampling.model_of(case.model), conversations(case)
    model: Any = causal if head else causal.base_model
    (layer,) = layers_of([case.depth], case.model.num_layers)

    @torch.inference_mode()
    def work() -> list[Float[Tensor, "N D"]]:
        found = []
        for prompt, responses in asked:
            texts = [torch.tensor([*prompt, *response]) for response in responses]
            ids = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
            last = torch.tensor([len(text) - 1 for text in texts])
            mask = (torch.arange(ids.shape[1]) <= last.unsqueeze(1)).long()
            states = model(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False).hidden_states
            found.append(states[layer][torch.arange(len(texts)), last])
        return found

    return work, _summary


def _products(case: Case) -> Work:
    weights = sampling.weights_of(case.model, *layers_of([case.depth], case.model.num_layers), head=False)
    rows = [sum(len(each.prompt) for each in conversations(case))]
    rows.append(sum(len(response) for each in conversations(case) for response in each.responses))

    @torch.inference_mode()
    def work() -> None:
        for number in rows:
            sampling.multiplied(weights, number)

    return work, lambda nothing: None


def _summary(found: list[Float[Tensor, "N D"]]) -> list[list[float]]:
    return torch.cat(found).float().tolist()
