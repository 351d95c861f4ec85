"""Recommenders: rank the items of a pool for the history of a user's items."""
