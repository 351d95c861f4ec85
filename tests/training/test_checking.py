"""What a run's schema cannot see is refused before anything is built or written, and by `--check`."""

import functools
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import train
from rankers.language_ranker.list_ranker import ListRanker
from ranking.stores.group_store import GroupStore
from ranking.stores.group_store_writer import GroupStoreWriter
from registry import CALLBACKS, EXTRACTORS, RANKERS
from training.checking import _ANY_FACTS

STAND_IN = _ANY_FACTS["feature_dim"]
MONITORS = {"val/mrr": "max", "train/loss": "min"}


@pytest.fixture
def refused(
    run_config: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Try overrides with and without `--check`; the one message that both end in."""
    monkeypatch.chdir(tmp_path)

    def run(*overrides: str, store: bool = True) -> str:
        path, messages = run_config(), []
        if not store:
            path.write_text("".join(line for line in path.read_text().splitlines(True) if "path:" not in line))
        before = sorted(tmp_path.rglob("*"))
        for flags in (["--check"], []):
            assert train.main(["--config", str(path), *flags, *overrides]) == 1
            messages.append(capsys.readouterr().err)
            assert sorted(tmp_path.rglob("*")) == before
        assert messages[0] == messages[1]
        return messages[0].removeprefix("run.yaml: ")

    return run


@pytest.mark.parametrize(("option", "message"), [
    ("val_check_interval=0", "expected int from 1 to 1,000,000 | float above 0 and at most 1 | null, got 0."),
    ("val_check_interval=1000", "1000 is more than the 3 batches of an epoch.\n  What to do:   3 at most"),
    ("check_val_every_n_epoch=0", "expected int from 1 to 1,000,000, got 0."),
    ("limit_test_batches=0.001", "0.001 of 1 batches is less than one."),
    ("limit_val_batches=0.5", "0.5 of 1 batches is less than one.\n  What to do:   at least 1, or a whole number"),
    ("limit_train_batches=0.1", "0.1 of 3 batches is less than one.\n  What to do:   at least 0.34, or a whole number"),
    ("enable_checkpointing=false", "is set by the run itself."),
    ("gradient_clip_val=.nan", ".nan is not a number."),
    ("gradient_clip_val=-1", "expected float from 0 to 1,000,000, got -1."),
    ("overfit_batches=1", "is not an option of these runs.\n  What to do:   groups are drawn anew each epoch"),
    ("fast_dev_run=true", "is not an option of these runs."),
    ("barebones=true", "is not an option of these runs."),
    ("strategy=ddp_spawn", "ddp_spawn keeps the results from the run.\n  What to do:   ddp"),
    ("max_epochs=-1", "no end of training is set.\n  What to do:   set max_epochs or max_steps"),
    ("max_steps=-2", "expected int from -1 to 2,147,483,647, got -2."),
    ("min_epochs=-1", "expected int from 0 to 1,000,000, got -1."),
    ("num_sanity_val_steps=-7", "expected int from -1 to 1,000,000, got -7."),
    ("reload_dataloaders_every_n_epochs=-1", "expected int from 0 to 1,000,000, got -1."),
])  # fmt: skip
def test_an_option_of_the_trainer_that_could_only_fail_later_is_refused(
    option: str, message: str, refused: Callable[..., str]
) -> None:
    found = refused(f"trainer.{option}")
    assert found.startswith(f"trainer.{option.partition('=')[0]}: {message}")


def test_shares_that_are_no_whole_are_refused_before_the_store_is_built(refused: Callable[..., str]) -> None:
    features = "features={name: embedding, source: {name: jsonl, path: g.jsonl}, encoder: null}"
    for shares in ("[0, 0, 0]", "[0.9, 0.9, 0.9]"):
        found = refused(features, f"datamodule.split_shares={shares}", store=False)
        assert found.startswith("datamodule.split_shares: expected three shares of 0 or more whose sum is 1")


def test_a_reference_with_weights_is_refused(refused: Callable[..., str]) -> None:
    found = refused("references=[first, list_ranker]")
    assert found.startswith("references[1]: list_ranker has weights that would have to be trained.")


OWN = """
from registry import LOSSES, METRICS

@LOSSES.register("raises")
def raises(scores, labels, mask, /):
    return scores[99]

@LOSSES.register("lists")
def lists(scores, labels, mask, /):
    return [1.0]

@METRICS.register("sums")
def sums(above, tied, labels, relevant, /):
    return above.sum()
"""


@pytest.mark.usefixtures("outside")
def test_a_loss_or_metric_of_the_user_that_returns_something_else_is_named(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    (tmp_path / "own_functions.py").write_text(OWN)
    own = "imports=[own_functions]"
    assert refused(own, "ranker.loss=raises").startswith(
        f"ranker.loss: {tmp_path / 'own_functions.py'}, line 6: IndexError: index 99 is out of bounds"
    )
    expected = "ranker.loss: it returns a list for one query, expected a tensor of shape ()."
    assert refused(own, "ranker.loss=lists").startswith(expected)
    expected = "ranker.metrics[0]: it returns a tensor of shape () for one query, expected a tensor of shape (1,)."
    assert refused(own, "ranker.metrics=[sums]", "monitor=val/sums").startswith(expected)


def test_stopping_twice_by_the_same_metric_is_refused(refused: Callable[..., str]) -> None:
    found = refused("callbacks=[early_stopping, {name: early_stopping, patience: 9}]")
    assert found.startswith("callbacks[1]: does the same as callbacks[0]")


def test_early_stopping_waits_for_a_lower_loss_and_a_higher_metric() -> None:
    modes = {monitor: CALLBACKS.build({"name": "early_stopping", "monitor": monitor}).mode for monitor in MONITORS}  # type: ignore[attr-defined]
    assert modes == MONITORS


def test_a_ranker_of_groups_over_a_pool_is_refused(refused: Callable[..., str]) -> None:
    found = refused("datamodule={name: partitioned_candidates}")
    assert found.startswith(
        "datamodule.name: partitioned_candidates reads a pool that all queries share; list_ranker ranks groups"
        " of vectors.\n  What to do:   use grouped_features, or another ranker"
    )


def test_a_ranker_over_a_pool_is_refused_where_there_are_groups(refused: Callable[..., str]) -> None:
    assert refused("ranker={name: lranker}", "monitor=val/mrr").startswith(
        "datamodule.name: grouped_features reads groups of vectors; lranker ranks a pool"
    )


@pytest.fixture
def late(tiny_bert: Path, tmp_path: Path, refused: Callable[..., str]) -> Callable[..., str]:
    """What a run over a pool still to be embedded is refused for."""
    (tmp_path / "pool.tsv").write_text("".join(f"c{number}\tsort a list\n" for number in range(40)))
    (tmp_path / "queries.tsv").write_text("".join(f"q{number}\topen the file\n" for number in range(20)))
    (tmp_path / "qrels.txt").write_text("".join(f"q{number} 0 c{number} 1\n" for number in range(20)))
    source = {"name": "pool_files", "candidates": "pool.tsv", "queries": "queries.tsv", "qrels": "qrels.txt"}
    encoder = {"model": str(tiny_bert), "max_length": 32}
    backbone = f"{{model: {tiny_bert}}}"
    ranker = f"{{name: lranker, backbone: {backbone}, template: context_first, max_length: 48, scaling: null}}"
    features = {"name": "candidate_pool", "encoder": encoder, "source": source}

    def run(*overrides: str, before: Callable[[], Any] = lambda: None) -> str:
        before()
        node = f"features={json.dumps(features)}"
        return refused(f"ranker={ranker}", node, "datamodule={name: partitioned_candidates}", *overrides)

    return run


@pytest.mark.parametrize(("override", "message"), [
    ("ranker.max_length=640", "ranker.max_length: 640 is more than the 64 tokens of "),
    ("ranker.max_length=4", "ranker.max_length: 4 leaves no place for a query: the prompt alone has "),
    ("ranker.lora={targets: [q_prj]}", "ranker.lora.targets: the backbone's blocks have no linear layer 'q_prj'."),
    ("ranker.backbone.sha256=abc", "ranker.backbone.sha256: the weights in "),
    ("features.encoder.max_length=65", "features.encoder.max_length: 65 is more than the 64 tokens of "),
    ("ranker.backbone.model=/nowhere/bert", "ranker.backbone.model: no such folder: /nowhere/bert."),
    ("features.encoder.model=../nowhere", "features.encoder.model: no such folder: ../nowhere."),
    ("ranker.template=no place", "ranker.template: 'no place' is no template's name"),
])  # fmt: skip
def test_what_a_backbone_cannot_do_is_known_before_anything_is_embedded(
    override: str, message: str, late: Callable[..., str]
) -> None:
    assert late(override).startswith(message)


@pytest.mark.parametrize("content", [b"", b"\n\n", b'{"query": "a", "candidates": [{"text": "caf\xe9"}]}\n', b'{"quer'])
def test_a_file_without_a_line_that_can_be_read_is_refused(
    content: bytes, tmp_path: Path, refused: Callable[..., str]
) -> None:
    (tmp_path / "groups.jsonl").write_bytes(content)
    features = "features={name: embedding, encoder: null, source: {name: jsonl, path: groups.jsonl}}"
    assert "groups.jsonl" in refused(features, store=False)


@pytest.mark.parametrize(("name", "content", "message"), [
    ("qrels.txt", b"", "has a relevant candidate"),
    ("queries.tsv", b"", "has no queries."),
    ("queries.tsv", b"q0\ta query\n" + b"q1\ta query\n" * 9 + b"q2", "has 1 fields separated by tabs"),
    ("pool.tsv", b"c0\ttext\nc1\tcaf\xe9\n", "not UTF-8: byte 0xe9"),
    ("pool.tsv", b"c0\ttext\nc1\ttext\nc0\ttext\n", "another candidate has the id 'c0'"),
])  # fmt: skip
def test_what_is_wrong_further_down_in_a_file_is_found(
    name: str, content: bytes, message: str, late: Callable[..., str], tmp_path: Path
) -> None:
    assert message in late(before=lambda: (tmp_path / name).write_bytes(content))


@pytest.mark.parametrize("content", [b'{"query": "a", "cand', b"caf\xe9\n"])
def test_of_large_files_the_last_line_is_looked_at_and_what_was_not_read_is_said(
    content: bytes,
    run_config: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    candidates = [{"id": name, "text": name, "label": 1, "feature": [1]} for name in "ab"]
    row = {"query_id": "q", "query": "a", "feature": [1], "candidates": candidates}
    path, data = run_config(), tmp_path / "groups.jsonl"
    features = {"name": "embedding", "encoder": None, "source": {"name": "jsonl", "path": str(data)}}
    text = "".join(line for line in path.read_text().splitlines(True) if "path:" not in line)
    path.write_text(f"{text}features: {json.dumps(features)}\n")
    data.write_text(json.dumps(row) + "\n" + "no JSON\n" + json.dumps(row) + "\n")
    monkeypatch.setattr("training.checking._READ_WHOLE", 10)
    assert train.main(["--config", str(path), "--check"]) == 0
    assert "of the data (0 MB) only the first record and the last line of each file" in capsys.readouterr().out
    data.write_bytes(data.read_bytes() + content)
    assert train.main(["--config", str(path), "--check"]) == 1
    assert "groups.jsonl, last line: not " in capsys.readouterr().err
    zipped = tmp_path / "zipped.jsonl.gz"
    zipped.write_bytes(gzip.compress(data.read_bytes()))
    path.write_text(path.read_text().replace(data.name, zipped.name))
    assert train.main(["--config", str(path), "--check"]) == 0
    assert "; of zipped.jsonl.gz not even the last line" in capsys.readouterr().out


def test_a_store_that_was_made_with_other_settings_is_refused(tmp_path: Path, refused: Callable[..., str]) -> None:
    candidates = [
        {"id": name, "text": name, "feature": [1.0, float(name == "a")], "label": int(name == "a")} for name in "ab"
    ]
    rows = [{"query_id": f"q{row}", "query": "a", "feature": [1.0, 2.0], "candidates": candidates} for row in range(9)]
    (tmp_path / "groups.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"name": "jsonl", "path": "groups.jsonl"}
    features = {"name": "embedding", "encoder": None, "source": source, "path": "store"}
    EXTRACTORS.build(features).run()
    changed = f"features={json.dumps(features | {'chunk_size': 7})}"
    assert refused(changed, store=False).startswith("store: made with another chunk_size: 1024, now 7.")


def test_a_folder_of_runs_that_cannot_be_made_is_refused(refused: Callable[..., str]) -> None:
    assert refused("runs=/proc/x").startswith("runs: no folder can be made in /proc: ")


def test_a_ranker_is_built_once_and_tried_once_more_where_its_features_are_still_to_be_built(
    run_config: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidates = [{"id": name, "text": name, "feature": [1, 2], "label": int(name == "a")} for name in "ab"]
    rows = [{"query_id": f"{row}", "query": f"{row}", "feature": [1, 2], "candidates": candidates} for row in range(60)]
    (tmp_path / "groups.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"name": "jsonl", "path": str(tmp_path / "groups.jsonl")}
    config = run_config()
    config.write_text("".join(line for line in config.read_text().splitlines(True) if "path:" not in line))
    features = f"features={json.dumps({'name': 'embedding', 'encoder': None, 'source': source, 'path': 'built'})}"
    monkeypatch.chdir(tmp_path)
    seen: list[Any] = []
    init, check = ListRanker.__init__, RANKERS.check

    def built(self: ListRanker, feature_dim: int, **options: Any) -> None:
        seen.append(feature_dim)
        init(self, feature_dim, **options)

    def bound(node: Any, path: str = "") -> dict[str, Any]:
        seen.extend(["bound"] if path == "ranker" else [])
        return check(node, path)

    monkeypatch.setattr(ListRanker, "__init__", functools.wraps(init)(built))
    monkeypatch.setattr(RANKERS, "check", bound)
    for expected, flags in (
        (["bound", "bound", STAND_IN], ["--check"]),
        (["bound", "bound", STAND_IN, "bound", 2], []),
        (["bound", "bound", 2], ["--check"]),
        (["bound", "bound", 2], []),
    ):
        seen.clear()
        assert train.main(["--config", str(config), features, *flags]) == 0
        assert seen == expected


def test_a_logger_that_is_there_twice_is_refused(refused: Callable[..., str]) -> None:
    assert refused("logger=[csv, csv]").startswith("logger[1]: csv is there already, as logger[0].")


def test_a_metric_that_is_there_twice_is_refused(refused: Callable[..., str]) -> None:
    assert refused("ranker.metrics=[mrr, ndcg@10, {name: ndcg, k: 10}]").startswith(
        "ranker.metrics: ndcg@10 is there twice."
    )


def test_extra_inputs_that_the_store_lacks_or_negatives_make_meaningless_are_refused(
    refused: Callable[..., str], store: Path, tmp_path: Path
) -> None:
    found = refused("ranker.extra=[agreement, num_tokens]")
    assert found.startswith("ranker.extra: the store has no agreement and no num_tokens of its candidates; it has none")
    path = with_responses(store, tmp_path / "sampled")
    found = refused("ranker.extra=[num_tokens, agreement]", f"datamodule.path={path}")
    assert found.startswith("ranker.extra: the store has no agreement of its candidates; it has num_tokens.")
    found = refused("ranker.extra=[num_tokens]", f"datamodule.path={path}", f"datamodule.replay={{path: {store}}}")
    assert found.startswith(
        "ranker.extra: the store of datamodule.replay has no num_tokens of its candidates; it has none"
    )
    shared = ("ranker={name: point_ranker, extra: [num_tokens]}", "datamodule.negatives=batch")
    assert refused(*shared, f"datamodule.path={path}").startswith("ranker.extra: is normalised within a group")


@pytest.mark.parametrize("name", ["linear_probe", "mlp_probe", "knn_probe", "depth_mean"])
def test_light_heads_over_a_pool_are_refused(name: str, refused: Callable[..., str]) -> None:
    found = refused("datamodule={name: partitioned_candidates}", f"ranker={{name: {name}}}")
    assert f"{name} ranks groups of vectors" in found


def with_responses(store: Path, path: Path) -> Path:
    """A store with numbers of tokens, and with answers and log-probabilities that are all unknown."""
    known = GroupStore.open(store)
    with GroupStoreWriter(path, feature_dim=known.feature_dim, depths=[None], settings={}) as writer:
        rows = torch.arange(known.num_candidates)
        writer.add_candidates(known.candidate_features(rows).unsqueeze(1), ["a text"] * len(rows))
        writer.add_groups(
            ids=[known.query_id(group) for group in range(known.num_groups)],
            texts=[known.query_text(group) for group in range(known.num_groups)],
            features=known.query_features(torch.arange(known.num_groups)).unsqueeze(1),
            offsets=known.offsets,
            candidate=known.candidate,
            label=known.label,
            slot_ids=[known.slot_id(slot) for slot in range(known.num_slots)],
            split=[("train", "val", "test")[int(split)] for split in known.split],
            known={
                "answer": torch.zeros(known.num_slots, dtype=torch.int64),
                "log_probability": torch.full((known.num_slots,), torch.nan),
                "num_tokens": torch.arange(known.num_slots) % 30,
            },
        )
        return writer.finish()
