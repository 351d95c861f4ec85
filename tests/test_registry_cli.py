"""`python -m registry` lists what a yaml can hold."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from registry import KINDS
from registry.__main__ import main

REPOSITORY = Path(__file__).resolve().parent.parent


def test_every_kind_and_name_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    out = capsys.readouterr().out
    for registry in KINDS.values():
        assert f"\n{registry.kind}\n" in out
        assert all(f"\n  {name}: " in out for name in registry.names())


def test_a_component_is_shown_with_the_type_default_and_words_of_each_option(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["rankers", "list_ranker"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("\nrankers\n  list_ranker: ListRanker: project query and candidates,")
    for line in (
        "    feature_dim          int from 1 to 67,108,864, from the code\n",
        "    projection           one of projections | null, linear\n",
        "    num_blocks           int from 0 to 256, 1\n",
        "                           Number of blocks, each with its own weights; the paper uses",
        "    query                feature | learned, feature\n",
        "    temperature          float above 0 and at most 1,000, 1.0\n",
        "    learn_temperature    bool, false\n",
        "    loss                 one of losses | null, null\n                           What training minimises;",
        "    metrics              list[one of metrics], ['hit@1', 'mrr', 'ndcg@10', 'recall@5']\n",
    ):
        assert line in out


def test_one_kind_is_listed_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["losses"]) == 0
    out = capsys.readouterr().out
    assert "  bce: " in out and "list_ranker" not in out
    assert main(["metrics", "recall"]) == 0
    assert "    k                    int from 1 to 1,000,000, required\n" in capsys.readouterr().out


@pytest.mark.parametrize(("words", "problem"), [
    (["loses"], "registry: no such kind: 'loses'.\n  Did you mean: losses\n  Known:        rankers, blocks,"),
    (["losses", "bcee"], "losses: 'bcee' is not among the losses.\n  Did you mean: bce\n"),
    (["losses", "--imports", "a_module_nobody_has"], "imports[0]: no module named 'a_module_nobody_has'."),
])  # fmt: skip
def test_what_is_not_there_is_an_error(words: list[str], problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith(problem) and captured.out == ""


def test_components_from_outside_are_shown_and_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "my_losses.py").write_text(
        "from registry import LOSSES\n@LOSSES.register('aaa')\ndef aaa(scores, labels, mask, /):\n    '''Nothing.'''\n"
    )
    command = f"{sys.executable} -m registry losses --imports my_losses | head -3"
    done = subprocess.run(
        command,
        shell=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("\nlosses\n  aaa: Nothing.\n", "")
