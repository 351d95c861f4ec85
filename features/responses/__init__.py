"""Builds a store from prompts: computes responses, verdicts and hidden states once, and saves them."""
