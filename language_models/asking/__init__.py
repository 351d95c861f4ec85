"""Asking: questions to a language model, in words; its answers are cached, and what they cost is counted."""
