"""What makes the batches of queries over one pool."""
