"""The benchmark of a light ranker: both rankers train on the same groups and score them."""

from pathlib import Path

from benchmarks.speed.training.light_ranker import LIGHT_SCORES, LIGHT_TRAINS, SCORES, TRAINS, measure
from benchmarks.speed.training.workload import TINY


def test_both_rankers_train_and_score(tmp_path: Path) -> None:
    found = measure(tmp_path, TINY, 1, apart=False)
    assert found.seconds.keys() == {TRAINS, LIGHT_TRAINS, SCORES, LIGHT_SCORES}
    assert all(seconds[0] > 0 for seconds in found.seconds.values())
    assert found.facts["weights"]["reward_model"] > found.facts["weights"]["list_ranker"]
