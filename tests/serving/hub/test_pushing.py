"""Every kind of ranker goes to a hub and comes back by its name; its card's code runs, its numbers are the run's."""

import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import yaml
from fake_hub import FakeHub
from safetensors.torch import load
from transformers import AutoTokenizer

from language_models.backbone import Backbone
from language_models.encoder import Encoder
from language_models.hub import Repository
from rankers.base import Ranker
from rankers.checkpoint import load_ranker, save_pretrained
from ranking.pools.pool_batch import PoolBatch
from ranking.stores.candidate_pool import CandidatePool
from registry import RANKERS, ConfigError
from serving.__main__ import main
from serving.hub import pushing
from serving.hub.pushing import push_to_hub, write_repository
from serving.hub.usage import POOL

NAME, BERT, LLAMA = "user/name", "tiny/bert", "tiny/llama"
METRICS, BY_K = ["hit@1", "mrr"], [1, 5]
_TEMPLATE = "<|embedding|> {query}"
LORA = {"rank": 2, "alpha": 2.0}
KINDS: dict[str, dict[str, Any]] = {
    "list_ranker": {"feature_dim": 32, "projection": {"name": "linear", "dim": 8}},
    "point_ranker": {"feature_dim": 16, "extra": ["num_tokens", "agreement"], "projection": None},
    "linear_probe": {"feature_dim": 16},
    "knn_probe": {"feature_dim": 16},
    "router_knn": {"feature_dim": 16},
    "router_bert": {"backbone": BERT, "models": ["a", "b"], "train": "head", "max_length": 32},
    "reward_model": {"backbone": LLAMA, "lora": LORA, "template": "plain", "max_length": 32},
    "cross_encoder": {"backbone": BERT, "train": "head", "max_length": 32},
    "sasrec": {"num_items": 20, "dim": 8},
    "bpr": {"num_items": 20, "num_users": 5, "dim": 8},
    "tiger": {"num_items": 9, "feature_dim": 16, "num_codes": 9, "dim": 8, "num_layers": 1, "hidden_dim": 8},
    "lranker": {"feature_dim": 16, "backbone": BERT, "lora": LORA, "template": _TEMPLATE, "max_length": 60},
}
LEARNT: dict[str, dict[str, torch.Tensor]] = {
    "knn_probe": {"vectors": torch.randn(7, 16), "labels": torch.rand(7)},
    "router_knn": {
        "groups": torch.arange(5),
        "queries": torch.randn(5, 16),
        "models": torch.randn(3, 16),
        **{name: torch.rand(5, 3) for name in ("labels", "performance", "cost")},
    },
    "tiger": {"codes": torch.tensor([[row, 0, 0, 0] for row in range(9)])},
}

Save = Callable[[str], Path]


@pytest.fixture
def models(tiny_bert: Path, tiny_llama: Path) -> dict[str, Path]:
    return {BERT: tiny_bert, LLAMA: tiny_llama}


@pytest.fixture
def save(models: dict[str, Path], tmp_path: Path) -> Save:
    """Save a ranker, as trained with models in folders of this machine, in a folder with a run's metrics."""

    def make(kind: str) -> Path:
        torch.manual_seed(0)
        options = dict(KINDS[kind])
        if name := options.get("backbone"):
            options["backbone"] = {"model": str(models[name]), "dtype": "float32"}
        ranker: Ranker[Any] = RANKERS.build({"name": kind, **options})
        ranker.configure_model()
        for buffer, values in LEARNT.get(kind, {}).items():
            setattr(ranker, buffer, values)
        if kind == "list_ranker":
            ranker.encoder = Encoder(model=str(models[BERT]), max_length=32, dtype="float32").identity()
        folder = save_pretrained(ranker, tmp_path / kind)
        (folder / "metrics.json").write_text(json.dumps(metrics_of(kind)))
        return folder

    return make


