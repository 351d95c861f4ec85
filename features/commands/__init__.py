"""What `python -m features` does in addition to building."""
