"""Lora: low-rank corrections to a frozen backbone (Hu et al. 2021); only this module uses PEFT."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import MinLen
from torch import nn

from registry import ConfigError
from registry.ranges import Dropout, Positive, Text, Width


@dataclass(frozen=True)
class Lora:
    """W x + (alpha / rank) B A dropout(x), with A of `rank` rows, and B zero at the start.

    Args:
        rank: Rank of the correction: the number of rows of A.
        alpha: Scale of the correction; it is multiplied by alpha / rank.
        dropout: Probability that training hides an input of a layer from the correction.
        targets: Layers to correct: `all` linear layers of attention and feed-forward, or a list of names such as
            `[q_proj, v_proj]`.
    """

    rank: Width = 32
    alpha: Positive = 64.0
    dropout: Dropout = 0.1
    targets: Literal["all"] | Annotated[list[Text], MinLen(1)] = "all"


def add_lora(backbone: Any, lora: Lora | None) -> None:
    """Freeze a backbone and add a correction with fp32 weights, the only ones to train; None adds no correction.

    Raises:
        ConfigError: If the backbone has no layer with a name in `targets`.
    """
    backbone.requires_grad_(False)
    if lora is None:
        return
    from peft import LoraConfig, inject_adapter_in_model
    from transformers.pytorch_utils import Conv1D

    targets = lora_targets(backbone, lora)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=targets,
        fan_in_fan_out=isinstance(backbone.get_submodule(targets[0]), Conv1D),
    )
    try:
        inject_adapter_in_model(config, backbone)
    except ValueError as error:
        raise ConfigError("ranker.lora", f"{error}", cure="name other ranker.lora.targets, or lora=null") from error
    backbone.train(backbone.training)
    for name, weight in backbone.named_parameters():
        if is_adapter(name):
            weight.data = weight.data.float()


def is_adapter(name: str) -> bool:
    """Whether a weight of that name belongs to the correction."""
    return ".lora_" in name


def lora_targets(backbone: nn.Module, lora: Lora) -> list[str]:
    """Full names of the linear layers to correct: those in numbered blocks, which excludes poolers and embeddings.

    Raises:
        ConfigError: If the backbone has no layer with a name in `targets`.
    """
    from transformers.pytorch_utils import Conv1D

    linear = [
        name
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and any(part.isdigit() for part in name.split("."))
    ]
    kinds = dict.fromkeys(name.rpartition(".")[2] for name in linear)
    if lora.targets != "all":
        for target in lora.targets:
            if not any(f".{name}".endswith(f".{target}") for name in linear):
                problem = f"the backbone's blocks have no linear layer {target!r}."
                raise ConfigError("ranker.lora.targets", problem, given=target, known=["all", *kinds])
        linear = [name for name in linear if any(f".{name}".endswith(f".{target}") for target in lora.targets)]
    if not linear:
        raise ConfigError("ranker.lora.targets", "the backbone's blocks have no linear layer.", cure="ranker.lora=null")
    return linear
