"""Classifier head: the trained head of a ready-made classifier, which reads one state of each text."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from language_models.states.block_states import base_of
from language_models.states.pooling import Pooling

# Two texts of different lengths; the numbers stand for tokens.
_PROBE = ((1, 2, 3, 4), (5, 6, 7, 8, 9, 10))
# Spreads the tokens over the vocabulary: its first tokens are often special.
_SPREAD = 7919


def split_classifier(model: Any) -> tuple[Any, nn.Module, Pooling]:
    """Split a classifier into the model without head, the head in fp32, and the state of a text that the head reads.

    Args:
        model: A model of the transformers library for sequence classification, in evaluation mode.

    Raises:
        ValueError: If the head reads something else than one state of a text.
    """
    if isinstance(score := getattr(model, "score", None), nn.Linear):
        # transformers' own choice of the last token depends on which token is the padding token.
        return base_of(model), score.float(), "last"
    expected, states = _read_probe(model)
    base, head = base_of(model), _HeadOnStates(model)
    for pooling in ("first", "last", "mean"):
        found = head(torch.stack([_pooled(each, pooling) for each in states]))
        if found.shape == expected.shape and (found - expected).norm() <= 0.03 * expected.norm():
            return base, head.float(), pooling
    raise ValueError(f"the head of {type(model).__name__} reads more than one state of a text")


class _HeadOnStates(nn.Module):
    """A classifier whose base returns given states: each text is a single state. A pooler belongs to the head.

    Args:
        model: The classifier; its base becomes a part of this head.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        base = base_of(model)
        self._given = _GivenStates(getattr(base, "pooler", None))
        if self._given.pooler is not None:
            base.pooler = None
        (name,) = (name for name, child in model.named_children() if child is base)
        setattr(model, name, self._given)
        self.model = model

    def forward(self, states: Float[Tensor, "N H"]) -> Float[Tensor, "N O"]:
        """The classifier's outputs for each state."""
        self._given.states = states.unsqueeze(1)
        ones = torch.ones(len(states), 1, dtype=torch.long, device=states.device)
        try:
            return self.model(input_ids=ones, attention_mask=ones).logits
        finally:
            self._given.states = None


class _GivenStates(nn.Module):
    """Takes the place of a model: returns states that are known already."""

    def __init__(self, pooler: nn.Module | None) -> None:
        super().__init__()
        self.pooler = pooler
        self.states: Tensor | None = None

    def forward(self, *_: Any, **__: Any) -> BaseModelOutputWithPooling:
        pooled = None if self.pooler is None else self.pooler(self.states)
        return BaseModelOutputWithPooling(last_hidden_state=self.states, pooler_output=pooled)  # type: ignore[arg-type]


@torch.no_grad()
def _read_probe(model: Any) -> tuple[Float[Tensor, "N O"], Sequence[Float[Tensor, "L H"]]]:
    """The outputs of the whole classifier for each text of the probe, and all states of these texts."""
    vocabulary = model.get_input_embeddings().num_embeddings
    outputs, states = [], []
    for text in _PROBE:
        ids = torch.tensor([[(token * _SPREAD + 1) % vocabulary for token in text]], device=model.device)
        outputs.append(model(input_ids=ids).logits)
        states.append(base_of(model)(input_ids=ids).last_hidden_state[0])
    return torch.cat(outputs), states


def _pooled(states: Float[Tensor, "L H"], pooling: Pooling) -> Float[Tensor, " H"]:
    return {"first": states[0], "last": states[-1], "mean": states.mean(dim=0)}[pooling]
