"""RememberedVectors: the vectors of the texts that were used last, so that no text is read again."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor


class RememberedVectors:
    """A table of vectors by the hashes of their texts; the texts themselves are not kept.

    Args:
        size: The most vectors; what was not used for the longest time is forgotten. 0 to remember none.

    Attributes:
        num_found: How many texts had a vector already.
        num_computed: How many had not.
    """

    def __init__(self, size: int) -> None:
        self.size, self.num_found, self.num_computed = size, 0, 0
        self._vectors: OrderedDict[bytes, Float[Tensor, " D"]] = OrderedDict()

    def get(
        self, texts: Sequence[str], compute: Callable[[Sequence[str]], Float[Tensor, "M D"]]
    ) -> Float[Tensor, "N D"]:
        """The vectors of texts; those that are not known are computed, and equal texts once."""
        keys = [hashlib.sha256(text.encode()).digest() for text in texts]
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._vectors}
        found = dict(zip(new, compute(list(new.values())), strict=True)) if new else {}
        vectors = torch.stack([found[key] if key in found else self._vectors[key] for key in keys])
        self.num_found, self.num_computed = self.num_found + len(keys) - len(new), self.num_computed + len(new)
        # A copy, because a row would keep the whole table of its batch in memory.
        self._vectors.update({key: vector.clone() for key, vector in found.items()} if self.size else {})
        for key in keys if self.size else ():
            self._vectors.move_to_end(key)
        while len(self._vectors) > self.size:
            self._vectors.popitem(last=False)
        return vectors
