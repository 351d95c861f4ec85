"""Verifiers: label responses; each file has one verifier."""
