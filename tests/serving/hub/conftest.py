"""A hub on loopback for every test of this folder."""

from fake_hub import fake_hub

__all__ = ["fake_hub"]
