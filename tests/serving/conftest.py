"""The tiny encoder, for rerankers of texts, and the tiny language model, for those of responses."""

from tiny_bert import tiny_bert
from tiny_llama import tiny_llama

__all__ = ["tiny_bert", "tiny_llama"]
