"""Pretrained language models: loading them, asking them, reading their hidden states."""
