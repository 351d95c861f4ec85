"""EpochClock: the seconds of the last epoch of a training, ours or a peer's."""

import time
from typing import Any

from lightning import Callback


class EpochClock(Callback):
    """Times epochs: a callback for our trainer; for a peer, `begin` and `end` around each epoch."""

    seconds = 0.0

    def begin(self) -> None:
        """Start an epoch."""
        self._started = time.perf_counter()

    def end(self) -> None:
        """End the epoch; `seconds` are its seconds."""
        self.seconds = time.perf_counter() - self._started

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Start an epoch."""
        self.begin()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """End the epoch."""
        self.end()