def metrics_of(ranker: str) -> dict[str, Any]:
    """A run's metrics.json, with numbers that are all different."""
    draw = random.Random(0)

    def interval() -> dict[str, float]:
        low, mean, high = sorted(draw.uniform(-1, 1) for _ in range(3))
        return {"mean": mean, "low": low, "high": high}

    def of(*scorers: str) -> dict[str, Any]:
        return {scorer: {metric: interval() for metric in METRICS} for scorer in scorers}

    return {
        "seed": 7,
        "monitor": "val/mrr",
        "test": {"queries": 1234, "scorers": of("first", ranker, "oracle"), "differences": of("first")},
        "val": {"queries": 567, "scorers": of("first", ranker)},
        "by_k": {
            "metric": "hit@1",
            "ks": BY_K,
            "scorers": {each: [interval() for _ in BY_K] for each in ("x", ranker)},
        },
        "scaling": {"width": 3, "depth": 2},
        "num_parameters": 99,
        "steps": 4321,
        "made_with": {"commit": "0123abc", "folder": "/home/somebody"},
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_ranker_goes_to_the_hub_and_comes_back_and_the_code_of_its_card_runs(
    kind: str,
    save: Save,
    models: dict[str, Path],
    pool: CandidatePool,
    fake_hub: FakeHub,
    monkeypatch: Any,
    capsys: Any,
) -> None:
    for name, folder in models.items():
        fake_hub.add(name, folder)
    folder, backbone = save(kind), KINDS[kind].get("backbone")
    push_to_hub(folder, NAME, backbone=backbone, encoder=BERT if kind == "list_ranker" else None)

    files = fake_hub.files(NAME)
    assert set(files) == {"config.json", "model.safetensors", "README.md", "metrics.json"}
    weights = load(files["model.safetensors"])
    assert files["model.safetensors"] == (folder / "model.safetensors").read_bytes() and weights
    # The backbone's frozen weights stay where they are.
    assert all("lora_" in weight for weight in weights if weight.startswith("backbone."))
    everything = b"".join(files.values())
    assert b"/tmp" not in everything and b"/home/somebody" not in everything
    (code,) = re.findall(r"```python\n(.*?)```", files["README.md"].decode(), re.DOTALL)
    capsys.readouterr()
    used: dict[str, Any] = {}
    with torch.no_grad():
        exec(code.replace(POOL, str(pool.path)), used)
    assert capsys.readouterr().out
    ranker = used.get("ranker") or (used.get("reranker") or used["searcher"]).ranker
    assert all(torch.equal(weight, ranker.state_dict()[name]) for name, weight in weights.items())


def test_every_number_on_a_card_is_one_of_the_metrics(save: Save) -> None:
    folder = save("sasrec")
    metrics = metrics_of("sasrec")
    card = write_repository(folder, NAME).joinpath("README.md").read_text()
    own = sum(weight.numel() for weight in load((folder / "model.safetensors").read_bytes()).values())
    results = card.partition("## Results")[2].partition("## Data")[0]
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in results.splitlines() if line[:1] == "|"]

    def shown(found: dict[str, float], form: str) -> str:
        return f"{found['mean']:{form}} ({found['low']:{form}}..{found['high']:{form}})"

    scorers, differences = metrics["test"]["scorers"], metrics["test"]["differences"]
    rows = [[f"**{name}**" if name == "sasrec" else name, *(shown(each, ".3f") for each in found.values())]
            for name, found in scorers.items()]  # fmt: skip
    rows += [["sasrec - first", *(shown(each, "+.3f") for each in differences["first"].values())]]
    by_k = [[name, *(shown(each, ".3f") for each in found)] for name, found in metrics["by_k"]["scorers"].items()]
    rule = ["---"] * 3
    assert lines == [["", *METRICS], rule, *rows, ["hit@1", "K = 1", "K = 5"], rule, *by_k]
    # Outside of tables, code and settings no other number is on it.
    prose = re.sub(r"^\|[^\n]*\n|---\n.*?---\n|```.*?```|https:\S+", "", card, flags=re.MULTILINE | re.DOTALL)
    prose = prose.replace("95 % bootstrap", "").replace("1808.09781", "").replace("Apache-2.0", "")
    found = set(re.findall(r"(?<![\w.])\d[\d,.]*\d|(?<![\w.])\d(?!\w)", prose.replace("`0123abc`", "")))
    known = ["1,234", "567", "4,321", "7", "3", "2", "50", f"{own:,}"]  # 50: the most items that SASRec reads
    assert found == set(known)


@pytest.mark.skipif(not hasattr(huggingface_hub, "EvalResultEntry"), reason="this huggingface_hub has no such entries")
def test_a_benchmark_of_the_hub_gets_the_monitored_metric_as_it_is(save: Save, fake_hub: FakeHub) -> None:
    folder, mrr = save("sasrec"), metrics_of("sasrec")["test"]["scorers"]["sasrec"]["mrr"]
    push_to_hub(folder, NAME, benchmark="other/old")
    push_to_hub(folder, NAME, benchmark="other/data:hard", licence="mit")
    files = fake_hub.files(NAME)
    assert [name for name in files if name.startswith(".eval_results")] == [".eval_results/data.yaml"]
    (entry,) = huggingface_hub.parse_eval_result_entries(yaml.safe_load(files[".eval_results/data.yaml"]))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("other/data", "hard", mrr["mean"])
    assert entry.notes == (
        f"mrr of the ranker on 1234 test queries, 95 % bootstrap interval {mrr['low']:.3f}..{mrr['high']:.3f}"
    )
    card = huggingface_hub.ModelCard(files["README.md"].decode())
    assert card.data.license == "mit" and card.data.datasets == ["other/data"] and card.data.eval_results is None
    # The first push made the repository, and each is one commit.
    assert len(fake_hub.commits[NAME]) == 3


