"""A ranker, a block and a loss written outside the repository are used, saved and loaded with no edit to it."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from forks import REPOSITORY, Fork

import train
from rankers.checkpoint import load_ranker, save_pretrained
from ranking.batch import FeatureBatch
from ranking.stores.group_store import GroupStore
from registry import RANKERS, load_config
from registry.imports import import_modules

README = (REPOSITORY / "README.md").read_text()
BILINEAR = next(code for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if '"bilinear"' in code)

CENTRED = '''"""Centred: a block that takes the mean of its group from each vector."""
import torch
from torch import Tensor, nn

from registry import BLOCKS


@BLOCKS.register("centred")
class Centred(nn.Module):
    def __init__(self, dim: int, share: float = 1.0) -> None:
        super().__init__()
        self.share = share
        self.scale = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        there = mask.unsqueeze(-1)
        mean = x.masked_fill(~there, 0).sum(dim=1, keepdim=True) / there.sum(dim=1, keepdim=True)
        return self.scale * (x - self.share * mean)
'''

HINGE = '''"""Hinge: the best wrong candidate should be a margin below the worst right one."""
from torch import Tensor

from registry import LOSSES


@LOSSES.register("hinge")
def hinge(scores: Tensor, labels: Tensor, mask: Tensor, /, *, margin: float = 1.0) -> Tensor:
    right, wrong = mask & (labels > 0), mask & (labels <= 0)
    worst = scores.masked_fill(~right, float("inf")).amin(dim=1)
    best = scores.masked_fill(~wrong, float("-inf")).amax(dim=1)
    return (margin + best - worst)[right.any(dim=1) & wrong.any(dim=1)].clamp(min=0).mean()
'''

# In a process of its own: load each ranker and print the score of every test candidate.
LOADER = """
import json, sys
import torch
from datamodules.grouped_features import GroupedFeatures
from rankers.checkpoint import load_ranker

data = GroupedFeatures(sys.argv[1])
for path in sys.argv[2:]:
    ranker, scores = load_ranker(path), {}
    with torch.inference_mode():
        for batch in data.test_dataloader():
            for row, places in zip(ranker(batch).tolist(), batch.slot.tolist(), strict=True):
                scores.update((place, score) for place, score in zip(places, row, strict=True) if place >= 0)
    print(json.dumps({"ranker": type(ranker).__module__, "loss": ranker.loss.func.__module__, "scores": scores}))
"""


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """Write the three files, each of them all there is of its component."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for name, text in {"bilinear": BILINEAR, "centred": CENTRED, "hinge": HINGE}.items():
        (folder / f"{name}.py").write_text(text)
    return folder


def start(program: Path | str, *arguments: object, folder: Path) -> str:
    folder.mkdir()
    fork = Fork(program, arguments, folder=folder)
    out, errors = fork.communicate()
    assert fork.returncode == 0, out + errors
    return out


def assert_scores_are_those_of(run: Path, scores: dict[str, float], store: GroupStore) -> None:
    """Compare with what the run itself wrote down of its test."""
    written = {}
    for line in (run / "run.trec").read_text().splitlines():
        query_id, _, candidate_id, _, score, _ = line.split()
        written[query_id, candidate_id] = float(score)
    group = torch.bucketize(torch.arange(store.num_slots), store.offsets[1:], right=True)
    found = {(store.query_id(int(group[int(at)])), store.slot_id(int(at))): score for at, score in scores.items()}
    assert found == pytest.approx(written, abs=1e-6)


@pytest.mark.usefixtures("outside")
def test_the_one_file_ranker_reads_features_as_stores_have_them(written: Path) -> None:
    import_modules(["bilinear"], [written])
    ranker = RANKERS.build("bilinear", feature_dim=4)
    batch = FeatureBatch(
        labels=torch.zeros(2, 3),
        mask=torch.ones(2, 3, dtype=torch.bool),
        group=torch.arange(2),
        slot=torch.arange(6).view(2, 3),
        unique_queries=torch.randn(2, 4).half(),
        unique_candidates=torch.randn(6, 4).half(),
        query_index=torch.arange(2),
        candidate_index=torch.arange(6).view(2, 3),
    )
    queries = ranker.project(batch.unique_queries.float())  # type: ignore[operator]
    expected = (batch.unique_candidates.float() @ queries.T).view(2, 3, 2)[torch.arange(2), :, torch.arange(2)]
    torch.testing.assert_close(ranker(batch), expected)


@pytest.mark.usefixtures("outside")
def test_components_from_outside_are_trained_saved_and_loaded_elsewhere(
    store: Path, run_config: Callable[..., Path], written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranker = {"name": "bilinear", "loss": {"name": "hinge", "margin": 0.5}, "optimizer": {"name": "sgd", "lr": 0.01}}
    pointwise = run_config("mine/pointwise.yaml", imports=["bilinear", "hinge"], ranker=ranker)
    listwise = run_config(
        "mine/listwise.yaml", imports=["centred"], ranker={"block": {"name": "centred", "share": 0.5}}
    )

    start(REPOSITORY / "train.py", "--config", pointwise, folder=tmp_path / "there")
    (first,) = (tmp_path / "runs" / "pointwise").iterdir()
    second = tmp_path / "runs" / "second"
    monkeypatch.setenv("RANKERS_RUN_DIR", str(second))
    assert train.main(["--config", str(listwise)]) == 0
    folders = [save_pretrained(load_ranker(run), tmp_path / f"saved_{run.name}") for run in (first, second)]

    lines = start(LOADER, store, first, second, *folders, folder=tmp_path / "elsewhere").splitlines()
    loaded = [json.loads(line) for line in lines]
    assert [each["ranker"] for each in loaded] == ["bilinear", "rankers.language_ranker.list_ranker"] * 2
    assert [each["loss"] for each in loaded] == ["hinge", "ranking.losses"] * 2
    assert loaded[:2] == loaded[2:]
    for run, each in zip((first, second), loaded, strict=False):
        assert_scores_are_those_of(run, each["scores"], GroupStore.open(store))

    assert load_config(first / "config.yaml").imports == {"bilinear": str(written), "hinge": str(written)}
