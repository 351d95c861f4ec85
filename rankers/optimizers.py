"""Optimizers: how gradients update a ranker's parameters; the defaults are those of Language Ranker, table 8."""

from collections.abc import Iterable

from torch import nn
from torch.optim import SGD, Adagrad, AdamW

from registry import OPTIMIZERS
from registry.ranges import Dropout, NonNegative, Positive


@OPTIMIZERS.register("adamw")
def adamw(
    params: Iterable[nn.Parameter],
    /,
    *,
    lr: Positive = 1e-4,
    betas: tuple[Dropout, Dropout] = (0.9, 0.999),
    eps: Positive = 1e-8,
    weight_decay: NonNegative = 1e-4,
) -> AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019).

    Args:
        lr: The learning rate at the schedule's peak.
        betas: Decay rates of the running means of the gradients and of their squares.
        eps: A small number added to the denominator, against division by zero.
        weight_decay: Each step subtracts learning rate * weight_decay * weight from each weight.
    """
    optimizer = AdamW(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=True)
    # Gradients of fp16 are unscaled before the step, since Lightning clips them in between.
    optimizer._step_supports_amp_scaling = False
    return optimizer


@OPTIMIZERS.register("adagrad")
def adagrad(
    params: Iterable[nn.Parameter],
    /,
    *,
    lr: Positive = 0.05,
    eps: Positive = 1e-6,
    weight_decay: NonNegative = 0.0,
) -> Adagrad:
    """Steps that shrink with the sum of the squares of each weight's gradients so far (Duchi et al. 2011).

    Args:
        lr: The learning rate at the schedule's peak.
        eps: A small number added to the denominator, against division by zero.
        weight_decay: Weight of the L2 penalty.
    """
    return Adagrad(params, lr=lr, eps=eps, weight_decay=weight_decay)


@OPTIMIZERS.register("sgd")
def sgd(
    params: Iterable[nn.Parameter],
    /,
    *,
    lr: Positive = 0.1,
    momentum: Dropout = 0.9,
    nesterov: bool = False,
    weight_decay: NonNegative = 1e-4,
) -> SGD:
    """Stochastic gradient descent with momentum.

    Args:
        lr: The learning rate at the schedule's peak.
        momentum: Share of the previous update that is added to the current one.
        nesterov: Use Nesterov momentum.
        weight_decay: Weight of the L2 penalty.
    """
    return SGD(params, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay)
