import os
import subprocess
import sys

import pytest

from benchmarks import machine


def test_the_machine_is_described_and_measured() -> None:
    assert machine.describe()["cores"] >= 1
    assert machine.multiplications_per_second(64) > 0
    assert machine.bytes_per_second(1 << 10) > 0


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
