"""Extractors: build stores from sources; each file has one extractor."""
