"""Executes long builds in chunks and processes, and writes rows of stores."""
