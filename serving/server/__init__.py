"""Trained rankers over HTTP: python -m serving RUN [RUN ...]."""
