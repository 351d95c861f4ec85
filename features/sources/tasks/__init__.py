"""Published tasks for language models."""
