"""Each benchmark at a tiny size: what it compares is equal, and what it found is written down."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import fit, machine, plain_loop, projection, store
from benchmarks.__main__ import BENCHMARKS, main
from benchmarks.comparison import Comparison, Ratio, in_own_process, in_turns
from benchmarks.workload import TINY, write_store
from ranking.group_store import GroupStore


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("benchmarks")


def assert_is_complete(found: Comparison, repeats: int) -> dict[str, Any]:
    results = found.results()
    assert set(results["ways"]) == set(found.seconds)
    assert all(len(way["seconds"]) == repeats and min(way["seconds"]) > 0 for way in results["ways"].values())
    assert all(len(ratio["values"]) == repeats for ratio in results["ratios"].values())
    assert results["made_with"]["torch"] == torch.__version__
    assert results["made_with"]["machine"]["processor"]
    return results


@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes")
def test_fit_gives_the_losses_of_plain_loops(data: Path) -> None:
    results = assert_is_complete(fit.measure(data, TINY, repeats=1, apart=False), repeats=1)
    assert len(results["losses"]) == 4
    assert results["floor"]["seconds"] > 0


def test_fit_refuses_to_compare_what_is_not_the_same(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(way: str, *_: Any) -> tuple[float, list[float]]:
        return 1.0, [0.5, 0.5]

    monkeypatch.setattr(fit, "_plain", other)
    monkeypatch.setattr(fit, "_fit", lambda *_: (1.0, [0.5, 0.6]))
    with pytest.raises(AssertionError):
        fit.measure(data, TINY, repeats=1, apart=False)


def test_both_ways_to_project_without_us_give_the_same(data: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    memory = plain_loop.Memory(torch.randn(3, 8, generator=draw).half(), torch.randn(9, 8, generator=draw).half())
    groups = plain_loop.Group(torch.tensor([2, 0, 2]), torch.tensor([[8, 1], [1, 0], [5, 8]]), torch.ones(3, 2))
    weights = fit.RANKERS.build("list_ranker", feature_dim=8).state_dict()
    model = plain_loop.PlainListRanker(8, weights)
    stacked = plain_loop.StackedGroups(memory, [groups], torch.float32)
    features = torch.stack([stacked[place][0] for place in range(3)])
    ways = [
        *plain_loop.projecting_each_slot(model, memory, [groups]),
        *plain_loop.projecting_each_row(model, memory, [groups]),
        (model.project(features[:, 0]), model.project(features[:, 1:]), groups.labels),
    ]
    for query, candidates, labels in ways[1:]:
        torch.testing.assert_close(query, ways[0][0])
        torch.testing.assert_close(candidates, ways[0][1])
        assert torch.equal(labels, groups.labels)


def test_a_store_gives_what_its_files_hold(data: Path) -> None:
    results = assert_is_complete(store.measure(data, TINY, repeats=3), repeats=3)
    assert results["gigabytes"] * 1e9 == sum(file.stat().st_size for file in write_store(TINY, data).iterdir())


def test_projecting_rows_or_slots_gives_the_same_gradients(data: Path) -> None:
    results = assert_is_complete(projection.measure(data, TINY, repeats=3), repeats=3)
    assert all(0 < share < 1 for share in results["unique_share_of_slots"].values())


def test_a_store_is_written_once(data: Path) -> None:
    path = write_store(TINY, data)
    changed = (path / "manifest.json").stat().st_mtime_ns
    assert write_store(TINY, data) == path
    assert (path / "manifest.json").stat().st_mtime_ns == changed
    written = GroupStore.open(path, verify=True)
    assert written.num_candidates == 20 * written.num_groups


def test_ratios_are_taken_repeat_by_repeat() -> None:
    ratios = [Ratio("a", "b", at_most=2), Ratio("a", "b", at_least=4)]
    found = Comparison("some", "what?", {"a": "", "b": ""}, {"a": [3.0, 30.0, 3.0], "b": [1.0, 10.0, 2.0]}, ratios)
    assert found.ratio(ratios[0]) == [3.0, 3.0, 1.5]
    assert not ratios[0].holds(3.0)
    assert not ratios[1].holds(3.0)
    assert ratios[0].holds(2.0)
    assert (ratios[0].wish(), ratios[1].wish()) == ("at most 2", "at least 4")


def test_ways_take_turns_in_turning_order() -> None:
    order: list[str] = []
    found = in_turns({name: (lambda name=name: order.append(name) or len(order)) for name in "abc"}, 2)
    assert "".join(order) == "abccba"
    assert found == {"a": [1, 6], "b": [2, 5], "c": [3, 4]}


def test_work_in_its_own_process_returns_its_result() -> None:
    assert in_own_process(sum, [1, 2]) == 3


def test_the_machine_is_described_and_measured() -> None:
    assert machine.describe()["cores"] >= 1
    assert machine.multiplications_per_second(64) > 0
    assert machine.bytes_per_second(1 << 10) > 0


def test_the_command_writes_one_file_a_benchmark(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "limit_cores", lambda count: None)
    arguments = ["projection", "--tiny", "--repeats", "1", "--data", str(data), "--results", str(tmp_path)]
    assert main(arguments) == 0
    assert [file.name for file in tmp_path.iterdir()] == ["projection.json"]
    assert json.loads((tmp_path / "projection.json").read_text())["question"]
    assert "times as long" in capsys.readouterr().out


def test_an_unknown_benchmark_is_refused_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fits"])
    assert f"no benchmark 'fits'; there are: {', '.join(BENCHMARKS)}" in capsys.readouterr().err
