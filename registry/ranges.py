"""Ranges: the values that an option accepts, stated in its signature with its type and checked together.

Any metadata of `annotated_types` works: `Annotated[float, Gt(0)]`. Ranges that several options share have a name here.
Every number has a lower and an upper limit. A value far beyond them can only be a mistake; it would fill the memory or
silently give wrong results.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Gt, Interval, Le, Lt, MinLen
from pydantic import AfterValidator

Positive = Annotated[float, Gt(0), Le(1_000_000)]
NonNegative = Annotated[float, Ge(0), Le(1_000_000)]
Fraction = Annotated[float, Ge(0), Le(1)]
"""A share of a whole, from 0 to 1 inclusive."""
Dropout = Annotated[float, Ge(0), Lt(1)]
Temperature = Annotated[float, Gt(0), Le(1000)]
"""A divisor of scores; larger ones would leave no differences to learn from."""
SamplingTemperature = Annotated[float, Ge(0), Le(100)]
"""A divisor of a generator's logits; 0 takes the likeliest token."""
Probability = Annotated[float, Gt(0), Le(1)]

Count = Annotated[int, Interval(ge=1, le=1_000_000)]
"""A number of items in one step, one query or one request."""
Few = Annotated[int, Interval(ge=1, le=1000)]
"""A number of items that each cost memory, time or a process."""
Rows = Annotated[int, Interval(ge=1, le=2**31 - 1)]
"""A number of rows of a data set or a pool."""
Limit = Annotated[int, Interval(ge=0, le=2**31 - 1)]
"""A maximum number of rows of a data set; 0 for none."""
Rank = Annotated[int, Interval(ge=1, le=1_000_000)]
"""A rank, counted from 1."""
Width = Annotated[int, Interval(ge=1, le=2**16)]
"""Size of a layer."""
Ratio = Annotated[int, Interval(ge=1, le=256)]
"""How many times wider than its input a hidden layer is."""
FeatureDim = Annotated[int, Interval(ge=1, le=2**26)]
"""Size of the vectors that data or other layers provide."""
Seed = Annotated[int, Interval(ge=0, le=2**32 - 1)]


def _whole_file_name(path: str) -> str:
    if any(len(part.encode(errors="surrogateescape")) > 255 for part in path.split("/")):
        raise ValueError("a name in it is longer than 255 bytes, the limit of file systems")
    return str(Path(path).expanduser()) if path.startswith("~") else path


def _distinct(values: Sequence[float]) -> Sequence[float]:
    if len(set(values)) < len(values):
        raise ValueError("a value occurs twice")
    return values


Text = Annotated[str, MinLen(1)]
FilePath = Annotated[str, MinLen(1), AfterValidator(_whole_file_name)]
"""A file or folder; `~` is the home folder."""
Depths = Annotated[list[Probability], AfterValidator(_distinct)]
"""Depths of hidden states, as fractions of all layers."""
