"""Prompted rankers: they ask a language model in words; it has nothing to train, so rankers of texts are elsewhere."""
