"""A command prints what its encoding lacks as escapes, and survives readers that leave and streams that are closed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
COMMAND = """
import sys
from console.streams import prepare_streams

prepare_streams()
for line in range(20_000):
    print("日本 ─", line)
print("ended ─", file=sys.stderr)
open("written", "w").write("whole")
"""


def run(folder: Path, redirections: str, **environment: str) -> tuple[str, str]:
    (folder / "command.py").write_text(COMMAND)
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {sys.executable} command.py {redirections}"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
    )
    assert (folder / "written").read_text() == "whole"
    return done.stdout, done.stderr


def test_a_reader_that_leaves_stops_nothing(tmp_path: Path) -> None:
    assert run(tmp_path, "| head -1", PYTHONUTF8="1") == ("日本 ─ 0\n", "ended ─\n")
    assert run(tmp_path, "2>&1 >/dev/null | true") == ("", "")


def test_characters_that_the_encoding_lacks_are_escaped(tmp_path: Path) -> None:
    out, err = run(tmp_path, "| head -1", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert (out, err) == ("\\u65e5\\u672c \\u2500 0\n", "ended \\u2500\n")


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_take_everything(closed: str, tmp_path: Path) -> None:
    out, err = run(tmp_path, closed, PYTHONUTF8="1")
    assert out.endswith("日本 ─ 19999\n") == closed.startswith("2") and err.endswith("ended ─\n") == (closed == ">&-")
    assert (tmp_path / "written").read_bytes() == b"whole"