def test_older_versions_of_the_library_find_the_result_in_the_card(save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pushing, "HAS_ENTRIES", False)
    folder = write_repository(save("sasrec"), NAME, benchmark="other/data")
    (result,) = huggingface_hub.ModelCard.load(folder / "README.md").data.eval_results
    mrr = metrics_of("sasrec")["test"]["scorers"]["sasrec"]["mrr"]["mean"]
    assert (result.dataset_type, result.metric_type, result.metric_value) == ("other/data", "mrr", mrr)
    assert not (folder / ".eval_results").exists()


def test_a_model_in_a_folder_of_this_machine_needs_a_name_on_the_hub(save: Save) -> None:
    for kind, role in (("cross_encoder", "backbone"), ("list_ranker", "encoder")):
        with pytest.raises(ConfigError, match=rf"its {role} is in the folder .*\n.*--{role} user/name"):
            write_repository(save(kind), NAME)


def test_rankers_without_weights_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save_pretrained(RANKERS.build("cosine"), tmp_path)
    assert main(["push", str(folder), NAME]) == 1
    assert "cosine has no weights of its own, so there is nothing to push" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["name", "a/b/c", "user/name@main", "/user/name", ""])
def test_what_is_no_name_of_the_hub_is_refused(name: str, save: Save) -> None:
    with pytest.raises(ConfigError, match=r"not a name of the Hugging Face hub"):
        write_repository(save("sasrec"), name)


def test_without_a_network_the_folder_is_written_and_the_command_said(
    save: Save, fake_hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save("sasrec")
    assert main(["push", str(folder), NAME, "--write-only"]) == 0
    assert f"hf upload {NAME} {folder / 'hub'} ." in capsys.readouterr().out
    fake_hub.refused = True
    assert main(["push", str(folder), NAME]) == 1
    message = capsys.readouterr().err
    assert "complete, but not pushed to user/name" in message and f"hf upload {NAME} {folder / 'hub'} ." in message
    fake_hub.server_close()
    fake_hub.shutdown()
    assert main(["push", str(folder), NAME, "--into", str(folder.parent / "mine")]) == 1
    assert "complete, but not pushed" in capsys.readouterr().err
    assert load_ranker(folder.parent / "mine").name == "sasrec"


def test_a_repository_says_what_it_lacks_and_a_folder_goes_first(
    save: Save, fake_hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        ConfigError, match=r"user/none: not a folder here, and cannot be loaded from the Hugging Face hub"
    ):
        load_ranker("user/none")
    fake_hub.commits["user/empty"] = [{"README.md": b""}]
    with pytest.raises(ConfigError, match=r"user/empty: this repository of the Hugging Face hub holds no ranker"):
        load_ranker("user/empty")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "user").mkdir()
    with pytest.raises(ConfigError, match=r"user/none: no ranker here"):
        load_ranker("user/none")
    assert Repository.named("user/name@v1.0") == Repository(NAME, "v1.0")


def test_a_repository_cannot_say_where_to_read_code(
    save: Save, fake_hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "evil.py").write_text("print('evil')")
    folder = save("sasrec")
    config = json.loads((folder / "config.json").read_text())
    del config["sha256"]
    config["imports"] = {"evil": str(tmp_path)}
    (folder / "config.json").write_text(json.dumps(config))
    fake_hub.add(NAME, folder)
    with pytest.raises(ConfigError, match="no module named 'evil'"):
        load_ranker(NAME)
    assert "evil" not in capsys.readouterr().out


def test_a_backbone_is_named_with_the_hash_of_its_weights(save: Save, models: dict[str, Path]) -> None:
    folder = write_repository(save("reward_model"), NAME, backbone=LLAMA)
    named = json.loads((folder / "config.json").read_text())["ranker"]["backbone"]
    assert named["model"] == LLAMA
    assert named["sha256"] == Backbone(model=str(models[LLAMA])).checked_hash
    metadata = huggingface_hub.ModelCard.load(folder / "README.md").data
    assert metadata.base_model == [LLAMA] or metadata.base_model == LLAMA
    assert metadata["base_model_relation"] == "adapter"


