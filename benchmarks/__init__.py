"""Speed against plain ways of doing the same: python -m benchmarks."""
