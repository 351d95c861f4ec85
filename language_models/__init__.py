"""Pretrained language models: loads them, samples from them, and reads their hidden states."""

from importlib.metadata import version

TRANSFORMERS = tuple(int(part) for part in version("transformers").split(".")[:2])
"""The installed version of transformers: major, minor."""

CACHE_ARGUMENT = "cache" if TRANSFORMERS >= (5, 24) else "past_key_values"
"""Its name of a model's argument for a key-value cache."""
