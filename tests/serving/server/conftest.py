"""Tiny rankers to serve."""

from pathlib import Path

import pytest
import torch
from pools import DIM

from language_models.backbone import Backbone
from language_models.encoder import Encoder
from rankers.checkpoint import save_pretrained
from rankers.language_ranker.point_ranker import PointRanker
from rankers.lranker.lranker import LRanker
from ranking.stores.candidate_pool import CandidatePool
from serving.reranker import Reranker
from serving.searcher import Searcher


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


@pytest.fixture
def searcher(tiny_bert: Path, pool: CandidatePool) -> Searcher:
    torch.manual_seed(0)
    options = {"template": "the value of {query} <|embedding|> key", "max_length": 64}
    backbone = Backbone(model=str(tiny_bert), dtype="float32")
    ranker = LRanker(DIM, backbone, aggregator={"name": "kmeans", "num_centroids": 4}, **options)
    ranker.configure_model()
    return Searcher(ranker, pool)
