"""Decimals: numbers and intervals as people read them, never a negative zero."""

import math

_LARGE = 1e6


def decimal(value: float | int, places: int = 3, *, signed: bool = False) -> str:
    """A number with a fixed number of decimals; from a million on, in four digits and a power of ten.

    Args:
        value: The number.
        places: Decimals.
        signed: Whether a number above zero gets a plus; what rounds to zero has no sign.

    >>> decimal(-0.0001), decimal(0.25, signed=True), decimal(-1234567.0)
    ('0.000', '+0.250', '-1.235e+06')
    """
    if not math.isfinite(value):
        return f"{value:+}" if signed and not math.isnan(value) else str(value)
    text = f"{value:z.{places}f}" if abs(value) < _LARGE else f"{value:.3e}"
    return f"+{text}" if signed and float(text) > 0 else text


def interval(low: float | int, high: float | int, places: int = 3, *, signed: bool = False) -> str:
    """The two ends of an interval.

    >>> interval(-0.0001, 0.25), interval(-0.1, 0.25, signed=True)
    ('0.000..0.250', '-0.100..+0.250')
    """
    return "..".join(decimal(end, places, signed=signed) for end in (low, high))


def short(value: float | int, digits: int = 6) -> str:
    """A number in as few characters as its first digits need.

    >>> short(-0.0), short(0.5), short(1e9), short(0.123456, 3)
    ('0', '0.5', '1e+09', '0.123')
    """
    return f"{value:z.{digits}g}"
