"""Tables: rows and columns of run configs in a yaml, run cell by cell and rendered: python -m benchmarks NAME."""
