"""Language Ranker: small rankers that read hidden states a language model has already computed."""