ALONE = {"aggregator": None, "normalize": True, "feature_dim": 32, "template": "find: {query}", "mixing": None}
"""Options with which an LRanker reads queries without candidates."""


@pytest.fixture
def bert(tiny_bert: Path, tmp_path: Path) -> Path:
    """The small BERT, whose tokenizer says which token ends a text, as MiniLM's does."""
    folder = shutil.copytree(tiny_bert, tmp_path / "bert")
    AutoTokenizer.from_pretrained(folder, cls_token="[CLS]", sep_token="[SEP]").save_pretrained(folder)
    return folder


@pytest.fixture
def save_lranker(bert: Path, tmp_path: Path) -> Callable[..., Path]:
    """Save an LRanker with a correction that changes something."""

    def make(**options: Any) -> Path:
        torch.manual_seed(0)
        backbone = {"model": str(bert), "dtype": "float32"}
        node = {"name": "lranker", **KINDS["lranker"], "backbone": backbone, **ALONE, **options}
        ranker = RANKERS.build(node)
        ranker.configure_model()
        for name, weight in ranker.named_parameters():
            if ".lora_B." in name:
                torch.nn.init.normal_(weight, std=0.5)
        return save_pretrained(ranker, tmp_path / "lranker")

    return make


@pytest.mark.parametrize("options", [
    {}, {"pooling": "mean", "template": "{query}"}, {"pooling": "last", "normalize": False},
], ids=str)  # fmt: skip
def test_sentence_transformers_embeds_queries_as_the_ranker_does(
    options: dict[str, Any], save_lranker: Callable[..., Path], bert: Path, fake_hub: FakeHub
) -> None:
    pytest.importorskip("sentence_transformers", minversion="6")
    fake_hub.add(BERT, bert)
    push_to_hub(save_lranker(**options), NAME, backbone=BERT)
    card = fake_hub.files(NAME)["README.md"].decode()
    _, code = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert "sentence-transformers" in huggingface_hub.ModelCard(card).data.tags
    texts, used = ["sort a list", "the value of a file to read from " * 9], {}
    exec(code.replace('["sort a list"]', repr(texts)), used)
    ranker: Any = load_ranker(NAME)
    tokens = [torch.tensor(ids) for ids in ranker.tokenize(texts)]
    assert ranker.num_cut == 1
    batch = PoolBatch(
        labels=torch.empty(2, 0),
        mask=torch.empty(2, 0, dtype=torch.bool),
        group=torch.arange(2),
        slot=torch.empty(2, 0, dtype=torch.int64),
        rows=torch.empty(0, dtype=torch.int64),
        candidates=torch.empty(0, 32),
        tokens=torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True),
        lengths=torch.tensor([len(ids) for ids in tokens]),
        partition=torch.full((2,), -1),
    )
    expected = ranker.embed_batch(batch)
    torch.testing.assert_close(torch.tensor(used["vectors"]), expected, rtol=1e-4, atol=1e-5)
    assert bert.joinpath("model.safetensors").read_bytes() not in fake_hub.files(NAME).values(), (
        "the backbone stays where it is"
    )


@pytest.mark.parametrize("options", [
    {"aggregator": "kmeans", "template": "<|embedding|> {query}"}, {"template": "find: {query} now"},
    {"feature_dim": 16}, {"template": "{query}"}, {"mixing": {"share": 0.5}},
], ids=str)  # fmt: skip
def test_where_sentence_transformers_cannot_there_are_no_files_for_it(
    options: dict[str, Any], save_lranker: Callable[..., Path], tmp_path: Path
) -> None:
    write_repository(save_lranker(), NAME, tmp_path / "hub", backbone=BERT)
    assert (tmp_path / "hub" / "adapter_config.json").is_file()
    folder = write_repository(save_lranker(**options), NAME, tmp_path / "hub", backbone=BERT)
    files = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    assert files == ["README.md", "config.json", "model.safetensors"]
    assert "peft" not in (folder / "README.md").read_text()


def test_a_backbone_that_was_trained_is_the_rankers_own(models: dict[str, Path], tmp_path: Path) -> None:
    for train, relation in (("all", "finetune"), ("head", None)):
        ranker = RANKERS.build(
            {"name": "cross_encoder", "backbone": {"model": str(models[BERT])}, "train": train, "max_length": 32}
        )
        ranker.configure_model()
        folder = write_repository(save_pretrained(ranker, tmp_path / train), NAME, backbone=BERT)
        card = huggingface_hub.ModelCard.load(folder / "README.md")
        assert card.data.get("base_model_relation") == relation
        assert ("with the whole of its trained backbone" in card.text) is (train == "all")
