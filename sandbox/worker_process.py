"""Worker process: a worker of the sandbox as the process sees it that has started it."""

import fcntl
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from sandbox.isolation.confinement import NAMESPACES
from sandbox.isolation.folders import remove_folder
from sandbox.messages import Closed, MessageBuffer, read_message, write_message
from sandbox.worker import FRESH, JUDGED, SAME, TOO_LATE

_ROOT = str(Path(__file__).resolve().parents[1])
_START = "import sys; sys.path.insert(0, sys.argv[2]); from sandbox.worker import main; main()"
_OPTIONS = ("-s", "-S", "-P")
_ENVIRONMENT = {"PYTHONHASHSEED": "0"}
_MOST_RESULT = 1 << 24
_SET_PIPE_SIZE, _PIPE_SIZE = 1031, 1 << 20
_READ = 1 << 16
_PATIENCE = 5


class LayerMissing(Exception):
    """A layer of protection that there is not, and why."""


class WorkerLost(Exception):
    """A worker has ended, or cannot go on; its job has no result."""


class WorkerProcess:
    """A worker and the pipes to it.

    It is an interpreter without site packages, so that it is small, and without this process's environment. Sets of
    texts have the same order in all of them.

    Args:
        limits: Of each program, by their names.
        layers: What to protect with.

    Raises:
        LayerMissing: If one of them cannot be had.
        WorkerLost: If it does not start.
    """

    def __init__(self, limits: dict[str, Any], layers: Sequence[str]) -> None:
        self.job: Any = None
        self.tests: dict[str, Any] = {}
        self._buffer = MessageBuffer(_MOST_RESULT)
        self._process: subprocess.Popen[bytes] | None = None
        self._closing = ExitStack()
        try:
            self._start(limits, layers)
        except BaseException:
            self.close()
            raise

    def _start(self, limits: dict[str, Any], layers: Sequence[str]) -> None:
        place = Path(tempfile.mkdtemp(prefix="sandbox-"))
        self._closing.callback(remove_folder, place)
        orders, self.orders = os.pipe()
        jobs, self.jobs = os.pipe()
        self.results, results = os.pipe()
        self.status, status = os.pipe()
        files = (orders, jobs, results, status)
        for file in (self.jobs, self.results, self.status):
            self._closing.callback(os.close, file)
        self._closing.callback(self._end)
        with suppress(OSError):  # a result need not wait until it is read
            fcntl.fcntl(results, _SET_PIPE_SIZE, _PIPE_SIZE)
        settings = {"files": files, "limits": limits, "layers": list(layers), "place": str(place)}
        try:
            self._process = subprocess.Popen(
                [sys.executable, *_OPTIONS, "-c", _START, json.dumps(settings), _ROOT],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=_ENVIRONMENT,
                pass_fds=files,
                cwd="/",
                start_new_session=True,
            )
        finally:
            for file in files:
                os.close(file)
        try:
            hello = read_message(self.results)
        except Closed:
            raise WorkerLost(f"it ended before it had begun, with status {self._process.wait()}") from None
        os.set_blocking(self.results, False)
        if "missing" in hello:
            raise LayerMissing(hello["missing"], hello["reason"])
        if NAMESPACES in layers:
            # The worker's root has been put there and moved on; what is left is an empty folder.
            remove_folder(place)

    def give(self, job: Any, code: str, tests: dict[str, Any]) -> None:
        """Have a job done.

        Args:
            job: What to remember it by, in `job`, until it is done.
            code: The program.
            tests: What the checker needs, by name.

        Raises:
            WorkerLost: If there is no worker any more.
        """
        self.job = job
        try:
            os.write(self.orders, SAME if tests == self.tests else FRESH)
            write_message(self.jobs, {"code": code, **tests})
        except BrokenPipeError:
            raise WorkerLost("it has ended") from None
        self.tests = tests

    def hear(self, file: int) -> dict[str, Any] | None:
        """Take what is in one of the pipes; the result when it is there, with `late` in it if time was up.

        Raises:
            WorkerLost: If the job has failed, through no fault of the program.
        """
        with suppress(BlockingIOError):
            while part := os.read(self.results, _READ):
                self._buffer.add(part)
        if file == self.results:
            return None
        said = os.read(self.status, 1)
        result = self._buffer.take()
        self._buffer.clear()
        if said == TOO_LATE:
            return {"late": True}
        if said != JUDGED or result is None:
            raise WorkerLost("the checker of a program failed" if said else "it has ended")
        return result

    def close(self) -> None:
        """End the worker, and all that it has started; a second time does nothing."""
        self._closing.close()

    def _end(self) -> None:
        """Let it end by itself where it has nothing to do and no orders can come any more, else kill it."""
        os.close(self.orders)
        if self._process is None:
            return
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(0 if self.job is not None else _PATIENCE)
        self._process.kill()
        self._process.wait()
