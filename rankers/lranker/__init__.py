"""LRanker: ranks a whole pool with a language model's embedding of the query."""
