"""Feedback of users in a database, and the rankers that are trained on it, one for each user."""
