"""From raw data and a language model to tensors on disk: python -m features."""
