"""Work in several processes: all of it is done, an error and a killed process are told, and nobody is left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from features.building.processes import Work, share_out
from ranking.stores.files import StoreError
from registry import ConfigError

pytestmark = pytest.mark.slow
FOLDER = Path(__file__).parent
REPOSITORY = FOLDER.parents[2]


@dataclass(frozen=True)
class Pieces:
    """Each piece is a file with the process and device that did it; some do something else."""

    folder: Path
    instead: tuple[tuple[int, str], ...] = ()
    device: str = ""

    def on(self, device: str) -> "Pieces":
        return replace(self, device=device)

    def do(self, number: int, report: Callable[..., None]) -> None:
        match dict(self.instead).get(number):
            case "be killed":
                os.kill(os.getpid(), signal.SIGKILL)
            case "leave":
                os._exit(3)
            case "refuse":
                raise ConfigError("features", "piece 1 is wrong.", cure="another one")
            case "fail":
                raise RuntimeError("a bug")
            case "take long":
                (self.folder / f"{number}.begun").write_text(str(os.getpid()))
                time.sleep(100)
        (self.folder / str(number)).write_text(f"{os.getpid()} {self.device}")
        report(1, number)


def share(folder: Path, numbers: range, *instead: tuple[int, str]) -> list[tuple[int, ...]]:
    """What the pieces report."""
    reported: list[tuple[int, ...]] = []
    share_out(Pieces(folder, instead), numbers, 2, lambda *counts: reported.append(counts), gpus=False, kept_in="here")
    return reported


def test_each_piece_is_done_once_and_reported_in_this_process(tmp_path: Path) -> None:
    assert isinstance(Pieces(tmp_path), Work)
    assert sorted(share(tmp_path, range(3, 40))) == [(1, number) for number in range(3, 40)]
    done = {int(file.name): file.read_text().split() for file in tmp_path.iterdir()}
    assert sorted(done) == list(range(3, 40)) and {device for _, device in done.values()} == {"cpu"}
    assert len({process for process, _ in done.values()}) == 2 and str(os.getpid()) not in dict(done.values())
    assert {done[number][0] for number in range(3, 40, 2)} == {done[3][0]}


@pytest.mark.parametrize(("instead", "problem"), [
    ("be killed", r"here: process 1 terminated with signal SIGKILL\.\n.*it goes on"),
    ("leave", r"here: process 1 terminated with exit code 3\.\n.*it goes on"),
])  # fmt: skip
def test_a_process_that_is_killed_is_told_with_its_signal(instead: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=problem):
        share(tmp_path, range(4), (1, instead), (2, "take long"))


def test_a_users_mistake_is_raised_as_it_is_and_ends_the_others(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        share(tmp_path, range(4), (1, "refuse"), (2, "take long"))
    assert str(caught.value) == "features: piece 1 is wrong.\n  What to do:   another one"


def test_a_bug_is_shown_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"(?s)Process 1 terminated.*in do.*RuntimeError: a bug"):
        share(tmp_path, range(2), (1, "fail"))


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_processes_end_with_the_one_that_has_started_them(sent: signal.Signals, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import signal\nfrom pathlib import Path\nfrom test_work_in_processes import share\n"
        # A shell that starts tests in the background lets them ignore the signal.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "if __name__ == '__main__':\n"
        f"    share(Path({str(tmp_path)!r}), range(2), (0, 'take long'), (1, 'take long'))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(FOLDER)])}
    command = [sys.executable, str(script)]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as parent:
        begun = [tmp_path / f"{number}.begun" for number in range(2)]
        while not all(file.is_file() and file.read_text() for file in begun):
            assert parent.poll() is None
            time.sleep(0.01)
        parent.send_signal(sent)
        parent.wait()
        assert parent.stderr is not None
        assert sent == signal.SIGKILL or "KeyboardInterrupt" in parent.stderr.read()
    for file in begun:
        while (status := Path(f"/proc/{file.read_text()}/status")).is_file() and "(zombie)" not in status.read_text():
            time.sleep(0.01)
