"""Ways to label a response by rule; one file, one verifier."""
