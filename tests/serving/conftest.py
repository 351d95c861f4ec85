"""The tiny encoder, for rerankers of texts."""

from tiny_bert import tiny_bert

__all__ = ["tiny_bert"]
