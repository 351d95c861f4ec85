"""The isolation of the processes that run untrusted code."""
