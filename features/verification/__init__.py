"""Whether a response is right: verdicts, and the processes that find them."""
