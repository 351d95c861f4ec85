"""What the processes that untrusted code runs in are kept from."""
