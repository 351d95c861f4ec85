"""Generators: provide responses to problems; each file has one generator."""
