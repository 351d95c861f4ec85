"""Ratios of speed to peers and to the floor."""
