"""Schedules: how the learning rate changes from step to step, as a share of the optimizer's `lr`.

All schedules start with an optional warm-up, in which the rate rises linearly from 0.
"""

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from registry import SCHEDULES
from registry.ranges import Fraction


@SCHEDULES.register("constant")
def constant(optimizer: Optimizer, total_steps: int, /, *, warmup: Fraction = 0.0) -> LambdaLR:
    """Keep the full learning rate to the end.

    Args:
        warmup: Share of all steps that the warm-up takes, in [0, 1].
    """
    return _schedule(optimizer, total_steps, warmup, lambda done: 1.0)


@SCHEDULES.register("linear")
def linear(optimizer: Optimizer, total_steps: int, /, *, warmup: Fraction = 0.0) -> LambdaLR:
    """Decrease the learning rate linearly to 0.

    Args:
        warmup: Share of all steps that the warm-up takes, in [0, 1].
    """
    return _schedule(optimizer, total_steps, warmup, lambda done: 1 - done)


@SCHEDULES.register("cosine")
def cosine(optimizer: Optimizer, total_steps: int, /, *, warmup: Fraction = 0.0) -> LambdaLR:
    """Decrease the learning rate to 0 along half a cosine (Loshchilov and Hutter 2017, without restarts).

    Args:
        warmup: Share of all steps that the warm-up takes, in [0, 1].
    """
    return _schedule(optimizer, total_steps, warmup, lambda done: (1 + math.cos(math.pi * done)) / 2)


def _schedule(optimizer: Optimizer, total_steps: int, warmup: float, decay: Callable[[float], float]) -> LambdaLR:
    """Scale the rate at each step; `decay` maps the completed share of the steps after the warm-up to a factor."""
    rising = round(warmup * total_steps)

    def factor(step: int) -> float:
        if step < rising:
            return step / rising
        return decay(min(1.0, (step - rising) / max(1, total_steps - rising)))

    return LambdaLR(optimizer, factor)
