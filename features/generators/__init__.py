"""Where responses come from; one file, one generator."""
