"""Counts: whole numbers that callers give, checked."""

from numbers import Integral


def check_count(name: str, count: object) -> None:
    """Refuse a count that is no whole number, or below 1.

    Args:
        name: Of the argument.
        count: What was given for it.

    Raises:
        ValueError: If it is not a whole number of 1 or more.
    """
    if not isinstance(count, Integral) or count < 1:
        raise ValueError(f"{name} has to be a whole number of 1 or more, got {count!r}")
