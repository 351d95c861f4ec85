import json
from pathlib import Path

import pytest

from benchmarks import machine
from benchmarks.__main__ import main


def test_the_command_writes_one_file_a_benchmark(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "limit_cores", lambda count: None)
    arguments = ["projection", "--tiny", "--repeats", "1", "--data", str(data), "--results", str(tmp_path)]
    assert main(arguments) == 0
    assert [file.name for file in tmp_path.iterdir()] == ["projection.json"]
    assert json.loads((tmp_path / "projection.json").read_text())["question"]
    assert "times as long" in capsys.readouterr().out


def test_an_unknown_benchmark_is_refused_with_the_name_that_was_meant(capsys: pytest.CaptureFixture[str]) -> None:
    for name, hint in (
        ("fits", "did you mean fit? --help"),
        ("tabel1", "did you mean table1? --help"),
        ("?", "--help"),
    ):
        with pytest.raises(SystemExit):
            main([name])
        assert f"no benchmark or table '{name}'; {hint} lists all of them" in capsys.readouterr().err


def test_a_benchmark_that_cannot_run_says_why_and_the_others_go_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "limit_cores", lambda count: None)
    monkeypatch.setattr("benchmarks.peers.find_spec", lambda name: None)
    arguments = ["kmeans", "projection", "--tiny", "--repeats", "1", "--data", str(data), "--results", str(tmp_path)]
    assert main(arguments) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["projection.json"]
    shown = " ".join(capsys.readouterr().out.split())
    assert "kmeans has not run. benchmarks: faiss is not installed. What to do: pip install -e '.[peers]'" in shown


def test_a_mistake_in_a_table_is_told_and_a_stopped_one_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "limit_cores", lambda count: None)
    where = ["--results", str(tmp_path), "--runs", str(tmp_path / "runs")]
    assert main(["table1", "metrik=mrr", *where]) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "table1 has not run to its end. table1.yaml: metrik: no such option" in shown

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("benchmarks.tables.command.run_table", stop)
    assert main(["table1", *where]) == 130
    assert "table1 is stopped; finished cells are kept, and the same command goes on" in capsys.readouterr().out


def test_options_of_tables_need_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "data=store"])
    assert "data=store is an option of tables and studies, and none is named" in capsys.readouterr().err


def test_trained_weights_are_counted_by_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "limit_cores", lambda count: None)
    assert main(["parameters"]) == 0
    assert "312,128" in capsys.readouterr().out


def test_an_option_that_a_study_does_not_have_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "limit_cores", lambda count: None)
    assert main(["best_of_n", "run=somewhere", "problem=30"]) == 1
    assert "best_of_n has not run. problem: there is no such option. Did you mean: problems" in " ".join(
        capsys.readouterr().out.split()
    )
