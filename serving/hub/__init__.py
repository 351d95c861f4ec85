"""The Hugging Face hub: a trained ranker as a repository with a card and results, and the commit that publishes it."""
