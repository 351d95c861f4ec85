"""Verification: judges whether responses are right, in worker processes."""
