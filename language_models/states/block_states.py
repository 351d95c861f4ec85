"""BlockStates: the residual stream after chosen blocks of a model, before any final norm."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from registry import ConfigError


def layers_of(depths: Sequence[float], num_layers: int, layer_offset: int = 0) -> list[int]:
    """The blocks, counted from 1, whose states have these depths.

    >>> layers_of([0.6, 1.0], 30), layers_of([0.6], 28, layer_offset=-1)
    ([18, 30], [16])

    Args:
        depths: Fractions of all layers, in (0, 1].
        num_layers: Number of blocks of the model.
        layer_offset: Added to each block number; -1 is one block lower.

    Raises:
        ValueError: If a depth has no block.
    """
    layers = [round(depth * num_layers) + layer_offset for depth in depths]
    for depth, layer in zip(depths, layers, strict=True):
        if not 0 < depth <= 1 or not 1 <= layer <= num_layers:
            raise ValueError(f"depth {depth} (layer_offset {layer_offset}) is layer {layer} of 1 to {num_layers}")
    return layers


class BlockStates:
    """The outputs of chosen blocks in the last forward.

    Args:
        model: A model of the transformers library, with or without a head.
        layers: The chosen blocks, counted from 1; a block may occur twice.

    Raises:
        ConfigError: If the model's transformer blocks cannot be found.
    """

    def __init__(self, model: Any, layers: Sequence[int]) -> None:
        self._owner, self._name = place_of_blocks(model)
        self._layers = list(layers)
        self._states: dict[int, Tensor] = {}

    @property
    def layers(self) -> list[int]:
        """The chosen blocks."""
        return self._layers

    @contextmanager
    def taken(self, *, cut: bool = False) -> Iterator[None]:
        """Within this context, record the states of every forward.

        Args:
            cut: End each forward after the deepest chosen block; the model's output then has no meaning.
        """
        blocks = self._owner.get_submodule(self._name)
        assert isinstance(blocks, nn.ModuleList)
        hooks = [blocks[layer - 1].register_forward_hook(partial(self._take, layer)) for layer in set(self._layers)]
        try:
            if cut:
                setattr(self._owner, self._name, nn.ModuleList(list(blocks)[: max(self._layers, default=0)]))
            yield
        finally:
            setattr(self._owner, self._name, blocks)
            for hook in hooks:
                hook.remove()
            self._states.clear()

    def at(self, rows: Sequence[int], places: Sequence[int] | int = -1) -> Float[Tensor, "n L D"]:
        """The states of one token of each given row at each layer, in fp32 on the CPU.

        Args:
            rows: Rows of the batch.
            places: The position of the token: one for each row, or the same for all.
        """
        row = torch.tensor(rows, dtype=torch.long)
        place = torch.tensor(places, dtype=torch.long).expand(len(rows))
        found = [self._chosen(self._states[layer], row, place) for layer in self._layers]
        return torch.stack(found, dim=1)

    @staticmethod
    def _chosen(states: Tensor, row: Int[Tensor, " n"], place: Int[Tensor, " n"]) -> Float[Tensor, "n D"]:
        return states[row.to(states.device), place.to(states.device)].float().cpu()

    def _take(self, layer: int, block: nn.Module, inputs: Any, output: Any) -> None:
        self._states[layer] = output if isinstance(output, Tensor) else output[0]


def base_of(model: Any) -> Any:
    """A model without its head; some models lack the attribute that their `base_model_prefix` names."""
    return getattr(model, model.base_model_prefix, None) or getattr(model, "model", model)


def keeps_logits(model: Any) -> bool:
    """Whether a model has an option to return logits of the last tokens only."""
    return "logits_to_keep" in inspect.signature(model.forward).parameters


def num_layers_of(model: Any) -> int:
    """How many blocks a model has."""
    return model.config.get_text_config().num_hidden_layers


def first_position_of(model: Any) -> int:
    """The position of a text's first token: some models keep the first positions for padding."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            return module.padding_idx + 1
    return 0


def blocks_of(model: Any) -> list[nn.Module]:
    """The transformer blocks of any model, in order; none if it does not hold them in one list."""
    number = num_layers_of(model)
    lists = (each for each in model.modules() if isinstance(each, nn.ModuleList) and len(each) == number)
    return list(next(lists, ()))


def place_of_blocks(model: Any) -> tuple[nn.Module, str]:
    """The module that holds both the list of blocks and the input embeddings, and the list's name in it."""
    embeddings, number = model.get_input_embeddings(), num_layers_of(model)
    for owner in model.modules():
        for name, child in owner.named_children():
            blocks = isinstance(child, nn.ModuleList) and len(child) == number
            if blocks and any(module is embeddings for module in owner.modules()):
                return owner, name
    raise ConfigError("features.generator.model", f"cannot find the transformer blocks of {type(model).__name__}.")
