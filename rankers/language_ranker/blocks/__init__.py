"""Layers that turn vectors into vectors of the same size; one file, one block."""
