"""A tiny ranker to serve."""

from pathlib import Path

import pytest
import torch

from language_models.encoder import Encoder
from rankers.checkpoint import save_pretrained
from rankers.language_ranker.point_ranker import PointRanker
from serving.reranker import Reranker


@pytest.fixture
def folder(tiny_bert: Path, tmp_path: Path) -> Path:
    """The same on disk."""
    torch.manual_seed(0)
    encoder = Encoder(model=str(tiny_bert), max_length=32)
    ranker = PointRanker(feature_dim=encoder.feature_dim)
    ranker.encoder = encoder.identity()
    return save_pretrained(ranker, tmp_path / "tiny")


@pytest.fixture
def reranker(tiny_bert: Path) -> Reranker:
    torch.manual_seed(0)
    encoder = Encoder(model=str(tiny_bert), query_prompt="the ", max_length=32)
    return Reranker(PointRanker(feature_dim=encoder.feature_dim), encoder, num_remembered=100)
