"""Weights & Biases from code: a workspace and a report of a project, and sweeps over a grid."""
