"""Groups and candidate pools on disk; the only code that knows their formats."""
