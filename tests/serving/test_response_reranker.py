"""A ranker of responses, trained on a store of hidden states, ranks texts with the same model."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import seed_everything

import train
from features.extractors.responses import ResponsesExtractor
from language_models.language_model import LanguageModel
from ranking.batch import FeatureBatch
from ranking.stores.group_store import GroupStore
from serving.reranker import Asked, Reranker

RESPONSES = ["sort a list", "open the file", "read the value", "the value of a key", "list"]


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "responses.jsonl"
    records: list[dict[str, Any]] = [
        {
            "query_id": f"q{number}",
            "query": f"sort {number}",
            "candidates": [
                {"id": str(k), "text": f"{text} {number}", "label": k == number % 5} for k, text in enumerate(RESPONSES)
            ],
        }
        for number in range(40)
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.mark.parametrize(("ranker", "depths"), [("list_ranker", [0.5]), ("depth_mean", [1.0, 0.5])])
def test_texts_get_the_scores_that_their_stored_states_get(
    ranker: str,
    depths: list[float],
    lines: Path,
    tiny_llama: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RANKERS_RUN_DIR", raising=False)
    model = {"name": "recorded", "model": str(tiny_llama), "template": "plain", "depths": [0.5, 1.0]}
    source = {"name": "problems", "path": str(lines)}
    store = ResponsesExtractor(source, model, {"name": "given_label"}, path="store", dtype="float32").run()
    config = {
        "ranker": {"name": ranker},
        "datamodule": {"name": "grouped_features", "path": str(store), "depth": depths},
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False},
    }
    (tmp_path / "run.yaml").write_text(json.dumps(config))
    assert train.main(["--config", "run.yaml"]) == 0, capsys.readouterr().err
    (folder,) = (tmp_path / "runs" / "run").iterdir()

    reranker = Reranker.from_pretrained(folder)
    ranked = reranker.rank("sort 3", [f"{text} 3" for text in RESPONSES])

    assert isinstance(reranker.encoder, LanguageModel) and reranker.encoder.depths == depths
    assert sorted(each.index for each in ranked) == list(range(5)) and ranked[0].score >= ranked[-1].score
    opened = GroupStore.open(store)
    group = [opened.query_id(number) for number in range(40)].index("q3")
    rows = torch.arange(int(opened.offsets[group]), int(opened.offsets[group + 1]))
    places = [opened.depths.index(depth) for depth in depths]
    states = torch.cat([opened.candidate_features(rows, place) for place in places], dim=1)
    query = torch.cat([opened.query_features(torch.tensor([group]), place) for place in places], dim=1)
    (found,) = reranker.batches([Asked("sort 3", [f"{text} 3" for text in RESPONSES])])
    assert isinstance(found, FeatureBatch)
    torch.testing.assert_close(found.unique_queries, query, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.unique_candidates, states, atol=1e-5, rtol=1e-4)
    chat = reranker.rank([{"role": "user", "content": "sort 3"}], [f"{text} 3" for text in RESPONSES])
    assert chat == ranked


def test_a_response_that_cannot_be_read_is_told(tiny_llama: Path) -> None:
    from rankers.language_ranker.point_ranker import PointRanker

    seed_everything(0, verbose=False)
    model = LanguageModel(model=str(tiny_llama), template="plain", depths=[0.5])
    reranker = Reranker(PointRanker(feature_dim=32), model)
    with pytest.raises(ValueError, match="1 of 2 responses are too long with their prompt"):
        reranker.rank("sort", ["list", "file " * 300])
    with pytest.raises(ValueError, match="prompt too long"):
        reranker.rank("sort " * 300, ["list"])
