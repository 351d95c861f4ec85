"""Sources that read the user's own files."""
