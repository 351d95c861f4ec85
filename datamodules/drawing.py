"""Drawing: chooses the candidates that form a group, by index, for many queries at once."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

_KEYS_AT_ONCE = 1 << 22


def draw_slots(
    offsets: Int[Tensor, " Q1"], groups: Int[Tensor, " G"], num_candidates: int, generator: torch.Generator
) -> Int[Tensor, "G K"]:
    """Draw K different slots of each group, uniformly and in random order.

    A group with at most K slots keeps all of them, in their order.

    Args:
        offsets: Group g owns the slots from `offsets[g]` to before `offsets[g + 1]`.
        groups: The groups to draw for; a group may occur several times, with a new draw each time.
        num_candidates: K, the number of slots to draw.
        generator: The random generator.

    Returns:
        The slots, padded with -1 if a group has fewer than K.
    """
    drawn = [
        _draw(offsets, part, num_candidates, generator)
        for part in groups.split(max(1, _KEYS_AT_ONCE // max(1, int(offsets.diff().amax()))))
    ]
    return torch.cat(drawn) if drawn else torch.empty(0, num_candidates, dtype=torch.int64)


def _draw(
    offsets: Int[Tensor, " Q1"], groups: Int[Tensor, " G"], num_candidates: int, generator: torch.Generator
) -> Int[Tensor, "G K"]:
    start, size = offsets[groups], offsets[groups + 1] - offsets[groups]
    most = max(int(size.amax()), num_candidates) if len(size) else num_candidates
    place = torch.arange(most).expand(len(groups), -1)
    if bool((size > num_candidates).any()):
        keys = torch.rand(len(groups), most, generator=generator)
        keys = torch.where(size.unsqueeze(1) > num_candidates, keys, place.float())
        keys = keys.masked_fill(place >= size.unsqueeze(1), torch.inf)
        place = keys.topk(num_candidates, largest=False, sorted=True).indices
    else:
        place = place[:, :num_candidates]
    return torch.where(place < size.unsqueeze(1), start.unsqueeze(1) + place, -1)


def slots_of(offsets: Int[Tensor, " Q1"], groups: Int[Tensor, " G"]) -> tuple[Int[Tensor, " N"], Int[Tensor, " N"]]:
    """Every slot of the groups, as two tensors: the place in `groups`, and the slot."""
    start, size = offsets[groups], offsets[groups + 1] - offsets[groups]
    place = torch.arange(len(groups)).repeat_interleave(size)
    within = torch.arange(len(place)) - (size.cumsum(0) - size)[place]
    return place, start[place] + within


def has_order(labels: Float[Tensor, "G K"], slots: Int[Tensor, "G K"]) -> torch.Tensor:
    """True for groups whose candidates have different labels; other groups teach no order."""
    missing = slots < 0
    highest = labels.masked_fill(missing, -torch.inf).amax(dim=1)
    lowest = labels.masked_fill(missing, torch.inf).amin(dim=1)
    return highest > lowest


def has_relevant(labels: Float[Tensor, "G K"], slots: Int[Tensor, "G K"]) -> torch.Tensor:
    """True for groups with at least one label above 0."""
    return ((labels > 0) & (slots >= 0)).any(dim=1)
