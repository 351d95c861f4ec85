"""ONNX is exported in a process of its own, where nothing checks the shapes of tensors."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from serving import exporting


@pytest.mark.slow
def test_every_way_gives_the_same_scores(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    if tuple(map(int, torch.__version__.split(".")[:2])) < exporting._TORCH:
        pytest.skip("this version of torch cannot export")
    command = ["-m", "benchmarks", "latency", "--tiny", "--repeats", "2", "--results", str(tmp_path)]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "latency.json").read_text())
    assert len(results["ways"]) == 6 and all(len(way["seconds"]) == 2 for way in results["ways"].values())
