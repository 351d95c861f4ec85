"""Contrastive: an epoch of training with in-batch negatives, by LRanker and by sentence-transformers."""

import os
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from lightning import Callback, seed_everything
from torch import nn

from datamodules.partitioned_candidates import PartitionedCandidates
from features.sources.retrieval.python_functions import PythonFunctions
from language_models.backbone import Backbone
from rankers.lranker.lranker import LRanker
from rankers.lranker.prompt import PLACEHOLDER, QUERY, TEMPLATES
from ranking.stores.candidate_pool import CandidatePool
from ranking.stores.candidate_pool_writer import CandidatePoolWriter
from training.memory import keep_freed_memory
from training.trainer import build_trainer

SEED, BATCH_SIZE, TEMPERATURE, RATE, CLIP = 0, 20, 0.05, 1e-4, 1.0
_EVALUATED = 2


@dataclass(frozen=True)
class Texts:
    """The training texts, and the model that reads them.

    Args:
        num_queries: Number of queries, first sentences of functions in Python's library.
        max_length: Longest prompt or document in tokens.
        backbone: The model that reads the texts.
        template: LRanker's template of the prompts.
    """

    num_queries: int
    max_length: int
    backbone: Backbone
    template: str = "passage_ranking"


@dataclass
class Trained:
    """The cost of an epoch, after a warm-up epoch.

    Args:
        seconds: Seconds of the epoch.
        tokens: Number of tokens that the backbone read, without padding.
        fillers: Number of padding tokens.
        weights: Number of trained weights in the backbone.
        parts: Seconds of the epoch by part, if known.
    """

    seconds: float = 0.0
    tokens: int = 0
    fillers: int = 0
    weights: int = 0
    parts: dict[str, float] = field(default_factory=dict)

    def watch(self, backbone: nn.Module) -> None:
        """From now on, count the tokens that a backbone reads."""
        self.weights = sum(each.numel() for each in backbone.parameters() if each.requires_grad)
        self.tokens = self.fillers = 0

        def count(module: nn.Module, arguments: Any, given: dict[str, Any]) -> None:
            mask = {**given, **(arguments[0] if arguments else {})}["attention_mask"]
            self.tokens += int(mask.sum())
            self.fillers += mask.numel() - int(mask.sum())

        backbone.register_forward_pre_hook(count, with_kwargs=True)


def write_pool(texts: Texts, folder: Path, feature_dim: int) -> Path:
    """Write a pool of functions with random vectors, or reuse that of an earlier call."""
    path = folder / f"functions-{texts.num_queries}x{feature_dim}"
    if path.exists():
        return path
    count = texts.num_queries + 2 * _EVALUATED
    groups = list(islice(PythonFunctions().groups(), count))
    vectors = torch.randn(2 * count, feature_dim, generator=torch.Generator().manual_seed(SEED))
    with CandidatePoolWriter(path, feature_dim=feature_dim, dtype="float16", settings={}) as writer:
        writer.add_candidates(
            [group.query_id for group in groups], [group.candidates[0].text for group in groups], vectors[:count]
        )
        writer.add_queries(
            ids=[group.query_id for group in groups],
            texts=[group.query for group in groups],
            features=vectors[count:],
            relevant_offsets=torch.arange(count + 1),
            relevant=torch.arange(count),
            split=["train"] * texts.num_queries + ["val"] * _EVALUATED + ["test"] * _EVALUATED,
        )
        return writer.finish()


def lranker(candidates: Literal["cached", "encoded"], texts: Texts, pool: Path) -> Trained:
    """Train LRanker in Lightning with train.py's options, without validation."""
    keep_freed_memory()
    seed_everything(SEED, verbose=False)
    data = PartitionedCandidates(str(pool), BATCH_SIZE, negatives="batch", seed=SEED, verify=False)
    ranker = LRanker(
        data.pool.feature_dim,
        texts.backbone,
        texts.template,
        candidates=candidates,
        temperature=TEMPERATURE,
        max_length=texts.max_length,
        scaling=None,
        optimizer={"name": "adamw", "lr": RATE},
    )
    ranker.configure_model()
    found = Trained()

    class Clock(Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            found.watch(ranker.backbone) if trainer.current_epoch == 1 else None
            self.started = time.perf_counter()

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            found.seconds = time.perf_counter() - self.started

    options = {"max_epochs": 2, "accelerator": "cpu", "gradient_clip_val": CLIP, "check_val_every_n_epoch": 3}
    quiet = {"enable_progress_bar": False, "enable_checkpointing": False}
    with redirect_stderr(StringIO()):
        build_trainer({**options, **quiet}, callbacks=[Clock()]).fit(ranker, datamodule=data)
    found.parts = parts_of(ranker, data)
    return found


def parts_of(ranker: LRanker, data: PartitionedCandidates) -> dict[str, float]:
    """Seconds per epoch of everything but reading texts: batches, and forward, backward and update of centroids."""
    ranker.train()
    loader = data.train_dataloader()
    loader.sampler.set_epoch(1)  # type: ignore[attr-defined]
    batches: list[Any] = []
    optimizer = torch.optim.AdamW([each for each in ranker.context.parameters() if each.requires_grad])  # type: ignore[union-attr]

    def project() -> None:
        for batch in batches:
            optimizer.zero_grad()
            ranker._training_contexts(batch)[0].sum().backward()  # type: ignore[index]

    def update() -> None:
        for _ in batches:
            optimizer.step()

    return {
        "batches": _seconds(lambda: batches.extend(loader)),
        "centroids": _seconds(project),
        "projector's weights": _seconds(update),
    }


def sentence_transformers(texts: Texts, pool: Path) -> Trained:
    """Train by SentenceTransformerTrainer with MultipleNegativesRankingLoss on the same prompts and documents."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import datasets  # pyright: ignore[reportMissingImports]
    from peft import LoraConfig
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from transformers import TrainerCallback

    source = CandidatePool.open(pool)
    prompt = TEMPLATES.get(texts.template, texts.template).replace(PLACEHOLDER, "*")
    rows = range(texts.num_queries)
    pairs = {
        "anchor": [prompt.replace(QUERY, source.queries.text(row)) for row in rows],
        "positive": [source.text(row) for row in rows],
    }
    model = SentenceTransformer(str(texts.backbone.folder), device="cpu")
    model.max_seq_length = texts.max_length
    layers = r".*\.layer\.\d+\..*(query|key|value|dense)"
    model.add_adapter(LoraConfig(r=32, lora_alpha=64, lora_dropout=0.1, target_modules=layers))
    found = Trained()

    class Clock(TrainerCallback):
        def on_epoch_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            found.watch(model[0]) if state.epoch >= 1 else None
            self.started = time.perf_counter()

        def on_epoch_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            found.seconds = time.perf_counter() - self.started

    with TemporaryDirectory() as folder, redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        arguments = SentenceTransformerTrainingArguments(
            folder,
            num_train_epochs=2,
            per_device_train_batch_size=BATCH_SIZE,
            learning_rate=RATE,
            max_grad_norm=CLIP,
            lr_scheduler_type="cosine",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            seed=SEED,
        )
        SentenceTransformerTrainer(
            model=model,
            args=arguments,
            train_dataset=datasets.Dataset.from_dict(pairs),
            loss=MultipleNegativesRankingLoss(model, scale=1 / TEMPERATURE),
            callbacks=[Clock()],
        ).train()
    return found


def _seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
