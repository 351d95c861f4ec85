"""The picture of a query's embeddings shows what the ranker embeds, in parts of the pool and in the whole pool."""

from pathlib import Path

import pytest
import torch
from matplotlib.image import imread
from pools import write_pool

from benchmarks import machine
from benchmarks.__main__ import main
from benchmarks.embeddings import QueryEmbeddings
from registry import load_config
from registry.config import to_yaml
from serving.searcher import Searcher
from training.run import train


@pytest.fixture(scope="module")
def folder(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of LRanker."""
    home = tmp_path_factory.mktemp("pictured")
    write_pool(home / "pool")
    aggregator = {"name": "kmeans", "num_centroids": 4}
    options = {"backbone": {"model": str(tiny_bert)}, "aggregator": aggregator, "scaling": None, "mixing": None}
    data = {"path": str(home / "pool"), "num_partitions": 4, "num_splits": 1}
    run = {
        "ranker": {"name": "lranker", "template": "{query} <|embedding|>", "max_length": 32, **options},
        "datamodule": {"name": "partitioned_candidates", **data},
        "references": [],
        "logger": None,
        "trainer": {"max_steps": 1, "accelerator": "cpu", "enable_progress_bar": False},
        "runs": str(home / "runs"),
    }
    (home / "run.yaml").write_text(to_yaml(run))
    return train(load_config(home / "run.yaml"), "run").path


def test_the_embedding_in_the_whole_pool_is_the_one_that_ranks(folder: Path) -> None:
    found = QueryEmbeddings.of(folder, "q9")
    assert found.parts.shape == (4, 16) and found.num_right == 9 % 3 + 1
    pool = folder.parents[2] / "pool"
    scores = [each.score for each in Searcher.from_pretrained(folder, pool).rank([found.text], top_k=200)[0]]
    assert float((found.candidates @ found.whole).max()) == pytest.approx(max(scores), abs=1e-5)
    plane = found.flat()
    assert plane.shape == (4 + 2 + len(found.candidates), 2) and bool(torch.isfinite(plane).all())


def test_the_command_writes_a_picture_or_says_what_is_missing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "limit_cores", lambda count: None)
    assert main(["embeddings", f"run={folder}", "query=q4", "--results", str(tmp_path)]) == 0
    assert imread(tmp_path / "embeddings.png").std() > 0
    assert main(["embeddings", f"run={folder}", "query=nobody", "--results", str(tmp_path)]) == 1
    assert main(["embeddings", "--results", str(tmp_path)]) == 1
    told = capsys.readouterr().out
    assert "no test query is called 'nobody'" in told and "run: has to be set" in told
