import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

import train
from language_models.backbone import Backbone
from language_models.encoder import Encoder
from rankers.checkpoint import load_ranker, save_pretrained
from rankers.language_ranker.list_ranker import ListRanker
from rankers.language_ranker.point_ranker import PointRanker
from rankers.text.cross_encoder import CrossEncoder
from registry import ConfigError
from serving.reranker import Reranker

DOCUMENTS = ["open the file", "sort a list", "return the value of a key", "write to a file", "read the key"]


@pytest.fixture
def encoder(tiny_bert: Path) -> Encoder:
    return Encoder(model=str(tiny_bert), query_prompt="the ", max_length=32)


def untrained(encoder: Encoder, kind: type = PointRanker, **options: object) -> Reranker:
    torch.manual_seed(0)
    ranker = kind(feature_dim=encoder.feature_dim, **options)
    return Reranker(ranker, encoder)


def test_a_ranker_that_changes_nothing_ranks_by_the_cosine_of_its_encoder(encoder: Encoder) -> None:
    reranker = untrained(encoder, projection=None, num_blocks=0)
    query = encoder.encode(["sort the file"], prompt=encoder.query_prompt).double()
    candidates = encoder.encode(DOCUMENTS).double()
    cosine = (candidates @ query[0]) / candidates.norm(dim=1) / query.norm()

    ranked = reranker.rank("sort the file", DOCUMENTS)

    assert [document.index for document in ranked] == cosine.argsort(descending=True).tolist()
    assert [document.score for document in ranked] == pytest.approx(
        cosine.sort(descending=True).values.tolist(), abs=1e-5
    )
    assert all(document.text == DOCUMENTS[document.index] for document in ranked)


@pytest.mark.parametrize("kind", [ListRanker, PointRanker])
def test_it_comes_back_from_disk_with_its_encoder_and_the_same_scores(
    encoder: Encoder, tmp_path: Path, kind: type
) -> None:
    reranker = untrained(encoder, kind)
    reranker.ranker.encoder = encoder.identity()
    folder = reranker.save_pretrained(tmp_path / "saved")

    again = Reranker.from_pretrained(folder)

    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}
    assert again.rank("open", DOCUMENTS) == reranker.rank("open", DOCUMENTS)
    assert again.encoder is not None and again.encoder.identity() == encoder.identity()
    assert type(load_ranker(folder)) is kind


