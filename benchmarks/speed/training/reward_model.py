"""Reward model: trains on pairs against TRL's RewardTrainer, and on ten responses a prompt against whole texts."""

from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lightning import seed_everything

from benchmarks.comparison import Comparison, Ratio, in_own_process, in_turns
from benchmarks.peers import require
from benchmarks.speed.training.epoch_clock import EpochClock
from benchmarks.speed.training.workload import MBPP, TINY, Workload
from datamodules.text_groups import TextGroups
from language_models.backbone import Backbone
from rankers.text.reward_model import RewardModel
from ranking.stores.group_store_writer import GroupStoreWriter
from training.memory import keep_freed_memory
from training.trainer import build_trainer

SEED, BATCH_PAIRS, BATCH_GROUPS, RATE, CLIP = 0, 8, 2, 1e-5, 1.0
END, VOCABULARY = "<end>", 8192


@dataclass(frozen=True)
class Texts:
    """Random texts and the shape of the model that reads them.

    Args:
        num_pairs: Number of prompts with two responses.
        num_groups: Number of prompts with ten responses.
        prompt: The shortest and the longest prompt, in tokens.
        response: The shortest and the longest response, in tokens.
        width: Width of the model: a Llama with SmolLM2-135M's shape, whose thirty blocks are fewer here.
        num_blocks: Number of blocks.
    """

    num_pairs: int = 32
    num_groups: int = 8
    prompt: tuple[int, int] = (64, 320)
    response: tuple[int, int] = (16, 192)
    width: int = 576
    num_blocks: int = 6


FULL = Texts()
LEAST = Texts(num_pairs=16, num_groups=4, prompt=(16, 48), response=(4, 24), width=64, num_blocks=2)
OURS, THEIRS, TEN, WHOLE = "reward_model", "TRL", "ten responses", "ten responses, whole texts"
WAYS = {
    OURS: "an epoch of pairs with reward_model, all weights, AdamW, clipped gradients, batches of 8 pairs, float32",
    THEIRS: "an epoch of TRL's RewardTrainer on the same pairs, model and batch size, texts as tokens already",
    TEN: "an epoch of groups of ten responses with reward_model, each prompt read once",
    WHOLE: "the same with each response read together with its prompt, without padding",
}
RATIOS = [Ratio(THEIRS, OURS, at_least=1.3), Ratio(WHOLE, TEN, at_least=2)]


def measure(
    data: Path, workload: Workload = MBPP, repeats: int = 5, *, texts: Texts | None = None, apart: bool = True
) -> Comparison:
    """Train on the same texts from the same weights; the second epoch of each way is measured.

    Args:
        data: Folder for texts and model.
        workload: The tiny one stands for few short texts and a small model.
        repeats: How often each way runs.
        texts: The texts; None for those of the workload.
        apart: Run each in a process of its own.

    Raises:
        ConfigError: If the peer is not installed.
    """
    require("trl", "datasets")
    texts = texts or (LEAST if workload == TINY else FULL)
    folder = data / f"reward_model-{texts.num_blocks}-{texts.num_pairs}"
    model = write_model(texts, folder / "model")
    # A run needs a prompt for validation and one for test as well.
    pairs, ten = draw_groups(texts, texts.num_pairs + 2, 2), draw_groups(texts, texts.num_groups + 2, 10)
    works = {
        OURS: partial(train_here, model, write_groups(pairs, folder / "pairs"), BATCH_PAIRS, shared=True),
        THEIRS: partial(train_with_trl, model, pairs[:-2]),
        TEN: partial(train_here, model, write_groups(ten, folder / "ten"), BATCH_GROUPS, shared=True),
        WHOLE: partial(train_here, model, write_groups(ten, folder / "ten"), BATCH_GROUPS, shared=False),
    }
    seconds = in_turns(
        {name: partial(in_own_process, work) for name, work in works.items()} if apart else works, repeats
    )
    pairs, ten = pairs[:-2], ten[:-2]
    tokens = {OURS: _num_tokens(pairs), THEIRS: _num_tokens(pairs), TEN: _num_tokens(ten), WHOLE: _num_tokens(ten)}
    fastest = {name: min(values) for name, values in seconds.items()}
    return Comparison(
        name="reward_model",
        question="how fast is a reward model trained on pairs, and where ten responses share a prompt?",
        ways=WAYS,
        seconds=seconds,
        ratios=RATIOS,
        facts={
            "texts": vars(texts),
            "tokens of all texts": tokens,
            "tokens per second": {name: round(tokens[name] / each) for name, each in fastest.items()},
            "least ratio of tokens, ten responses": round(tokens[TEN] / _num_tokens(ten, shared=True), 2),
        },
    )


Groups = Sequence[tuple[str, Sequence[str]]]


def train_here(model: Path, store: Path, batch_size: int, *, shared: bool) -> float:
    """Train for two epochs with reward_model; return the seconds of the second one."""
    keep_freed_memory()
    seed_everything(SEED, verbose=False)
    data = TextGroups(str(store), num_candidates=None, batch_size=batch_size)
    ranker = reward_model(model)
    ranker.configure_model()
    # Whole texts are packed as those of a bidirectional model are.
    ranker.reader.causal = shared
    clock = EpochClock()
    options = {"max_epochs": 2, "accelerator": "cpu", "enable_progress_bar": False, "check_val_every_n_epoch": 10}
    options |= {"gradient_clip_val": CLIP}
    build_trainer(options, callbacks=[clock]).fit(ranker, datamodule=data)
    return clock.seconds


