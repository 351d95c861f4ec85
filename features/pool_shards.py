"""Shards of a pool's candidates, encoded in one process or in several."""

import dataclasses
import logging
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from datetime import timedelta
from operator import itemgetter
from queue import Empty
from typing import Any

import torch
from jaxtyping import Float
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.multiprocessing import get_context
from torch.multiprocessing.spawn import ProcessException, ProcessRaisedException
from torch.utils.data import DataLoader

from features.encoder import Encoder, Report
from features.pool_sources import PoolQuery, PoolSource, PoolText
from features.pool_survey import in_runs
from ranking.candidate_pool_writer import CandidateShards
from ranking.store_files import StoreError
from registry import ConfigError


class Chunks:
    """The candidates of a source in chunks of equal size, read forwards: asking for a later one skips others.

    Args:
        source: Of candidates.
        size: Of a chunk.
    """

    def __init__(self, source: PoolSource, size: int) -> None:
        self._source, self._size = source, size
        self._runs: Iterator[list[PoolText]] | None = None
        self._next = 0

    def __getitem__(self, number: int) -> list[PoolText]:
        if self._runs is None or number < self._next:
            self._runs, self._next = in_runs(self._source.candidates(), self._size), 0
        for chunk in self._runs:
            self._next += 1
            if self._next > number:
                return chunk
        raise IndexError(f"the source has {self._next} chunks")


def embed(
    texts: Sequence[PoolText] | Sequence[PoolQuery], encoder: Encoder | None, prompt: str, report: Report
) -> tuple[Float[Tensor, "N D"], int]:
    """The vectors of candidates or queries, and how many texts were cut; without an encoder, their own vectors."""
    if encoder is None:
        report(len(texts), 0, 0)
        return torch.tensor([each.feature for each in texts], dtype=torch.float32), 0
    counts = []

    def note(batch: int, tokens: int, cut: int) -> None:
        counts.append(cut)
        report(batch, tokens, cut)

    return encoder.encode([each.text for each in texts], prompt, note), sum(counts)


def write_chunk(
    shards: CandidateShards, number: int, chunk: list[PoolText], encoder: Encoder | None, report: Report
) -> None:
    """Encode a chunk and write it as the shard of its number."""
    vectors, cut = embed(chunk, encoder, encoder.candidate_prompt if encoder else "", report)
    shards.write_apart(number, [each.id for each in chunk], [each.text for each in chunk], vectors, cut)


def write_in_processes(
    shards: CandidateShards,
    chunks: Chunks,
    numbers: Sequence[int],
    encoder: Encoder,
    report: Report,
    devices: int,
) -> None:
    """Encode chunks in several processes, one GPU each where there are any.

    Args:
        shards: What writes them.
        chunks: Of all candidates.
        numbers: Which of them to write.
        encoder: What embeds them.
        report: Told of each batch, in this process.
        devices: How many processes.

    Raises:
        ConfigError: If there are fewer GPUs than that, or as a process raised it.
        StoreError: If a process was killed.
    """
    with_gpus = torch.cuda.is_available() and encoder.device != "cpu"
    if with_gpus and devices > torch.cuda.device_count():
        problem = f"{devices} is more than the {torch.cuda.device_count()} GPUs there are."
        raise ConfigError("features.devices", problem, cure="fewer devices, or features.encoder.device=cpu")
    _be_quiet()
    messages = get_context("spawn").Queue()
    module = _ChunkEncoder(chunks, numbers, encoder, messages, os.getpid())
    trainer = Trainer(
        accelerator="gpu" if with_gpus else "cpu",
        devices=devices,
        # Processes wait for the slowest one at the end, and send one another no tensors.
        strategy=DDPStrategy(start_method="spawn", process_group_backend="gloo", timeout=timedelta(days=30)),
        callbacks=[_ShardWriter(shards)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    with _Listener(messages, report) as listener:
        try:
            trainer.predict(module, return_predictions=False)
        except SystemExit as interrupted:
            raise KeyboardInterrupt from interrupted
        except ProcessException as error:
            listener.raise_received()
            if isinstance(error, ProcessRaisedException):
                raise
            cure = "run the command again, it goes on; if memory ran out, with fewer devices or encoder.batch_tokens"
            raise StoreError(str(shards.folder), f"{error}.", cure=cure) from error


class _ChunkEncoder(LightningModule):
    """Encodes every `world_size`th of the chunks."""

    def __init__(self, chunks: Chunks, numbers: Sequence[int], encoder: Encoder, messages: Any, parent: int) -> None:
        super().__init__()
        # Another object without the loaded model, which would be sent along.
        self.chunks, self.numbers, self.encoder = chunks, list(numbers), dataclasses.replace(encoder)
        self.messages, self.parent = messages, parent

    def __setstate__(self, state: dict[str, Any]) -> None:
        # The first thing that happens in a new process.
        _be_quiet()
        super().__setstate__(state)

    def setup(self, stage: str) -> None:
        self.encoder = dataclasses.replace(self.encoder, device=str(self.trainer.strategy.root_device))

    def predict_dataloader(self) -> DataLoader[int]:
        own = self.numbers[self.trainer.global_rank :: self.trainer.world_size]
        return DataLoader(own, collate_fn=itemgetter(0))  # type: ignore[arg-type]

    def predict_step(self, number: int) -> tuple[list[PoolText], Tensor, int]:
        try:
            chunk = self.chunks[number]
            return chunk, *embed(chunk, self.encoder, self.encoder.candidate_prompt, self._report)
        except ConfigError as error:
            self.messages.put(error)
            raise

    def _report(self, *counts: int) -> None:
        if os.getppid() != self.parent:
            # Else it would write on beside the process that goes on with the build.
            os._exit(1)
        self.messages.put(counts)


class _ShardWriter(BasePredictionWriter):
    """Writes each chunk as soon as it is encoded."""

    def __init__(self, shards: CandidateShards) -> None:
        super().__init__(write_interval="batch")
        self.shards = shards

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        chunk, vectors, cut = prediction
        try:
            self.shards.write_apart(
                int(batch), [each.id for each in chunk], [each.text for each in chunk], vectors, cut
            )
        except ConfigError as error:
            pl_module.messages.put(error)  # type: ignore[union-attr, operator]
            raise


class _Listener:
    """Hears in a thread what processes say: counts of batches, and an error."""

    def __init__(self, messages: Any, report: Report) -> None:
        self._messages, self._report = messages, report
        self._received: ConfigError | None = None
        self._done = threading.Event()
        # It says nothing to the processes: one that was killed may hold the lock for ever.
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def raise_received(self) -> None:
        """Raise the error of a process, if it said which."""
        self._stop()
        if self._received:
            raise self._received from None

    def __enter__(self) -> "_Listener":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _listen(self) -> None:
        while True:
            try:
                message = self._messages.get(timeout=0.1)
            except Empty:
                if self._done.is_set():
                    return
                continue
            if isinstance(message, ConfigError):
                self._received = message
            else:
                self._report(*message)

    def _stop(self) -> None:
        self._done.set()
        self._thread.join(timeout=5)


def _be_quiet() -> None:
    """Keep Lightning's greetings off the screen, and advice that is wrong here: encoding takes the time."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (".*does not have many workers.*", ".*isinstance.treespec, LeafSpec.*"):
        warnings.filterwarnings("ignore", message)
