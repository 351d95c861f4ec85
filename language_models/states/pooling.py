"""Pooling: which state of a text stands for the text."""

from typing import Literal

Pooling = Literal["first", "last", "mean"]
"""The state of a text's first or last token, or the mean over all of its tokens."""
