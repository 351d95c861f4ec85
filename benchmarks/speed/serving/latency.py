"""Latency: one query's candidates scored by PyTorch, by ONNX Runtime, and by NumPy alone."""

import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from benchmarks.comparison import Comparison, Ratio, in_turns, seconds_of
from benchmarks.speed.training.workload import MBPP, TINY, Workload
from rankers.checkpoint import save_pretrained
from rankers.language_ranker.list_ranker import ListRanker
from serving.exporting import Vectors, export_onnx
from serving.numpy_ranker import NumpyRanker

_SIZES, _TIMES = (10, 100), 100


def measure(data: Path, workload: Workload = MBPP, repeats: int = 5) -> Comparison:
    """Score one query a hundred times in each way, for 10 and for 100 candidates.

    Args:
        data: Unused.
        workload: The size of the vectors.
        repeats: How often each way runs.

    Raises:
        ConfigError: If the packages of the extra `onnx` are missing.
        AssertionError: If the ways give different scores.
    """
    torch.manual_seed(0)
    ranker = ListRanker(workload.feature_dim).eval()
    ways, works, ratios = {}, {}, []
    times = 2 if workload == TINY else _TIMES
    with TemporaryDirectory() as folder:
        export_onnx(ranker, Path(folder) / "ranker.onnx")
        onnxruntime: Any = importlib.import_module("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(str(Path(folder) / "ranker.onnx"), options)
        runner = NumpyRanker(save_pretrained(ranker, Path(folder) / "saved"))
    vectors = Vectors(ranker)
    for k in _SIZES:
        query, candidates = torch.randn(1, workload.feature_dim), torch.randn(1, k, workload.feature_dim)
        mask = torch.ones(1, k, dtype=torch.bool)
        arrays = {"query": query.numpy(), "candidates": candidates.numpy(), "mask": mask.numpy()}
        calls: dict[str, Callable[[], Any]] = {
            f"torch, K = {k}": partial(torch.inference_mode()(vectors), query, candidates, mask),
            f"onnxruntime, K = {k}": partial(session.run, ["scores"], arrays),
            f"numpy, K = {k}": partial(runner.score, **arrays),
        }
        torch_scores, onnx_scores, numpy_scores = (np.asarray(call()).reshape(1, k) for call in calls.values())
        np.testing.assert_allclose(onnx_scores, torch_scores, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(numpy_scores, torch_scores, rtol=1e-4, atol=1e-5)
        works |= {name: partial(_often, call, times) for name, call in calls.items()}
        ways |= {name: f"{times} times one query, {name.partition(',')[0]}" for name in calls}
        ratios += [Ratio(f"{way}, K = {k}", f"torch, K = {k}") for way in ("onnxruntime", "numpy")]
    found = in_turns({name: partial(seconds_of, work) for name, work in works.items()}, repeats)
    facts: dict[str, Any] = {"ranker": "list_ranker, float32", "feature_dim": workload.feature_dim}
    facts["milliseconds a query"] = {name: 1000 * min(seconds) / times for name, seconds in found.items()}
    return Comparison("latency", "how long does one query take without PyTorch?", ways, found, ratios, facts)


def _often(call: Callable[[], Any], times: int) -> None:
    for _ in range(times):
        call()
