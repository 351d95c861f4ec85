"""How a run goes: the trainer, its loggers, callbacks, evaluation and files."""
