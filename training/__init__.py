"""Training runs: the trainer with its loggers and callbacks, the evaluation, and the files of a run."""
