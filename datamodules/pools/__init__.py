"""Makes the batches of queries over one pool."""
