"""Worker process: the handle by which a process controls a worker of the sandbox."""

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
    """An isolation layer is unavailable, with the reason."""


class WorkerLost(Exception):
    """A worker has ended or cannot continue; its job has no result."""


class WorkerProcess:
    """A worker and the pipes to it.

    The worker is an interpreter without site packages, so that it is small, and without this process's environment. All
    workers have the same hash seed, so sets of texts have the same order in each.

    Args:
        limits: The limits of each program, by name.
        layers: The isolation layers to use.

    Raises:
        LayerMissing: If an isolation layer is unavailable.
        WorkerLost: If the worker does not start.
    """

    def __init__(self, limits: dict[str, Any], layers: Sequence[str]) -> None:
        self.job: Any = None
        self.tests: Any = None
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
            # The worker mounted its root there and has moved it away; only an empty folder remains.
            remove_folder(place)

    def give(self, job: Any, tests: Any, message: dict[str, Any]) -> None:
        """Give the worker a job.

        Args:
            job: The caller's record of the job, kept in the attribute `job` until the job is done.
            tests: Equal for jobs that can share a checker.
            message: What the checker needs, by name.

        Raises:
            WorkerLost: If the worker has ended.
        """
        self.job = job
        try:
            os.write(self.orders, SAME if tests == self.tests else FRESH)
            write_message(self.jobs, message)
        except BrokenPipeError:
            raise WorkerLost("it has ended") from None
        self.tests = tests

    def hear(self, file: int) -> dict[str, Any] | None:
        """Read from one of the pipes; return the result once it is complete, or `late` if the job took too long.

        Raises:
            WorkerLost: If the job failed through no fault of the program.
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
        """End the worker and all that it has started; a second call does nothing."""
        self._closing.close()

    def _end(self) -> None:
        """Close the pipe of orders, so that an idle worker ends by itself; kill it if it does not."""
        os.close(self.orders)
        if self._process is None:
            return
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(0 if self.job is not None else _PATIENCE)
        self._process.kill()
        self._process.wait()