def reward_model(model: Path) -> RewardModel:
    """The reward model that is trained, all of its weights."""
    return RewardModel(
        Backbone(model=str(model), dtype="float32"),
        template="plain",
        train="all",
        pooling="last",
        schedule="constant",
        optimizer={"name": "adamw", "lr": RATE},
    )


def train_with_trl(model: Path, pairs: Groups) -> float:
    """Train for two epochs with TRL's RewardTrainer; return the seconds of the second one."""
    from datasets import Dataset  # pyright: ignore[reportMissingImports]
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
    from trl.trainer.reward_config import RewardConfig  # pyright: ignore[reportMissingImports]
    from trl.trainer.reward_trainer import RewardTrainer  # pyright: ignore[reportMissingImports]

    # Not a part of TRL, but the same memory for both ways.
    keep_freed_memory()
    seed_everything(SEED, verbose=False)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokens: Callable[[str], list[int]] = lambda text: tokenizer(text)["input_ids"] + [tokenizer.eos_token_id]  # noqa: E731
    rows = [
        {"chosen_ids": tokens(f"{prompt} {chosen}"), "rejected_ids": tokens(f"{prompt} {rejected}")}
        for prompt, (chosen, rejected) in pairs
    ]
    clock = EpochClock()

    class Watch(TrainerCallback):
        def on_epoch_begin(self, *given: Any, **more: Any) -> None:
            clock.begin()

        def on_epoch_end(self, *given: Any, **more: Any) -> None:
            clock.end()

    with TemporaryDirectory() as folder, redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        arguments = RewardConfig(
            output_dir=folder,
            num_train_epochs=2,
            per_device_train_batch_size=BATCH_PAIRS,
            learning_rate=RATE,
            max_grad_norm=CLIP,
            max_length=None,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            seed=SEED,
        )
        trainer = RewardTrainer(
            model=AutoModelForSequenceClassification.from_pretrained(model, num_labels=1, dtype=torch.float32),
            args=arguments,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[Watch()],
        )
        trainer.train()
    return clock.seconds


def draw_groups(texts: Texts, number: int, responses: int) -> Groups:
    """Random prompts, each with as many random responses."""
    draw = torch.Generator().manual_seed(SEED)

    def text(shortest: int, longest: int) -> str:
        length = int(torch.randint(shortest, longest + 1, (), generator=draw))
        return " ".join(f"w{word}" for word in torch.randint(VOCABULARY, (length,), generator=draw).tolist())

    return [(text(*texts.prompt), [text(*texts.response) for _ in range(responses)]) for _ in range(number)]


def _num_tokens(groups: Groups, *, shared: bool = False) -> int:
    """The number of tokens of all texts; with `shared`, of each prompt once and of its responses."""
    return sum(
        len(prompt.split()) * (1 if shared else len(responses)) + sum(len(each.split()) + 1 for each in responses)
        for prompt, responses in groups
    )


def write_model(texts: Texts, folder: Path) -> Path:
    """A Llama with random weights and a tokenizer of whole words."""
    if (folder / "config.json").is_file():
        return folder
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast

    words = {END: 0, **{f"w{word}": word + 1 for word in range(VOCABULARY)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=END))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END).save_pretrained(folder)
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=texts.width,
        intermediate_size=texts.width * 8 // 3,
        num_hidden_layers=texts.num_blocks,
        num_attention_heads=texts.width // 64 or 1,
        num_key_value_heads=texts.width // 192 or 1,
        max_position_embeddings=2048,
        pad_token_id=0,
        eos_token_id=0,
        bos_token_id=0,
    )
    LlamaModel(config).save_pretrained(folder)
    return folder


def write_groups(groups: Groups, folder: Path, states: tuple[torch.Tensor, torch.Tensor] | None = None) -> Path:
    """A store in which the first response of each prompt is the better one: of texts, or of these states as well.

    Args:
        groups: The prompts and their responses.
        folder: The folder of the store.
        states: The states of the prompts and of all responses, `[N, 1, D]`.
    """
    if folder.is_dir():
        return folder
    size = len(groups[0][1])
    kept: dict[str, Any] = {} if states is None else {"feature_dim": states[0].shape[2], "depths": [1.0]}
    with GroupStoreWriter(folder, settings={}, **kept) as writer:
        writer.add_candidates(
            None if states is None else states[1], [text for _, responses in groups for text in responses]
        )
        writer.add_groups(
            ids=[f"q{place}" for place in range(len(groups))],
            texts=[prompt for prompt, _ in groups],
            features=None if states is None else states[0],
            offsets=torch.arange(0, size * len(groups) + 1, size),
            candidate=torch.arange(size * len(groups)),
            label=torch.tensor([1.0] + [0.0] * (size - 1)).repeat(len(groups)),
            slot_ids=[f"c{place}" for _ in groups for place in range(size)],
            split=["train"] * (len(groups) - 2) + ["val", "test"],
        )
        return writer.finish()
