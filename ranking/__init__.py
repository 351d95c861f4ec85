"""What data and models agree on: batches, stores, losses, metrics; plain tensors, no Lightning."""
