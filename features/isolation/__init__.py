"""Isolation: the processes that untrusted code runs in and is checked by, and what they are kept from."""
