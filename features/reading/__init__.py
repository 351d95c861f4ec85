"""Reads files of many formats, and reports mistakes in them."""
