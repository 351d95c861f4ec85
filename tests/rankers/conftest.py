"""Tiny language models."""

from tiny_bert import tiny_bert
from tiny_llama import tiny_llama, tiny_qwen3

__all__ = ["tiny_bert", "tiny_llama", "tiny_qwen3"]
