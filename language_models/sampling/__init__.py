"""Responses of a language model to prompts, each prompt read once."""
