"""A trained ranker in use: Reranker.load(path).rank(query, documents)."""
