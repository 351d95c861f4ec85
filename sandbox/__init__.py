"""Code that a language model has written, run where it can do no harm."""
