"""The benchmark of recommenders beside cornac's: both are judged by the same code on the same items."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from benchmarks import cornac_recommenders
from benchmarks.__main__ import main
from benchmarks.cornac_recommenders import PAIRS, judge, run_cornac
from datamodules.user_sequences import UserSequences
from training.checking import build_extractor

NUM_USERS, NUM_ITEMS, LENGTH = 12, 15, 6


@pytest.fixture
def clicks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = [(user, (user + 4 * time) % NUM_ITEMS, time) for user in range(NUM_USERS) for time in range(LENGTH)]
    lines = "".join(f"u{user},i{item},{time}\n" for user, item, time in rows)
    (tmp_path / "clicks.csv").write_text("user_id,item_id,timestamp\n" + lines)
    return tmp_path / "clicks.csv"


def test_the_right_item_is_ranked_among_those_that_the_user_has_not_met(clicks: Path, tmp_path: Path) -> None:
    source = {"name": "interactions", "path": str(clicks)}
    node = {"name": "candidate_pool", "encoder": None, "path": str(tmp_path / "pool"), "source": source}
    data = UserSequences(str(build_extractor(node).run()))
    table = np.random.default_rng(0).integers(6, size=(NUM_ITEMS, NUM_ITEMS)).astype(float)
    # A user's first item has the user's number.
    found = judge(lambda user, history: table[history[0]], data, "test")["recall@10"]
    assert len(found) == NUM_USERS
    for query in data.queries("test").tolist():
        first = int(data.pool.queries.history[data.pool.queries.history_offsets[query]])
        number = int(data.pool.id(first).removeprefix("i"))
        met = {f"i{(number + 4 * time) % NUM_ITEMS}" for time in range(LENGTH - 1)}
        right = f"i{(number + 4 * (LENGTH - 1)) % NUM_ITEMS}"
        scores = {data.pool.id(row): table[first, row] for row in range(NUM_ITEMS)}
        others = [scores[item] for item in scores if item not in met | {right}]
        above, tied = (sum(compare(each, scores[right]) for each in others) for compare in (np.greater, np.equal))
        # Equal scores share the places that they have together.
        chance = min(1.0, max(0.0, (10 - above) / (tied + 1)))
        assert found[data.query_id(query)] == pytest.approx(chance)


def test_wrong_options_and_a_missing_peer_are_one_error(
    clicks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.peers.find_spec", lambda name: None)
    assert main(["cornac", "--cores", "1", f"data={clicks}"]) == 1
    assert "cornac is not installed" in capsys.readouterr().out
    monkeypatch.setattr("benchmarks.peers.find_spec", lambda name: name)
    for options, problem in (
        ({"data": "none.csv"}, "none.csv: no such file"),
        ({"models": "SASRec,LSTM"}, "no model LSTM"),
        ({"seeds": "0"}, "seeds: has to be a number above 0"),
        ({"epoch": "1"}, "epoch: no such option"),
    ):
        with pytest.raises(cornac_recommenders.ConfigError, match=problem):
            run_cornac({"data": str(clicks), **options}, tmp_path, tmp_path, Console())


@pytest.mark.skipif(find_spec("cornac") is None, reason="needs cornac: pip install -e '.[peers]'")
def test_every_model_is_trained_and_written_down(clicks: Path, tmp_path: Path) -> None:
    given = {"data": str(clicks), "seeds": "1", "epochs": "5", "our_epochs": "2"}
    run_cornac(given, tmp_path / "results", tmp_path / "runs", Console())
    found = json.loads((tmp_path / "results" / "cornac.json").read_text())["models"]
    assert found.keys() == PAIRS.keys()
    assert all(0 <= each["recall@10"][side] <= 1 for each in found.values() for side in ("ours", "cornac"))
