"""Samples responses of a language model to prompts; reads each prompt once."""
