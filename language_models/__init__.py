"""Pretrained language models: loads them, samples from them, and reads their hidden states."""
