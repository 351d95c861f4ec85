"""Light ranker: ListRanker on stored hidden states against a reward model that reads the same groups' texts."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning import seed_everything

from benchmarks.comparison import Comparison, Ratio, in_own_process, in_turns
from benchmarks.speed.training.epoch_clock import EpochClock
from benchmarks.speed.training.reward_model import (
    BATCH_GROUPS,
    FULL,
    LEAST,
    SEED,
    Groups,
    Texts,
    draw_groups,
    reward_model,
    write_groups,
    write_model,
)
from benchmarks.speed.training.workload import MBPP, TINY, Workload
from datamodules.grouped_features import GroupedFeatures
from datamodules.text_groups import TextGroups
from rankers.language_ranker.list_ranker import ListRanker
from training.memory import keep_freed_memory
from training.trainer import build_trainer

_NUM_CANDIDATES = 10
TRAINS, SCORES = "reward model trains", "reward model scores"
LIGHT_TRAINS, LIGHT_SCORES = "ListRanker trains", "ListRanker scores"
WAYS = {
    TRAINS: "an epoch of groups of ten responses with reward_model, all weights, each prompt read once, float32",
    LIGHT_TRAINS: "an epoch of the same groups with list_ranker, on stored states of the model's width",
    SCORES: "reward_model scores these groups",
    LIGHT_SCORES: "list_ranker scores them, states read from the store",
}
RATIOS = [Ratio(TRAINS, LIGHT_TRAINS), Ratio(SCORES, LIGHT_SCORES)]


def measure(data: Path, workload: Workload = MBPP, repeats: int = 5, *, apart: bool = True) -> Comparison:
    """Train on the same groups, of which the second epoch is measured, and score them all.

    ListRanker's states are random, since their values change no time; they come from sampling, which has computed them.

    Args:
        data: Folder for texts, states and model.
        workload: The tiny one stands for few short texts and a small model.
        repeats: How often each way runs.
        apart: Run each in a process of its own.
    """
    texts = LEAST if workload == TINY else FULL
    folder = data / f"light_ranker-{texts.num_blocks}-{texts.num_groups}"
    # A run needs a prompt for validation and one for test as well.
    groups = draw_groups(texts, texts.num_groups + 2, _NUM_CANDIDATES)
    model, store = write_model(texts, folder / "model"), write_groups(groups, folder / "texts")
    states = write_groups(groups, folder / "states", _states(texts, groups))
    works: dict[str, Callable[[], float]] = {
        TRAINS: partial(_train_reward_model, model, store),
        LIGHT_TRAINS: partial(_train_list_ranker, states, texts.width),
        SCORES: partial(_score_with_reward_model, model, store),
        LIGHT_SCORES: partial(_score_with_list_ranker, states, texts.width),
    }
    if apart:
        works = {name: partial(in_own_process, work) for name, work in works.items()}
    return Comparison(
        name="light_ranker",
        question="how much less does a ranker of hidden states cost than a reward model of the same groups?",
        ways=WAYS,
        seconds=in_turns(works, repeats),
        ratios=RATIOS,
        facts={
            "texts": vars(texts),
            "weights": {
                "reward_model": sum(weight.numel() for weight in _reward_model(model).parameters()),
                "list_ranker": sum(weight.numel() for weight in _list_ranker(texts.width).parameters()),
            },
            "paper": "arXiv 2510.21883, table 2: 67 s for ListRanker, over an hour for reward models, on a CPU",
        },
    )


def _states(texts: Texts, groups: Groups) -> tuple[torch.Tensor, torch.Tensor]:
    """Random states of all prompts and of all responses."""
    draw = torch.Generator().manual_seed(SEED)
    prompts, responses = len(groups), sum(len(each) for _, each in groups)
    of_prompts = torch.randn(prompts, 1, texts.width, generator=draw)
    return of_prompts, torch.randn(responses, 1, texts.width, generator=draw)


def _reward_model(model: Path) -> Any:
    ranker = reward_model(model)
    ranker.configure_model()
    return ranker


def _list_ranker(width: int) -> ListRanker:
    return ListRanker(width, temperature=0.2)


def _train_reward_model(model: Path, store: Path) -> float:
    return _epoch(lambda: _reward_model(model), TextGroups(str(store), num_candidates=None, batch_size=BATCH_GROUPS))


def _train_list_ranker(store: Path, width: int) -> float:
    data = GroupedFeatures(str(store), num_candidates=None, batch_size=BATCH_GROUPS)
    return _epoch(lambda: _list_ranker(width), data)


def _epoch(build: Callable[[], Any], data: Any) -> float:
    """Train for two epochs; the seconds of the second one."""
    keep_freed_memory()
    seed_everything(SEED, verbose=False)
    clock = EpochClock()
    options = {"max_epochs": 2, "accelerator": "cpu", "enable_progress_bar": False, "check_val_every_n_epoch": 10}
    build_trainer(options, callbacks=[clock]).fit(build(), datamodule=data)
    return clock.seconds


def _score_with_reward_model(model: Path, store: Path) -> float:
    return _score(_reward_model(model), TextGroups(str(store), num_candidates=None, batch_size=BATCH_GROUPS))


def _score_with_list_ranker(store: Path, width: int) -> float:
    return _score(_list_ranker(width), GroupedFeatures(str(store), num_candidates=None, batch_size=BATCH_GROUPS))


@torch.inference_mode()
def _score(ranker: Any, data: Any) -> float:
    """The seconds to score all training groups, after one batch to warm up."""
    keep_freed_memory()
    seed_everything(SEED, verbose=False)
    data.setup("fit")
    ranker.eval()
    ranker(next(iter(data.train_dataloader())))
    started = time.perf_counter()
    for batch in data.train_dataloader():
        ranker(batch)
    return time.perf_counter() - started
