"""Texts for the tiny encoder."""

import pytest
import torch
from tiny_bert import WORDS, tiny_bert
from tiny_llama import tiny_llama

__all__ = ["tiny_bert", "tiny_llama"]


@pytest.fixture(scope="session")
def sentences() -> list[str]:
    """Texts of 1 to 40 words, in no order."""
    draw = torch.Generator().manual_seed(0)
    sizes = torch.randint(1, 41, (40,), generator=draw).tolist()
    return [" ".join(WORDS[place] for place in torch.randint(0, len(WORDS), (size,), generator=draw)) for size in sizes]
