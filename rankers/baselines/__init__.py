"""Baselines: other scorers of the same queries and candidates, to stand beside a ranker."""
