"""Sources: provide texts; each file has one source."""
