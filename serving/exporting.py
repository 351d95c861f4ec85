"""Exporting: writes a ListRanker or PointRanker as an ONNX file, which runs without PyTorch."""

import copy
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rankers.base import Ranker
from rankers.language_ranker.list_ranker import ListRanker
from rankers.language_ranker.point_ranker import PointRanker
from ranking.batch import FeatureBatch
from ranking.stores.files import make_folder, write_file
from registry import ConfigError

_SIZES = ((1, 1), (1, 2), (3, 10), (2, 100))
"""The numbers of queries and candidates that every exported file is tried with."""
_TOLERANCE = 1e-4
_TORCH = (2, 10)
"""The lowest version whose exporter keeps the number of candidates open."""


class Vectors(nn.Module):
    """A ranker as a function of plain tensors.

    Args:
        ranker: A ranker of vectors.
    """

    def __init__(self, ranker: Ranker[FeatureBatch]) -> None:
        super().__init__()
        self.ranker = ranker

    def forward(
        self, query: Float[Tensor, "B D"], candidates: Float[Tensor, "B K D"], mask: Bool[Tensor, "B K"]
    ) -> Float[Tensor, "B K"]:
        """Score K candidates for each of B queries; scores where the mask is False mean nothing."""
        num_queries, num_candidates = mask.shape
        rows = torch.arange(num_queries * num_candidates, device=mask.device)
        batch = FeatureBatch(
            labels=torch.zeros_like(mask, dtype=query.dtype),
            mask=mask,
            group=torch.arange(num_queries, device=mask.device),
            slot=torch.zeros_like(mask, dtype=torch.int64),
            unique_queries=query,
            unique_candidates=candidates.flatten(0, 1),
            query_index=torch.arange(num_queries, device=mask.device),
            candidate_index=rows.unflatten(0, (num_queries, num_candidates)),
        )
        return self.ranker(batch)


def export_onnx(ranker: Ranker[Any], path: str | Path) -> float:
    """Write a ranker as ONNX, and compare the file's scores with the ranker's.

    The file has the inputs `query` [batch, feature_dim], `candidates` [batch, k, feature_dim] and `mask` [batch, k],
    True where a candidate exists, and the output `scores` [batch, k]; batch and k can be any numbers. Its metadata
    holds the ranker's options and encoder.

    Args:
        ranker: A ListRanker or PointRanker. What is exported is a copy in float32, without dropout.
        path: The file; an existing one is replaced in one step.

    Returns:
        The largest difference between a score of the file and the ranker's, relative to the largest score.

    Raises:
        ValueError: If it is another ranker, one with `extra` inputs, or one with weights that are not finite.
        ConfigError: If the packages of the extra `onnx` are missing, the file cannot be written, or its scores differ.
    """
    if type(ranker) not in (ListRanker, PointRanker):
        raise ValueError(f"only list_ranker and point_ranker can be exported, not {ranker.name}")
    if ranker.extra:
        raise ValueError(f"a ranker that also reads {', '.join(ranker.extra)} of each response cannot be exported")
    if broken := [name for name, weight in ranker.state_dict().items() if not torch.isfinite(weight).all()]:
        raise ValueError(f"a ranker whose weights are not finite cannot be exported: {broken[0]}")
    _check_packages()
    path = Path(path)
    make_folder(path.parent, "choose a folder that you may write to")
    # Neither Lightning nor the exporter turns dropout off.
    vectors = Vectors(copy.deepcopy(ranker).cpu().float()).eval()
    feature_dim: int = ranker.description()["ranker"]["feature_dim"]
    content = _exported(vectors, ranker, feature_dim)
    difference = _difference(vectors, content, feature_dim)
    if not difference <= _TOLERANCE:
        problem = f"the exported scores differ by {difference:.2g} of the largest score, so nothing was written."
        raise ConfigError(str(path), problem, cure="report it with the ranker's config, or use serving.numpy_ranker")
    write_file(path, content, cure="make room or choose another file")
    return difference


def _exported(vectors: Vectors, ranker: Ranker[Any], feature_dim: int) -> bytes:
    batch, k = torch.export.Dim("batch"), torch.export.Dim("k")
    arguments = _random(2, 3, feature_dim)
    with _quiet():
        program: Any = torch.onnx.export(
            vectors,
            arguments,
            dynamo=True,
            verbose=False,
            input_names=["query", "candidates", "mask"],
            output_names=["scores"],
            dynamic_shapes=({0: batch}, {0: batch, 1: k}, {0: batch, 1: k}),
        )
    program.model.metadata_props["ranker"] = json.dumps(ranker.description(), ensure_ascii=False)
    return program.model_proto.SerializeToString()


def _difference(vectors: Vectors, content: bytes, feature_dim: int) -> float:
    session = import_module("onnxruntime").InferenceSession(content, providers=["CPUExecutionProvider"])
    differences = []
    for sizes in _SIZES:
        query, candidates, mask = _random(*sizes, feature_dim)
        inputs = {"query": query.numpy(), "candidates": candidates.numpy(), "mask": mask.numpy()}
        found = torch.from_numpy(session.run(["scores"], inputs)[0])[mask]
        with torch.inference_mode():
            expected = vectors(query, candidates, mask)[mask]
        differences.append((found - expected).abs().max() / expected.abs().max().clamp(min=1e-3))
    return float(torch.stack(differences).max())  # nan if one of them is


def _random(num_queries: int, num_candidates: int, feature_dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Vectors, and a mask that leaves out every fourth candidate, but no group's first."""
    draw = torch.Generator().manual_seed(0)
    query = torch.randn(num_queries, feature_dim, generator=draw)
    candidates = torch.randn(num_queries, num_candidates, feature_dim, generator=draw)
    mask = (torch.arange(num_candidates) % 4 != 3).repeat(num_queries, 1)
    return query, candidates, mask


def _check_packages() -> None:
    if missing := [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]:
        cure = 'pip install -c constraints.txt -e ".[onnx]"'
        raise ConfigError("export", f"{missing[0]} is not installed.", cure=cure)
    found = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if found < _TORCH:
        needed, here = (".".join(map(str, each)) for each in (_TORCH, found))
        problem = f"the exporter of torch {here} fixes the number of candidates."
        raise ConfigError("export", problem, cure=f'pip install "torch>={needed}", or use serving.numpy_ranker')


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide what the exporter says about itself: that torchvision is missing, and how it names equal sizes."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "# The axis name", UserWarning)
            warnings.filterwarnings("ignore", ".*LeafSpec.*", FutureWarning)
            yield
    finally:
        logger.setLevel(level)
