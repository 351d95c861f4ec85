"""Schedules: how the learning rate changes from step to step, as a share of the optimizer's.

All begin with an optional warm-up, in which the rate rises linearly from 0.
"""

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from registry import SCHEDULES
from registry.ranges import Fraction


@SCHEDULES.register("constant")
def constant(optimizer: Optimizer, total_steps: int, /, *, warmup: Fraction = 0.0) -> LambdaLR:
    """The full rate to the end.

    Args:
        warmup: Share of all steps in which the rate rises, in [0, 1].
    """
    return _schedule(optimizer, total_steps, warmup, lambda done: 1.0)


@SCHEDULES.register("linear")
def linear(optimizer: Optimizer, total_steps: int, /, *, warmup: Fraction = 0.0) -> LambdaLR:
    """Down to 0 on a straight line.

    Args:
        warmup: Share of all steps in which the rate rises, in [0, 1].
    """
    return _schedule(optimizer, total_steps, warmup, lambda done: 1 - done)


@SCHEDULES.register("cosine")
def cosine(optimizer: Optimizer, total_steps: int, /, *, warmup: Fraction = 0.0) -> LambdaLR:
    """Down to 0 on half a cosine (Loshchilov and Hutter 2017, without restarts).

    Args:
        warmup: Share of all steps in which the rate rises, in [0, 1].
    """
    return _schedule(optimizer, total_steps, warmup, lambda done: (1 + math.cos(math.pi * done)) / 2)


def _schedule(optimizer: Optimizer, total_steps: int, warmup: float, decay: Callable[[float], float]) -> LambdaLR:
    """The rate's factor at each step; `decay` maps the share done of the steps after the warm-up to it."""
    rising = round(warmup * total_steps)

    def factor(step: int) -> float:
        if step < rising:
            return step / rising
        return decay(min(1.0, (step - rising) / max(1, total_steps - rising)))

    return LambdaLR(optimizer, factor)
