"""Runs code that a language model has written, isolated so that it can do no harm."""
