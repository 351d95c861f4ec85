"""Speed comparisons anyone can run: python -m benchmarks."""
