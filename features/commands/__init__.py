"""What `python -m features` does beside building."""
