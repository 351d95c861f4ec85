"""A run that is killed at any fsync or rename ends, once resumed, like the run that was not."""

import json
import signal
from pathlib import Path

import pytest
import torch
from forks import run_in_forks

from ranking.stores.candidate_pool import CandidatePool
from registry.config import to_yaml

# The first word is the run's folder, the second the write at which to be killed; 0 for none.
TRAIN = """
import signal
from pathlib import Path
import train, training.run
def run(arguments):
    folder, last, config = arguments
    os.environ["RANKERS_RUN_DIR"], count = folder, 0
    def counted(function):
        def call(*given, **named):
            nonlocal count
            count += 1
            if count == int(last):
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*given, **named)
        return call
    for name in ("fsync", "replace", "rename"):
        setattr(os, name, counted(getattr(os, name)))
    begun = Path(folder, "config.yaml").exists()
    status = train.main(["--resume", folder] if begun else ["--config", config])
    print("writes", count, flush=True)
    return status
"""


def write_config(path: Path, ranker: dict, datamodule: dict, num_candidates: int) -> Path:
    """A run whose best epoch is the first of three: the recall of all candidates is always 1."""
    recall = {"name": "recall", "k": num_candidates}
    config = {
        "ranker": {**ranker, "metrics": ["mrr", recall]},
        "monitor": f"val/recall@{num_candidates}",
        "datamodule": {"batch_size": 16, **datamodule},
        "trainer": {"max_epochs": 3, "accelerator": "cpu", "enable_progress_bar": False},
        "save_every": 0,
        "runs": str(path.parent / "runs"),
    }
    path.write_text(to_yaml(config))
    return path


def sweep(config: Path, folder: Path, *, every: int = 1) -> None:
    """Kill a run at each write, or every so many, resume it, and compare."""
    whole = folder / "whole"
    # The first run also writes what all of them share, such as the contexts of a pool.
    twice = [[str(each), "0", str(config)] for each in (folder / "first", whole)]
    statuses, out, errors = run_in_forks(folder, TRAIN, twice)
    assert statuses == [0, 0], errors
    best = torch.load(whole / "best.ckpt", weights_only=True)
    assert 0 < best["global_step"] < torch.load(whole / "last.ckpt", weights_only=True)["global_step"]
    count = int([line for line in out.splitlines() if line.startswith("writes")][1].split()[1])
    assert count > 20
    places = range(1, count + 1, every)
    commands = [[str(folder / str(n)), last, str(config)] for n in places for last in (str(n), "0")]
    statuses, _, errors = run_in_forks(folder, TRAIN, commands)
    assert statuses == [-signal.SIGKILL, 0] * len(places), errors
    results = json.loads((whole / "metrics.json").read_text())
    for n in places:
        there = folder / str(n)
        weights = torch.load(there / "best.ckpt", weights_only=True)["state_dict"]
        for name, weight in best["state_dict"].items():
            assert torch.equal(weights[name], weight), (n, name)
        assert (there / "run.trec").read_bytes() == (whole / "run.trec").read_bytes(), n
        found = json.loads((there / "metrics.json").read_text())
        assert all(found[key] == results[key] for key in ("test", "val", "steps")), n


@pytest.mark.slow
def test_a_ranker_of_groups_loses_nothing_at_its_writes(store: Path, tmp_path: Path) -> None:
    ranker = {
        "name": "list_ranker",
        "projection": {"name": "linear", "dim": 8},
        "optimizer": {"name": "adamw", "lr": 0.05},
    }
    data = {"name": "grouped_features", "path": str(store)}
    # No query of the store has more candidates.
    sweep(write_config(tmp_path / "run.yaml", ranker, data, num_candidates=12), tmp_path, every=5)


@pytest.mark.slow
def test_a_ranker_over_a_pool_loses_nothing_at_its_writes(pool: CandidatePool, tiny_bert: Path, tmp_path: Path) -> None:
    ranker = {
        "name": "lranker",
        "backbone": {"model": str(tiny_bert)},
        "template": "the value of {query} <|embedding|> key",
        "max_length": 64,
        "aggregator": {"name": "kmeans", "num_centroids": 4},
        "lora": {"rank": 4},
        "optimizer": {"name": "adamw", "lr": 0.5},
        "start_counts": False,
        "scaling": {"widths": [2], "max_depth": 1},
    }
    data = {"name": "partitioned_candidates", "path": str(pool.path), "num_partitions": 4, "num_splits": 2}
    sweep(write_config(tmp_path / "run.yaml", ranker, data, pool.num_candidates), tmp_path, every=17)
