"""Texts: the data types that sources yield, before any text is embedded."""
