"""Uses a trained ranker: Reranker.from_pretrained(path).rank(query, documents)."""
