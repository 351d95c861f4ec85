"""Best of N: a language model's responses to a chat, of which a ranker chooses the best."""
