"""Blocks: layers that map vectors to vectors of the same size; one block per file."""
