"""Ranges: the numbers and texts an option takes, stated in its signature beside its type and checked with it.

Any metadata of `annotated_types` will do: `Annotated[float, Gt(0)]`. What several options share has a name here. Every
number has an end on both sides: far beyond it a value can only be a slip, and would end in a full memory or in silence.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Gt, Interval, Le, Lt, MinLen
from pydantic import AfterValidator

Positive = Annotated[float, Gt(0), Le(1_000_000)]
NonNegative = Annotated[float, Ge(0), Le(1_000_000)]
Fraction = Annotated[float, Ge(0), Le(1)]
"""A share of a whole, none and all of it included."""
Dropout = Annotated[float, Ge(0), Lt(1)]
Temperature = Annotated[float, Gt(0), Le(1000)]
"""What scores are divided by; beyond it there is nothing left to learn from."""
SamplingTemperature = Annotated[float, Ge(0), Le(100)]
"""What a generator's logits are divided by; 0 for the likeliest token."""
Probability = Annotated[float, Gt(0), Le(1)]

Count = Annotated[int, Interval(ge=1, le=1_000_000)]
"""How many things one step, one query or one request has."""
Few = Annotated[int, Interval(ge=1, le=1000)]
"""How many of what costs memory, time or a process each."""
Rows = Annotated[int, Interval(ge=1, le=2**31 - 1)]
"""How many rows of a data set or a pool."""
Limit = Annotated[int, Interval(ge=0, le=2**31 - 1)]
"""How many rows of a data set at most; 0 for none of them."""
Rank = Annotated[int, Interval(ge=1, le=1_000_000)]
"""A place in a ranking."""
Width = Annotated[int, Interval(ge=1, le=2**16)]
"""Size of a layer."""
Ratio = Annotated[int, Interval(ge=1, le=256)]
"""How many times wider a hidden layer is."""
FeatureDim = Annotated[int, Interval(ge=1, le=2**26)]
"""Size of vectors as data and other layers give them."""
Seed = Annotated[int, Interval(ge=0, le=2**32 - 1)]


def _whole_file_name(path: str) -> str:
    if any(len(part.encode(errors="surrogateescape")) > 255 for part in path.split("/")):
        raise ValueError("a name in it is longer than a file system takes, 255 bytes")
    return str(Path(path).expanduser()) if path.startswith("~") else path


def _distinct(values: Sequence[float]) -> Sequence[float]:
    if len(set(values)) < len(values):
        raise ValueError("one of them is there twice")
    return values


Text = Annotated[str, MinLen(1)]
FilePath = Annotated[str, MinLen(1), AfterValidator(_whole_file_name)]
"""A file or folder; `~` is the home folder."""
Depths = Annotated[list[Probability], AfterValidator(_distinct)]
"""Of hidden states, as fractions of all layers."""
