"""Rankers that read query and candidate together as one text."""
