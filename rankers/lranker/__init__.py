"""LRanker: a language model that ranks a query against a whole pool, and its parts."""
