"""How chats are answered: responses sampled in this process, or asked of an endpoint."""
