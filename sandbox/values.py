"""Values: plain Python values as JSON, so that only plain values pass between program and checker.

Numbers, texts and the other scalars of JSON stand for themselves. Every other value is a list that begins with its
kind, such as `["tuple", 1, 2]`. The owner keeps objects that cannot be copied, and sends a reference instead.
"""

import builtins
from array import array
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from typing import Any

Keep = Callable[[Any], list[Any]]
"""Returns a reference to a value that cannot be copied."""

Find = Callable[[list[Any]], Any]
"""Returns the object that a reference stands for."""

_SCALARS = frozenset({str, bool, float, type(None)})
_SHORT = 1 << 63


def _pairs(mapping: dict[Any, Any]) -> list[Any]:
    return [part for pair in mapping.items() for part in pair]


def _from_pairs(parts: Sequence[Any]) -> dict[Any, Any]:
    return dict(zip(parts[::2], parts[1::2], strict=True))


_COPIED: dict[type, tuple[Callable[[Any], Iterable[Any]], Callable[[list[Any]], Any]]] = {
    list: (list, list),
    tuple: (list, tuple),
    dict: (_pairs, _from_pairs),
    set: (list, set),
    frozenset: (list, frozenset),
    type({}.keys()): (list, lambda parts: dict.fromkeys(parts).keys()),
    type({}.values()): (list, lambda parts: dict(enumerate(parts)).values()),
    type({}.items()): (list, lambda parts: dict(parts).items()),
    int: (lambda value: [hex(value)], lambda parts: int(parts[0], 16)),
    complex: (lambda value: [value.real, value.imag], lambda parts: complex(*parts)),
    bytes: (lambda value: [value.hex()], lambda parts: bytes.fromhex(parts[0])),
    bytearray: (lambda value: [value.hex()], lambda parts: bytearray.fromhex(parts[0])),
    range: (lambda value: [value.start, value.stop, value.step], lambda parts: range(*parts)),
    Counter: (_pairs, lambda parts: Counter(_from_pairs(parts))),
    OrderedDict: (_pairs, lambda parts: OrderedDict(_from_pairs(parts))),
    defaultdict: (_pairs, lambda parts: defaultdict(None, _from_pairs(parts))),
    deque: (lambda value: [value.maxlen, *value], lambda parts: deque(parts[1:], parts[0])),
    array: (lambda value: [value.typecode, *value], lambda parts: array(parts[0], parts[1:])),
    Decimal: (lambda value: [str(value)], lambda parts: Decimal(parts[0])),
    Fraction: (lambda value: [value.numerator, value.denominator], lambda parts: Fraction(*parts)),
    datetime: (lambda value: [value.isoformat()], lambda parts: datetime.fromisoformat(parts[0])),
    date: (lambda value: [value.isoformat()], lambda parts: date.fromisoformat(parts[0])),
    time: (lambda value: [value.isoformat()], lambda parts: time.fromisoformat(parts[0])),
    timedelta: (lambda value: [value.days, value.seconds, value.microseconds], lambda parts: timedelta(*parts)),
}
_KINDS = {kind.__name__: read for kind, (_, read) in _COPIED.items()}
_BASES = (list, tuple, dict, set, frozenset)
_PLAIN: dict[type, Callable[[Any], Any]] = {str: str.__str__, int: int.__index__, float: float.__float__}

LOSSY: list[type] = []
"""The classes derived from plain ones whose objects were copied as plain ones, since the list was last cleared."""

MUTABLE = (list, dict, set, bytearray, deque, Counter, OrderedDict, defaultdict, array)
"""The types of arguments that a call may have changed."""


def encode(value: Any, keep: Keep) -> Any:
    """Encode a value as JSON; an object of a class derived from a plain type is encoded as the plain type.

    Raises:
        RecursionError: If the value is nested too deeply or contains itself.
    """
    kind = type(value)
    if kind in _SCALARS or (kind is int and -_SHORT < value < _SHORT):
        return value
    if kind not in _COPIED:
        if isinstance(value, Enum):
            return keep(value)
        LOSSY.append(kind)
        for base, plain in _PLAIN.items():
            if isinstance(value, base):
                return encode(plain(value), keep)
        kind = next((base for base in _BASES if isinstance(value, base)), None)
        if kind is None:
            LOSSY.pop()
            return keep(value)
    return [kind.__name__, *[encode(part, keep) for part in _COPIED[kind][0](value)]]


def decode(data: Any, find: Find) -> Any:
    """Decode what `encode` returned; the value has built-in types only, even if the JSON comes from elsewhere.

    Raises:
        Exception: Of any kind, if the data does not come from `encode`.
    """
    if not isinstance(data, list):
        if isinstance(data, dict):
            raise ValueError("an object of JSON, which nothing is encoded as")
        return data
    read = _KINDS.get(data[0])
    return find(data) if read is None else read([decode(part, find) for part in data[1:]])


def named_builtin(value: Any) -> list[Any] | None:
    """The reference to a built-in function or type; None for any other value."""
    name = getattr(value, "__name__", None)
    return ["builtin", name] if isinstance(name, str) and getattr(builtins, name, None) is value else None
