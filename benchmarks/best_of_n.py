"""Best of N over HTTP, by OpenAI's own client, on the test problems of a run of a ranker of responses."""

import asyncio
import itertools
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console

from benchmarks import machine
from console.tables import new_table, print_table
from features.extractors.responses import ResponsesExtractor
from features.generators.transformers import TransformersGenerator
from features.responses.generation import Generated, chat_id
from features.texts.tasks import Task
from rankers.base import Ranker
from rankers.checkpoint import load_ranker
from ranking.batch import FeatureBatch
from registry import ConfigError, load_config
from training.checking import build_extractor
from training.results.provenance import provenance
from training.results.report import write_json

_AT_ONCE = 8
_SEED = 0
ROWS = {
    "one response": "N = 1",
    "the first of N": "N = {n}, its first response",
    "one of N": "N = {n}, the mean of its responses",
    "the ranker's choice": "N = {n}, the best by the ranker",
    "oracle": "N = {n}, any right one",
}


def run_best_of_n(run: Path, problems: int, results: Path, console: Console) -> None:
    """Ask a server the first test problems, and answer them here; print and write the accuracy of both.

    Args:
        run: The run of a ranker of responses, whose config names source, generator and verifier.
        problems: How many problems to ask.
        results: The folder for `best_of_n.json`.
        console: Where to print.

    Raises:
        ConfigError: If the run has no such config or no test problem, the server cannot be started, or the package
            openai is missing.
    """
    config = load_config(run / "config.yaml", [])
    extractor = build_extractor(config.features) if config.features is not None else None
    if not isinstance(extractor, ResponsesExtractor) or extractor.verifier is None:
        raise ConfigError(str(run), "is no run of a ranker of responses that a verifier judges.")
    source = extractor.source.problems()
    tasks = list(itertools.islice((task for task in source if task.split == "test"), problems))
    if not tasks:
        problem = "no problem to ask: its source gives none to the test, or problems is 0."
        raise ConfigError(str(run), problem, cure="a source with a split `test`, and problems=1 or more")
    if not isinstance(extractor.generator, TransformersGenerator):
        raise ConfigError(str(run), "has responses that this process cannot sample.")
    offline = _offline(load_ranker(run), extractor.generator, tasks)
    with _server(run) as url:
        served = asyncio.run(_asked(url, tasks, {"return_candidates": True}))
        one = asyncio.run(_asked(url, tasks, {"candidates": 1, "return_candidates": True}))
    n = len(offline[0][0])

    def right(texts: Sequence[str]) -> list[bool]:
        assert extractor.verifier is not None
        asked = zip(tasks, texts, strict=True)
        return [(verdict.label or 0.0) > 0 for verdict in extractor.verifier.verify(asked)]

    def accuracies(answers: Sequence[tuple[dict[int, str], int]]) -> dict[str, float]:
        judged = [right([texts[number] for texts, _ in answers]) for number in range(n)]
        chosen = [judged[best][place] for place, (_, best) in enumerate(answers)]
        any_right = [any(column) for column in zip(*judged, strict=True)]
        values = {"the first of N": judged[0], "the ranker's choice": chosen, "oracle": any_right}
        shares = {name: sum(each) / len(tasks) for name, each in values.items()}
        return shares | {"one of N": sum(map(sum, judged)) / n / len(tasks)}

    found = {"offline": accuracies(offline), "endpoint": accuracies(served)}
    found["endpoint"]["one response"] = sum(right([texts[0] for texts, _ in one])) / len(tasks)
    equal = sum(a == b for (a, _), (b, _) in zip(offline, served, strict=True))
    # Equal responses have equal scores up to rounding, so that any of them may be chosen.
    same = sum(a[best] == b[other] for (a, best), (b, other) in zip(offline, served, strict=True))
    table = new_table("accuracy", "endpoint", "offline", title=f"best of {n}: {len(tasks)} test problems of {run}")
    for name, what in ROWS.items():
        values = (found[way].get(name) for way in ("endpoint", "offline"))
        table.add_row(what.format(n=n), *("" if value is None else f"{value:.3f}" for value in values))
    print_table(console, table)
    console.print(f"all {n} responses equal: {equal} of {len(tasks)}; the same text chosen: {same}", highlight=False)
    made_with = {**provenance(), "machine": machine.describe()}
    results.mkdir(parents=True, exist_ok=True)
    counts = {"problems": len(tasks), "n": n, "all responses equal": equal, "the same text chosen": same}
    write_json(results / "best_of_n.json", {"accuracy": found, **counts, "made_with": made_with})


@torch.inference_mode()
def _offline(
    ranker: Ranker[Any], generator: TransformersGenerator, tasks: Sequence[Task]
) -> list[tuple[dict[int, str], int]]:
    """The responses to each problem by number, and the number of the best, without a server."""
    assert ranker.encoder is not None
    sampler = generator.twin(seed=_SEED, depths=ranker.encoder["depths"])
    asked = [Task(chat_id(task.messages), task.query, task.messages) for task in tasks]
    found = []
    for first in range(0, len(asked), _AT_ONCE):
        for each in sampler.generate(asked[first : first + _AT_ONCE], range(generator.num_responses)):
            texts = {number: response.text for number, response in enumerate(each.responses)}
            found.append((texts, int(ranker(_batch(each))[0].argmax())))
    return found


def _batch(generated: Generated) -> FeatureBatch:
    assert generated.query_states is not None and generated.response_states is not None
    columns = {
        "log_probability": torch.tensor([each.log_probability or 0.0 for each in generated.responses]),
        "self_certainty": torch.tensor([each.self_certainty or 0.0 for each in generated.responses]),
        "num_tokens": torch.tensor([len(each.tokens or ()) for each in generated.responses]),
    }
    return FeatureBatch.of_group(generated.query_states.flatten(), generated.response_states.flatten(1), **columns)


async def _asked(url: str, tasks: Sequence[Task], options: Mapping[str, Any]) -> list[tuple[dict[int, str], int]]:
    """The responses to each problem by number, and the number of the best; several problems are asked at a time."""
    try:
        import openai
    except ImportError as error:
        raise ConfigError("openai", "is not installed.", cure="pip install openai") from error
    turns = asyncio.Semaphore(_AT_ONCE)

    async def ask(task: Task) -> tuple[dict[int, str], int]:
        messages: Any = [dict(message) for message in task.messages]
        async with turns:
            answer = await client.chat.completions.create(
                model="run", messages=messages, seed=_SEED, extra_body=dict(options)
            )
        ranking: Any = (answer.model_extra or {})["ranking"]
        texts = {each["index"]: each["text"] for each in ranking["candidates"]}
        assert texts[ranking["chosen"]] == answer.choices[0].message.content
        return texts, ranking["chosen"]

    async with openai.AsyncOpenAI(api_key="none", base_url=f"{url}/v1", timeout=600) as client:
        return list(await asyncio.gather(*map(ask, tasks)))


@contextmanager
def _server(run: Path) -> Iterator[str]:
    """A server in a process of its own; gives its address."""
    with TemporaryDirectory() as folder, (Path(folder) / "log").open("w+") as log:
        command = [sys.executable, "-m", "serving", f"run={run}", "--port", "0", "--chat-timeout", "600"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert server.stdout is not None
        try:
            line = server.stdout.readline()
            while line and not line.startswith("Ready: "):
                line = server.stdout.readline()
            if not line:
                log.seek(0)
                raise ConfigError(str(run), f"the server has not started: {log.read()[-500:]}")
            yield line.split()[1]
        finally:
            server.terminate()
            server.communicate()
