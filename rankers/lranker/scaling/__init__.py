"""Test-time scaling: LRanker reads each query again with fewer and fewer candidates."""