def test_top_k_cuts_and_no_documents_give_none(encoder: Encoder) -> None:
    reranker = untrained(encoder)
    assert reranker.rank("open", DOCUMENTS, top_k=2) == reranker.rank("open", DOCUMENTS)[:2]
    assert len(reranker.rank("open", DOCUMENTS, top_k=50)) == 5
    assert reranker.rank("open", []) == []
    for top_k in (0, 2.5, "3"):
        with pytest.raises(ValueError, match=f"top_k has to be a whole number of 1 or more, got {top_k!r}"):
            reranker.rank("open", DOCUMENTS, top_k=top_k)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="empty"):
        reranker.rank("open", ["", "sort"])


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ("abc", "documents is one text, 'abc', and has to be a list of texts"),
        (b"abc", "documents is one text"),
        ({"abc": 1}, "documents is a dict, and has to be a list"),
        ({"abc"}, "documents is a set, and has to be a list"),
        (iter(["abc"]), "documents is a list_iterator, and has to be a list"),
        (["abc", 1], r"documents\[1\] is a int, and has to be a text"),
        ([["abc"]], r"documents\[0\] is a list, and has to be a text"),
        (None, "documents is a NoneType"),
    ],
)
def test_what_is_no_list_of_documents_is_refused(encoder: Encoder, documents: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        untrained(encoder).rank("open", documents)


def test_a_text_is_no_list_of_texts_for_an_encoder_either(encoder: Encoder) -> None:
    with pytest.raises(ValueError, match="texts is one text, 'open', and has to be a list of texts"):
        encoder.encode("open")


def test_a_folder_that_a_reranker_cannot_be_saved_to_is_named(encoder: Encoder, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file/mine: cannot be created or written to: Not a directory"):
        untrained(encoder).save_pretrained(tmp_path / "file" / "mine")


def test_a_ranker_of_ready_made_features_says_that_it_cannot_read_texts(tmp_path: Path) -> None:
    save_pretrained(PointRanker(feature_dim=8), tmp_path)
    with pytest.raises(ValueError, match="no encoder made the features"):
        Reranker.from_pretrained(tmp_path)
    assert load_ranker(tmp_path).encoder is None


def test_a_reward_model_ranks_texts_with_the_scores_of_its_training(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RANKERS_RUN_DIR", raising=False)
    lines = [
        {
            "query_id": f"q{number}",
            "query": f"sort {number}",
            "candidates": [{"id": str(k), "text": text, "label": k == number % 5} for k, text in enumerate(DOCUMENTS)],
        }
        for number in range(40)
    ]
    (tmp_path / "groups.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    overrides = [
        "features.source.path=groups.jsonl",
        f"ranker.backbone={{model: {tiny_llama}}}",
        "ranker.template=plain",
        "ranker.max_length=64",
        "trainer.accelerator=cpu",
        "trainer.precision=32-true",
        "trainer.enable_progress_bar=false",
    ]
    assert train.main(["--config", "reward_model_jsonl.yaml", *overrides]) == 0, capsys.readouterr().err
    (folder,) = (tmp_path / "runs" / "reward_model_jsonl").iterdir()

    reranker = Reranker.from_pretrained(folder)

    tested = [line.split() for line in (folder / "run.trec").read_text().splitlines()]
    query = tested[0][0]
    expected = {int(line[2]): float(line[4]) for line in tested if line[0] == query}
    ranked = reranker.rank(f"sort {query.removeprefix('q')}", DOCUMENTS)
    assert [document.score for document in ranked] == sorted((document.score for document in ranked), reverse=True)
    assert {document.index: document.score for document in ranked} == pytest.approx(expected, abs=2e-6)
    assert Reranker.from_pretrained(reranker.save_pretrained(tmp_path / "saved")).rank("a", ["b", ""]) == (
        reranker.rank("a", ["b", ""])
    )
    with pytest.raises(ValueError, match="its query is a text, not a chat"):
        reranker.rank([{"role": "user", "content": "sort"}], DOCUMENTS)
    with pytest.raises(ValueError, match="the query is empty"):
        reranker.rank("", DOCUMENTS)


def test_a_ready_made_cross_encoder_ranks_texts_without_a_run(tiny_bert: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(tiny_bert, num_labels=1)
    plain = AutoModelForSequenceClassification.from_config(config).eval()
    plain.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    tokenizer.save_pretrained(tmp_path)
    backbone = Backbone(model=str(tmp_path), dtype="float32")

    ranked = Reranker(CrossEncoder(backbone, max_length=64, head="pretrained", train="nothing")).rank("sort", DOCUMENTS)

    with torch.no_grad():
        expected = [plain(**tokenizer("sort", text, return_tensors="pt")).logits.item() for text in DOCUMENTS]
    assert [document.score for document in ranked] == pytest.approx(sorted(expected, reverse=True), abs=2e-5)
    assert all(expected[document.index] == pytest.approx(document.score, abs=2e-5) for document in ranked)


def test_a_ranker_of_features_without_an_encoder_is_refused() -> None:
    with pytest.raises(ValueError, match="point_ranker does not read texts itself: give the encoder"):
        Reranker(PointRanker(feature_dim=8))


def test_texts_go_in_and_a_reranker_comes_out_by_one_config(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RANKERS_RUN_DIR", raising=False)
    lines = [
        {
            "query_id": f"q{number}",
            "query": f"sort {number}",
            "candidates": [
                {"id": str(k), "text": f"{text} {number}", "label": k == number % 5} for k, text in enumerate(DOCUMENTS)
            ],
        }
        for number in range(60)
    ]
    (tmp_path / "groups.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    overrides = [
        "features.source.path=groups.jsonl",
        f"features.encoder={{model: {tiny_bert}, package: null, max_length: 64}}",
        "trainer.max_epochs=1",
        "trainer.accelerator=cpu",
        "trainer.enable_progress_bar=false",
    ]

    assert train.main(["--config", "list_ranker_jsonl.yaml", *overrides]) == 0, capsys.readouterr().err

    (folder,) = (tmp_path / "runs" / "list_ranker_jsonl").iterdir()
    ranked = Reranker.from_pretrained(folder).rank("sort 3", DOCUMENTS, top_k=3)
    assert len(ranked) == 3 and ranked[0].score >= ranked[2].score
