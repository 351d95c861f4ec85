"""A trained ranker in use: Reranker.from_pretrained(path).rank(query, documents)."""
