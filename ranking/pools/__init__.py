"""Many queries over one pool of candidates: their batches, the data that comes with them, how they are judged."""
