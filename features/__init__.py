"""Builds stores of texts and vectors from raw data and language models: python -m features."""
