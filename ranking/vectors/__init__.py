"""Computations on many vectors: search, k-means, partitions."""
