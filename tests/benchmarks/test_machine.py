import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import machine


def test_the_machine_is_described_and_measured() -> None:
    assert machine.describe()["cores"] >= 1
    assert machine.multiplications_per_second(64) > 0
    assert machine.bytes_per_second(1 << 10) > 0


def test_a_system_without_proc_has_its_memory_measured_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As macOS, where `ru_maxrss` is in bytes."""
    monkeypatch.setattr(machine, "PROC", tmp_path)
    monkeypatch.setattr(machine.sys, "platform", "darwin")
    monkeypatch.setattr(machine.resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=5_000_000))
    assert machine.peak_memory() == 5_000_000
    assert machine.free_memory() == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="this system cannot forget the peak")
def test_the_peak_of_memory_can_be_measured_anew() -> None:
    code = """
import numpy
from benchmarks.machine import forget_peak_memory, peak_memory
large = numpy.ones(50_000_000)
del large
before = peak_memory()
forget_peak_memory()
assert before > 400_000_000 and peak_memory() < before - 300_000_000, (before, peak_memory())
large = numpy.ones(25_000_000)
assert peak_memory() > 200_000_000
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
