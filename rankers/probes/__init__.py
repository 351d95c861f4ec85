"""Probes: the simplest rankers on stored vectors, to show what the vectors alone carry."""
