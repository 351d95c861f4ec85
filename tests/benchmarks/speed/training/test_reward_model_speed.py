"""The benchmark of reward models: all ways train, and texts are counted as they are read."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from benchmarks.speed.training import reward_model
from benchmarks.speed.training.reward_model import LEAST, THEIRS, WHOLE, measure, train_here
from benchmarks.speed.training.workload import TINY
from registry import ConfigError


def test_prompts_are_read_once_or_with_each_response(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = reward_model.draw_groups(LEAST, LEAST.num_groups + 2, 10)
    model = reward_model.write_model(LEAST, tmp_path / "model")
    store = reward_model.write_groups(groups, tmp_path / "store")
    read: list[int] = []
    load = reward_model.RewardModel._load_backbone

    def watched(ranker: reward_model.RewardModel) -> Any:
        backbone = load(ranker)
        backbone.get_input_embeddings().register_forward_hook(lambda *given: read.append(given[1][0].numel()))
        return backbone

    monkeypatch.setattr(reward_model.RewardModel, "_load_backbone", watched)
    for shared in (True, False):
        read.clear()
        assert train_here(model, store, 6, shared=shared) > 0
        trained = reward_model._num_tokens(groups[:-2], shared=shared)
        # Two epochs; before them the model is tested with a few tokens.
        assert sum(number for number in read if number > 40) == 2 * trained


def test_without_the_peer_the_benchmark_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.peers.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"(?s)trl is not installed.*pip install"):
        measure(tmp_path, TINY, 1)


@pytest.mark.skipif(find_spec("trl") is None, reason="needs TRL: pip install -e '.[peers]'")
def test_both_trainers_are_timed(tmp_path: Path) -> None:
    found = measure(tmp_path, TINY, 1, apart=False)
    assert all(seconds[0] > 0 for seconds in found.seconds.values()) and {THEIRS, WHOLE} <= found.seconds.keys()
