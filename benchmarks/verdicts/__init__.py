"""Verdicts: how often verifiers agree with what is known of public answers."""
