"""Benchmarks: compares speed with plain implementations and other libraries: python -m benchmarks."""
