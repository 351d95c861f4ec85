"""Analysis: pass@k is what drawing all subsets gives; counts are those of a loop over the texts."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import wandb
from matplotlib.image import imread

from features.__main__ import main
from ranking.response_analysis import Analysis, pass_at_k
from ranking.stores.group_store import GroupStore
from ranking.stores.group_store_writer import GroupStoreWriter

LABELS = [[1, 0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1], [float("nan")] * 3]
TEXTS = [["a", "b", "a", "cc", "d", " ", "e"], list("abcdef"), ["same"] * 8, ["x", "y", ""]]


@pytest.fixture
def responses(tmp_path: Path) -> GroupStore:
    flat, sizes = [text for texts in TEXTS for text in texts], [len(texts) for texts in TEXTS]
    writer = GroupStoreWriter(tmp_path / "store", feature_dim=2, depths=[0.6], dtype="float16", settings={})
    with writer:
        writer.add_candidates(torch.ones(len(flat), 1, 2), flat)
        writer.add_groups(
            ids=[f"q{place}" for place in range(4)],
            texts=["?"] * 4,
            features=torch.ones(4, 1, 2),
            offsets=torch.tensor([0, *itertools.accumulate(sizes)]),
            candidate=torch.arange(len(flat)),
            label=torch.tensor([label for labels in LABELS for label in labels]),
            slot_ids=[str(place) for size in sizes for place in range(size)],
            known={"num_tokens": torch.arange(len(flat))},
        )
        return GroupStore.open(writer.finish())


@pytest.mark.parametrize("k", [1, 2, 3, 6])
def test_pass_at_k_is_the_share_of_all_subsets_with_a_right_response(k: int) -> None:
    for labels in LABELS[:3]:
        subsets = list(itertools.combinations(labels, k))
        expected = sum(any(subset) for subset in subsets) / len(subsets)
        found = pass_at_k(torch.tensor([len(labels)]), torch.tensor([int(sum(labels))]), k)
        assert float(found) == pytest.approx(expected, abs=1e-12)


def test_counts_are_those_of_a_loop(responses: GroupStore) -> None:
    found = Analysis.of(responses).results()
    assert (found["queries"], found["responses"], found["unlabelled"]) == (4, 24, 3)
    assert found["queries_with_right_and_wrong"] == 1
    assert (found["repeated"], found["empty"]) == (1 + 7, 2)
    assert found["tokens_quartiles"] == [0, 5.75, 11.5, 17.25, 23]
    assert list(found["pass_at"]) == ["1", "2", "5", "6"]
    assert found["pass_at"]["1"] == pytest.approx((2 / 7 + 0 + 1) / 3)


def test_the_command_writes_numbers_and_a_picture(responses: GroupStore, tmp_path: Path) -> None:
    assert main(["analyse", str(responses.path), "--into", str(tmp_path / "seen")]) == 0
    assert json.loads((tmp_path / "seen" / "analysis.json").read_text()) == Analysis.of(responses).results()
    picture = imread(tmp_path / "seen" / "analysis.png")
    assert picture.shape[1] > 1000 and picture[..., :3].std() > 0.05


def test_inspecting_a_store_tells_it_too(responses: GroupStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(responses.path)]) == 0
    shown = capsys.readouterr().out
    for part in ("pass@1 0.429", "pass@6 0.667", "0 to 23 tokens", "8 repeated", "2 empty"):
        assert part in shown


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """W&B writes into the test's folder."""
    # W&B reads its variables once a process, perhaps in an earlier test, and a later test is to read its own.
    wandb.teardown()
    for name, value in (("WANDB_MODE", "offline"), ("WANDB_DIR", str(tmp_path)), ("WANDB_SILENT", "true")):
        monkeypatch.setenv(name, value)
    yield
    wandb.teardown()


@pytest.mark.usefixtures("offline")
def test_tables_and_the_picture_go_to_wandb(responses: GroupStore, tmp_path: Path) -> None:
    assert main(["analyse", str(responses.path), "--into", str(tmp_path), "--wandb", "tried"]) == 0
    (logged,) = tmp_path.glob("wandb/offline-run-*/files/media")
    tables = {file.name.partition("_0_")[0]: json.loads(file.read_text()) for file in logged.rglob("*.table.json")}
    found = Analysis.of(responses)
    assert tables["pass_at_k"]["data"] == [[k, pytest.approx(found.pass_at(k))] for k in found.ks]
    assert tables["counts"]["data"] == [[24, 3, 8, 2]]
    assert tables["right"]["data"] == [[0, 1], [1, 0], [2, 1], *([place, 0] for place in range(3, 8)), [8, 1]]
    assert tables["lengths"]["columns"] == ["share", "tokens"] and tables["lengths"]["data"][5] == [0.5, 11.5]
    assert len(list(logged.rglob("*.png"))) == 1
