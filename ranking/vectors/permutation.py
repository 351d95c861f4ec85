"""Permutation: a random order of N items; a large one is computed on demand and needs no memory."""

from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor

_KEPT = 1 << 16
_ROUNDS = 8
_AT_ONCE = 1 << 20
_LOW = (1 << 32) - 1


class Permutation:
    """A random one-to-one map of 0 .. N-1 onto itself, and its inverse.

    Up to N = 65,536 it is drawn and stored. Above, a Feistel network permutes the smallest power of two that is at
    least N; numbers outside 0 .. N-1 are permuted again until they fall inside (cycle walking: Black and Rogaway,
    "Ciphers with Arbitrary Finite Domains", 2002).

    Args:
        size: N, the number of items.
        seed: Seed of the order.

    Example:
        >>> order = Permutation(5, seed=0)
        >>> sorted(order(torch.arange(5)).tolist()), order.inverse(order(torch.arange(5))).tolist()
        ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4])
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        bits = (size - 1).bit_length()
        self._widths = bits // 2, bits - bits // 2
        generator = torch.Generator().manual_seed(seed)
        self._keys = torch.randint(_LOW, (_ROUNDS,), generator=generator).tolist()
        self._drawn = torch.randperm(size, generator=generator) if size <= _KEPT else None
        self._drawn_inverse = self._drawn.argsort() if self._drawn is not None else None

    def __call__(self, index: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        """The place of each index."""
        return self._walk(index, self._forward) if self._drawn is None else self._drawn[index]

    def inverse(self, place: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        """The index at each place."""
        return self._walk(place, self._backward) if self._drawn_inverse is None else self._drawn_inverse[place]

    def _walk(self, numbers: Tensor, once: Callable[[Tensor], Tensor]) -> Tensor:
        found = [self._walk_part(part, once) for part in numbers.split(_AT_ONCE)]
        return torch.cat(found) if found else numbers

    def _walk_part(self, numbers: Tensor, once: Callable[[Tensor], Tensor]) -> Tensor:
        numbers = once(numbers)
        while len(outside := (numbers >= self.size).nonzero().flatten()):
            numbers[outside] = once(numbers[outside])
        return numbers

    def _forward(self, numbers: Tensor) -> Tensor:
        left_bits, right_bits = self._widths
        left, right = numbers >> right_bits, numbers & ((1 << right_bits) - 1)
        for key in self._keys:
            left, right = right, left ^ _mixed(right, key, left_bits)
            left_bits, right_bits = right_bits, left_bits
        return (left << right_bits) | right

    def _backward(self, numbers: Tensor) -> Tensor:
        left_bits, right_bits = self._widths
        left, right = numbers >> right_bits, numbers & ((1 << right_bits) - 1)
        for key in reversed(self._keys):
            left, right = right ^ _mixed(left, key, right_bits), left
            left_bits, right_bits = right_bits, left_bits
        return (left << right_bits) | right


def _mixed(numbers: Tensor, key: int, bits: int) -> Tensor:
    """The top bits of a hash: multiply and shift, twice (constants of the finaliser of MurmurHash3)."""
    numbers = ((numbers ^ key) * 0x85EBCA6B) & _LOW
    numbers = ((numbers ^ (numbers >> 13)) * 0xC2B2AE35) & _LOW
    return (numbers ^ (numbers >> 16)) >> (32 - bits)
