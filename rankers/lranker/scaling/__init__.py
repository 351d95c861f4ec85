"""Test-time scaling: LRanker reads each query beside ever fewer candidates."""
