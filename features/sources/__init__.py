"""Where texts come from; one file, one source."""
