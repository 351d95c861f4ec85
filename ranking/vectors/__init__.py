"""Arithmetic on many vectors: search, k-means, partitions."""
