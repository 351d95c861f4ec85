"""The states that a language model computes for each token of many texts."""
