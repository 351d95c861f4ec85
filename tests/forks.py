"""Forks: programs that start at once, since they are forks of a process that has imported the packages.

A test uses them where a program has to run in a process of its own, but not where it matters what a program imports.
"""

import atexit
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]


class Fork:
    """A program in a process of its own.

    Args:
        program: A file with Python code, or Python code.
        arguments: Its arguments.
        folder: Where it runs.
        paths: Folders whose modules it can import, besides the repository's.
        environment: Its environment; None for that of the tests.
    """

    def __init__(
        self,
        program: Path | str,
        arguments: Sequence[object] = (),
        *,
        folder: Path | None = None,
        paths: Sequence[Path] = (),
        environment: dict[str, str] | None = None,
    ) -> None:
        self._files = [_outputs() / f"{next(_numbers)}" for _ in range(2)]
        code = program.read_text() if isinstance(program, Path) else program
        self.pid = _ask({
            "code": code,
            "arguments": [str(program) if isinstance(program, Path) else "-c", *map(str, arguments)],
            "folder": str(folder or Path.cwd()),
            "paths": [str(path) for path in paths],
            "environment": dict(os.environ) if environment is None else environment,
            "out": str(self._files[0]),
            "err": str(self._files[1]),
        })  # fmt: skip
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit status, negative for signals; None while it runs."""
        if self.returncode is None:
            self.returncode = _ask({"child": self.pid, "wait": False})
        return self.returncode

    def kill(self) -> None:
        """Kill -9."""
        if self.poll() is None:
            os.kill(self.pid, 9)

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        """Wait for its end; what it wrote to stdout and stderr.

        Raises:
            TimeoutError: If it has not ended after that many seconds.
        """
        end = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > end:
                raise TimeoutError(f"still running after {timeout} s")
            time.sleep(0.005)
        out, err = (file.read_text() for file in self._files)
        return out, err


def run_in_forks(folder: Path, imports: str, commands: Sequence[Sequence[str]]) -> tuple[list[int], str, str]:
    """Run commands, one after another; their exit statuses, and what they wrote to stdout and stderr.

    Args:
        folder: Where they run, and whose modules they can import.
        imports: Code that defines `run(arguments)`, whose result is the exit status.
        commands: The arguments of each.
    """
    code = f"import os, sys\n{imports}\nsys.exit(run(sys.argv[1:]))"
    statuses, outputs, errors = [], [], []
    for command in commands:
        fork = Fork(code, command, folder=folder, paths=[folder])
        out, error = fork.communicate()
        assert fork.returncode is not None
        statuses.append(fork.returncode)
        outputs.append(out)
        errors.append(error)
    return statuses, "".join(outputs), "".join(errors)


_numbers = count()


@cache
def _outputs() -> Path:
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    return Path(folder.name)


@cache
def _server() -> subprocess.Popen[str]:
    command = [sys.executable, str(Path(__file__).with_name("fork_server.py"))]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(server.communicate)
    return server


def _ask(question: dict[str, Any]) -> Any:
    server = _server()
    assert server.stdin is not None and server.stdout is not None
    server.stdin.write(json.dumps(question) + "\n")
    server.stdin.flush()
    answer = server.stdout.readline()
    assert answer, "the server of forks has ended"
    return json.loads(answer)
