"""Kept states: the cost of keeping hidden states while responses are sampled."""

from dataclasses import asdict
from pathlib import Path

from benchmarks.comparison import Comparison, Ratio
from benchmarks.peers import Way
from benchmarks.speed.responses import sampling
from benchmarks.speed.training.workload import MBPP, TINY, Workload

WAYS = {
    "alone": "language_models.sampling without states",
    "states kept": "the same responses, and the state at depth 0.6 of the prompt and of each response's last token",
}
RATIOS = [Ratio("states kept", "alone", at_most=1.03)]


def measure(data: Path, workload: Workload = MBPP, repeats: int = 5) -> Comparison:
    """Sample the same responses, up to rounding, in both ways; in one process, as two differ more than the effect.

    Args:
        data: Not used.
        workload: The tiny one stands for a small model.
        repeats: How often each way runs.
    """
    case = (sampling.SMALL if workload == TINY else sampling.FULL).resolved
    ways = {
        name: Way(sampling.ours, case, states, apart=False) for name, states in zip(WAYS, (False, True), strict=True)
    }
    seconds, tokens = sampling.in_turns_by_token(ways, case, repeats)
    facts = {"case": asdict(case), "tokens": tokens}
    return Comparison("kept_states", "what does it cost to keep hidden states?", WAYS, seconds, RATIOS, facts)
