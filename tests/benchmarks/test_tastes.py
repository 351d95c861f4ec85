"""python -m benchmarks tastes: simulated users pick what one model wrote, and their heads learn it."""

import json
import random
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from benchmarks import machine, tastes
from benchmarks.__main__ import main
from language_models.encoder import Encoder

STYLES = {"a": "open close", "b": "sort list", "c": "return value", "d": "first last"}


@pytest.fixture
def data(tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tastes, "Encoder", lambda **options: Encoder(model=str(tiny_bert), max_length=16, device="cpu"))
    draw = random.Random(0)
    words = ["file", "key", "path", "line", "text", "number"]
    path = tmp_path / "groups.jsonl"
    with path.open("w") as file:
        for place in range(40):
            outputs = [
                {"id": name, "text": f"{style} {draw.choice(words)} {style}", "label": draw.random()}
                for name, style in STYLES.items()
            ]
            query = f"{draw.choice(words)} {draw.choice(words)}"
            file.write(json.dumps({"query_id": str(place), "query": query, "candidates": outputs}) + "\n")
    return path


@pytest.mark.slow
def test_users_pick_their_model_and_are_judged_on_later_picks(data: Path, tmp_path: Path) -> None:
    size = tastes.Size(users=5, picks=10, judged=8, outputs=3)
    found = tastes.run_tastes(data, tmp_path, Console(quiet=True), size)
    written = json.loads((tmp_path / "tastes.json").read_text())
    assert written["models"] == list("abcd") and written["size"]["users"] == 5
    for result in found["rankers"].values():
        assert [each["taste"] for each in result["users"]] == list("abcda")
        assert result["head"] > result["base"] and result["difference over users"]["low"] > 0
        assert result["base"] == pytest.approx(np.mean([each["base"] for each in result["users"]]))


def test_a_user_sees_the_liked_models_output_once_in_each_group(data: Path) -> None:
    answers = tastes.Answers.read(data)
    picks = list(answers.picks(range(20), user=6, num_outputs=3))
    assert [pick.number for pick in picks] == list(range(1, 21))
    liked = {tuple(row) for row in answers.outputs[:, 2].tolist()}
    for pick in picks:
        assert sorted(pick.labels) == [0, 0, 1] and tuple(pick.candidates[pick.labels.index(1)].tolist()) in liked


def test_what_is_missing_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "limit_cores", lambda count: None)
    run = partial(main, ["tastes", "--results", str(tmp_path)])
    assert run() == 1 and "data: has to be set" in capsys.readouterr().out
    few = tmp_path / "few.jsonl"
    few.write_text(
        '{"query_id": "1", "query": "a", "candidates": [{"id": "x", "text": "b"}, {"id": "y", "text": "c"}]}\n'
    )
    assert main(["tastes", f"data={few}", "--results", str(tmp_path)]) == 1
    assert "has 1 queries with an output of each of 2 models" in " ".join(capsys.readouterr().out.split())
