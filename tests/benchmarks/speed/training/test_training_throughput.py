from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.comparison import Comparison
from benchmarks.speed.training import training_throughput
from benchmarks.speed.training.contrastive import Texts
from benchmarks.speed.training.workload import TINY
from language_models.backbone import Backbone


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("few_functions")
def test_both_trainers_read_the_same_tokens_and_train_as_many_weights(
    data: Path, tiny_bert: Path, complete: Callable[[Comparison, int], dict[str, Any]]
) -> None:
    pytest.importorskip("sentence_transformers")
    pytest.importorskip("datasets")
    texts = Texts(
        num_queries=40, max_length=64, backbone=Backbone(model=str(tiny_bert)), template="{query} <|embedding|>"
    )
    results = complete(training_throughput.measure(data, TINY, repeats=1, texts=texts, apart=False), 1)
    assert results["tokens"]["LRanker"]["read"] == results["tokens"]["sentence-transformers"]["read"]
    assert results["tokens"]["LRanker, cached"]["read"] < results["tokens"]["LRanker"]["read"]
    assert results["weights_trained_in_the_backbone"] > 0
