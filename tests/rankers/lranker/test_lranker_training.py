"""LRanker in training: its scores, its contexts, what it saves, and what it finds again."""

import importlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from pools import DIM, write_pool
from safetensors.torch import load_file, save_file
from test_lranker import CENTROIDS, QUERY_FIRST, Make, by_hand, make, padded

from datamodules.partitioned_candidates import PartitionedCandidates
from datamodules.pools.mining import MinedLists, Scoring
from language_models.backbone import Backbone
from language_models.lora import Lora
from rankers.checkpoint import load_ranker, save_pretrained
from rankers.lranker.aggregators import Aggregator
from rankers.lranker.lranker import LRanker
from rankers.lranker.pool_contexts import PoolContexts
from ranking.pools.pool_batch import Contexts, PoolBatch
from ranking.stores.candidate_pool import CandidatePool
from ranking.vectors.partitions import Partitions
from registry import AGGREGATORS, ConfigError
from training.resuming import StepSeed
from training.trainer import build_trainer

__all__ = ["make"]
Data = Callable[..., PartitionedCandidates]


@pytest.fixture
def data(pool: CandidatePool) -> Data:
    """Make the data module of the small pool."""
    usual = {"num_partitions": 3, "num_splits": 2, "batch_size": 8, "verify": False}
    return lambda **options: PartitionedCandidates(**{"path": str(pool.path), **usual, **options})


def first_batch(ranker: LRanker, data: PartitionedCandidates) -> PoolBatch:
    ranker.prepare(data.pool, data.partitions)
    data.read_for(ranker, "train", "val")
    return next(iter(data.train_dataloader()))


def rows_of(data: PartitionedCandidates, index: int) -> torch.Tensor:
    assert data.partitions is not None
    if index == -1:
        return torch.arange(data.pool.num_candidates)
    return data.partitions.rows(*divmod(index, data.partitions.num_partitions))


@pytest.mark.parametrize("name", ["tiny_bert", "tiny_llama"])
@pytest.mark.parametrize("options", [{}, {"template": "key <|embedding|> {query}"}, {"injection": "prefix"}], ids=str)
def test_training_scores_are_cosines_of_queries_read_in_their_parts(
    make: Make, data: Data, name: str, options: dict[str, str]
) -> None:
    ranker, module = make(name, temperature=0.2, **options), data()
    batch = first_batch(ranker, module)
    with torch.no_grad():
        scores, labels, mask = ranker.training_scores(batch)
    assert scores.shape == labels.shape == mask.shape and scores.dtype == torch.float32
    assert torch.equal(labels, batch.labels) and torch.equal(mask, batch.mask)
    assert len(batch.partition.unique()) > 1
    for place, (group, part) in enumerate(zip(batch.group.tolist(), batch.partition.tolist(), strict=True)):
        context = ranker.aggregator.summarise_pool(  # type: ignore[union-attr]
            module.pool, rows_of(module, part), hash((0, *divmod(part, 3))) % 2**31
        )
        query = by_hand(ranker, module.query_text(group), context.centroids[0], context.mask[0], **options)
        vectors = torch.nn.functional.normalize(module.pool.features(batch.rows).double(), dim=1)
        torch.testing.assert_close(scores[place].double(), vectors @ query / 0.2, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["tiny_bert", "tiny_llama"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"candidates": "encoded"},
        {"projector": {"name": "mlp", "norm": "layer"}},
        {"injection": "prefix"},
        {"aggregator": {"name": "set_encoder", "num_centroids": CENTROIDS, "num_heads": 2}},
        {"aggregator": None},
        {"lora": None},
        {"gradient_checkpointing": True},
    ],
    ids=str,
)
def test_everything_that_is_trained_gets_a_gradient(make: Make, data: Data, name: str, options: dict[str, Any]) -> None:
    ranker = make(name, **options)
    batch = first_batch(ranker, data())
    ranker.train()
    loss = ranker.loss(*ranker.training_scores(batch))
    loss.backward()
    trained = {key: weight.grad for key, weight in ranker.named_parameters() if weight.requires_grad}
    assert torch.isfinite(loss) and trained.keys() <= ranker.state_dict().keys()
    assert all(gradient is not None and gradient.isfinite().all() for gradient in trained.values())
    still = {key for key, gradient in trained.items() if not gradient.any()}  # type: ignore[union-attr]
    # A prefix of one map may end in attention of which no token of these tiny models takes note.
    assert not still, still
    frozen = [key for key, weight in ranker.named_parameters() if not weight.requires_grad]
    assert frozen and all(key.startswith("backbone.") for key in frozen)


def test_checkpointed_blocks_give_the_same_gradients(make: Make, data: Data) -> None:
    found = []
    for options in ({}, {"gradient_checkpointing": True}):
        ranker = make(lora=Lora(dropout=0.0), **options)
        batch = first_batch(ranker, data())
        ranker.train()
        ranker.loss(*ranker.training_scores(batch)).backward()
        found.append({key: weight.grad for key, weight in ranker.named_parameters() if weight.requires_grad})
    torch.testing.assert_close(*found)


def test_a_ranker_is_made_to_be_trained(tiny_bert: Path) -> None:
    for lora in (Lora(dropout=0.2), None):
        ranker = LRanker(DIM, Backbone(model=str(tiny_bert)), max_length=60, template=QUERY_FIRST, lora=lora)
        ranker.configure_model()
        assert {module.training for module in ranker.backbone.modules()} == {lora is not None}
        assert ranker.context is not None and ranker.context.training


def test_in_a_step_of_one_part_queries_still_learn_from_centroids(make: Make, data: Data) -> None:
    ranker = make()
    batch = first_batch(ranker, data())
    ranker.train()
    batch.partition.fill_(1)
    ranker.loss(*ranker.training_scores(batch)).backward()
    assert ranker.context.projector.linear.weight.grad.any()  # type: ignore[union-attr]


@pytest.mark.parametrize("encoded", [False, True])
def test_candidates_encoded_anew_are_those_of_their_texts(make: Make, data: Data, encoded: bool) -> None:
    ranker, module = make(candidates="encoded" if encoded else "cached"), data()
    batch = first_batch(ranker, module)
    with torch.no_grad():
        scores, _, _ = ranker.training_scores(batch)
        queries = ranker.embedder(batch.tokens, batch.lengths)(
            Contexts(*(each[batch.partition].unsqueeze(1) for each in ranker.contexts.table))  # type: ignore[union-attr]
        )[:, 0]
        texts = [module.candidate_text(row) for row in batch.rows.tolist()]
        vectors = ranker.embed_candidates(*padded(ranker.tokenize_candidates(texts)))
        if not encoded:
            vectors = ranker.candidate_vectors(module.pool.features(batch.rows))
    torch.testing.assert_close(scores, queries @ vectors.T / ranker.temperature, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_pool_is_encoded_in_the_precision_of_the_run(
    make: Make, data: Data, tmp_path: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranker, mixed = make(candidates="encoded", scaling=None), []
    embed = ranker.embed_candidates
    monkeypatch.setattr(
        ranker, "embed_candidates", lambda *batch: (mixed.append(torch.is_autocast_enabled("cpu")), embed(*batch))[1]
    )
    trainer = build_trainer(
        {"precision": precision, "accelerator": "cpu", "enable_progress_bar": False}, folder=tmp_path
    )
    trainer.validate(ranker, datamodule=data(), verbose=False)
    assert set(mixed) == {precision == "bf16-mixed"}
    assert ranker.candidates_to_rank().dtype == torch.float32


@pytest.mark.parametrize("negatives", ["pool", "all"])
def test_a_pool_is_never_encoded_whole_in_a_step(make: Make, data: Data, negatives: str) -> None:
    module = data(negatives=negatives)
    with pytest.raises(ConfigError, match=rf"^datamodule.negatives: '{negatives}' with ranker.candidates=enc") as error:
        module.check_ranker(make(candidates="encoded"))
    assert "What to do:   partition, batch or mined, or ranker.candidates=cached" in str(error.value)
    module.check_ranker(make())


def test_queries_with_candidates_of_their_own_are_read_in_view_of_these(
    make: Make, data: Data, listed_pool: CandidatePool
) -> None:
    ranker, module = make(), data(path=str(listed_pool.path), candidates="own")
    batch = first_batch(ranker, module)
    assert module.partitions is None and batch.own is not None
    with torch.no_grad():
        scores, _, _ = ranker.training_scores(batch)
    assert ranker.aggregator is not None
    for place, group in enumerate(batch.group.tolist()):
        own = batch.own[place][batch.own[place] >= 0]
        vectors = module.pool.features(own).unsqueeze(0)
        context = ranker.aggregator.summarise(vectors, torch.ones(1, len(own), dtype=torch.bool), 0)
        query = by_hand(ranker, module.query_text(group), context.centroids[0], context.mask[0])
        table = torch.nn.functional.normalize(module.pool.features(batch.rows).double(), dim=1)
        torch.testing.assert_close(scores[place].double(), table @ query / 0.15, rtol=1e-4, atol=1e-4)


def test_contexts_are_those_of_each_part_and_then_of_the_whole_pool(
    pool: CandidatePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    partitions = Partitions(pool.num_candidates, 3, 2, seed=5)
    described = AGGREGATORS.complete({"name": "kmeans", "num_centroids": CENTROIDS, "max_iterations": 100}, {})
    aggregator = AGGREGATORS.build(described)
    # Only where no point changes its cluster any more are centroids the means of the points nearest to them.
    monkeypatch.setitem(aggregator._options, "tolerance", 0.0)
    found = PoolContexts(pool, partitions, aggregator, described).table
    assert found.centroids.shape == (7, CENTROIDS, DIM) and found.mask.all()
    for split in range(2):
        for part in range(3):
            vectors = pool.features(partitions.rows(split, part)).double()
            centroids = found.centroids[partitions.index(split, part)].double()
            nearest = torch.cdist(vectors, centroids).argmin(dim=1)
            sizes = nearest.bincount(minlength=CENTROIDS)
            assert sizes.tolist() == sorted(sizes.tolist(), reverse=True)
            means = torch.stack([vectors[nearest == cluster].mean(dim=0) for cluster in range(CENTROIDS)])
            torch.testing.assert_close(centroids, means, rtol=1e-4, atol=1e-5)
    whole = PoolContexts(pool, None, aggregator, described).table
    assert all(torch.equal(each[-1:], alone) for each, alone in zip(found, whole, strict=True))


def test_contexts_are_computed_once_for_a_pool_and_its_settings(
    pool: CandidatePool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = AGGREGATORS.complete({"name": "kmeans", "num_centroids": 3, "max_iterations": 7}, {})
    aggregator = AGGREGATORS.build(described)
    computed: list[int] = []
    summarise = aggregator.summarise_pool
    monkeypatch.setattr(aggregator, "summarise_pool", lambda *arguments: (computed.append(1), summarise(*arguments))[1])

    def count(described: Any = described, **options: Any) -> int:
        computed.clear()
        settings = {"num_partitions": 3, "num_splits": 2, "seed": 0, **options}
        found.append(PoolContexts(pool, Partitions(pool.num_candidates, **settings), aggregator, described).table)
        return len(computed)

    found: list[Contexts] = []
    folder = pool.path.parent / f"{pool.path.name}.contexts"
    before = set(folder.glob("*")) if folder.exists() else set()
    assert (count(), count()) == (7, 0)
    files = sorted(set(folder.glob("*.safetensors")) - before)
    assert [file.name.split("-")[1] for file in files].count("whole.safetensors") == 1 and len(files) == 3
    splits = [file for file in files if "split" in file.name]
    splits[0].unlink()
    splits[1].write_bytes(splits[1].read_bytes()[:100])
    assert (count(), count()) == (6, 0)
    assert count(num_splits=3) == 3
    assert count(seed=1) == 6 and count(num_partitions=4) == 8
    assert count({**described, "max_iterations": 8}) == 7
    assert all(torch.equal(*pair) for pair in zip(found[0], found[2], strict=True))


OUTSIDE = """
from rankers.lranker.aggregators import Aggregator
from ranking.pools.pool_batch import Contexts

class Constant(Aggregator):
    def summarise(self, vectors, mask, seed):
        return Contexts(vectors.new_full((len(vectors), 1, vectors.shape[2]), VALUE), mask[:, :1])
"""


@pytest.mark.parametrize("filed", [True, False])
def test_contexts_are_computed_anew_when_the_code_of_an_aggregator_changes(
    pool: CandidatePool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    filed: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    for value in ("2.0", "3.0"):
        code, found = OUTSIDE.replace("VALUE", value), {}
        if filed:
            (tmp_path / "constant.py").write_text(code)
            monkeypatch.delitem(sys.modules, "constant", raising=False)
            importlib.invalidate_caches()
            shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
            found = vars(importlib.import_module("constant"))
        else:
            exec(code, found)
        for _ in range(2):
            table = PoolContexts(pool, None, found["Constant"](1), {"name": "constant"}).table
            assert table.centroids.unique().tolist() == [float(value)]
    monkeypatch.delitem(sys.modules, "constant", raising=False)
    told = capsys.readouterr().err
    assert told.count("Constant is defined in no file: centroids are computed, but not kept\n") == (0 if filed else 4)


def test_contexts_of_a_pool_that_cannot_be_written_beside_are_computed_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pool = write_pool(tmp_path / "pool")
    described = AGGREGATORS.complete({"name": "kmeans", "num_centroids": 3}, {})
    partitions = Partitions(pool.num_candidates, 3, 2, seed=0)

    def table(partitions: Partitions | None) -> Contexts:
        return PoolContexts(pool, partitions, AGGREGATORS.build(described), described).table

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refuse)
        alone = table(None)
    folder = tmp_path / "pool.contexts"
    assert not folder.exists()
    assert capsys.readouterr().err == (
        f"{folder} cannot be written (Permission denied): centroids are computed, but not kept\n"
    )
    kept = table(partitions)
    assert all(torch.equal(one, each[-1:]) for one, each in zip(alone, kept, strict=True))
    opened = Path.open
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda path, *mode: refuse() if mode == ("w",) else opened(path, *mode))
        read = table(partitions)
    assert all(torch.equal(*each) for each in zip(kept, read, strict=True))
    assert capsys.readouterr().err == "", "what is there is read"


def test_contexts_that_are_damaged_are_computed_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pool = write_pool(tmp_path / "pool")
    described = AGGREGATORS.complete({"name": "kmeans", "num_centroids": 3}, {})

    def table() -> Contexts:
        return PoolContexts(pool, None, AGGREGATORS.build(described), described).table

    right = table()
    (file,) = (tmp_path / "pool.contexts").glob("*.safetensors")
    content = file.read_bytes()
    for place in range(0, len(content), 7):
        file.write_bytes(content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :])
        assert all(torch.equal(*each) for each in zip(table(), right, strict=True))
        if told := capsys.readouterr().err:
            assert told.startswith(f"{file} is damaged (") and told.endswith("): its centroids are computed again\n")
            assert file.read_bytes() == content
    save_file({name: each.clone() for name, each in right._asdict().items()}, file)  # as an older version wrote it
    assert all(torch.equal(*each) for each in zip(table(), right, strict=True))
    assert capsys.readouterr().err == ""


def refuse(*_: Any, **__: Any) -> Any:
    raise PermissionError(13, "Permission denied")


AGGREGATORS_WITH_MEMBERS = [
    {"name": "kmeans", "num_centroids": CENTROIDS},
    {"name": "minibatch_kmeans", "num_centroids": CENTROIDS, "batch_size": 16},
    {"name": "hierarchical", "num_centroids": CENTROIDS},
    {"name": "pca_kmeans", "num_centroids": CENTROIDS, "num_components": 5},
    {"name": "set_encoder", "num_centroids": CENTROIDS, "num_heads": 2},
    {"name": "kmeans", "num_centroids": 60},
]


@pytest.mark.parametrize("node", AGGREGATORS_WITH_MEMBERS, ids=lambda node: f"{node['name']}-{node['num_centroids']}")
@pytest.mark.parametrize("num_partitions", [3, None])
def test_a_candidate_is_taken_out_of_the_centroid_it_is_in(
    pool: CandidatePool, node: dict[str, Any], num_partitions: int | None
) -> None:
    partitions = Partitions(pool.num_candidates, num_partitions, 2, seed=5) if num_partitions else None
    described = AGGREGATORS.complete(node, {"feature_dim": DIM})
    aggregator = AGGREGATORS.build(described)
    plain = PoolContexts(pool, partitions, aggregator, described)
    contexts = PoolContexts(pool, partitions, aggregator, described, members=True)
    assert all(torch.equal(*pair) for pair in zip(plain.table, contexts.table, strict=True))
    rows = torch.arange(0, pool.num_candidates, 7)
    last = len(contexts.table.mask) - 1
    for number in range(last + 1):
        index = torch.full_like(rows, number)
        found = contexts.without(index, rows)
        whole = number == last
        here = torch.arange(pool.num_candidates) if whole else partitions.rows(*divmod(number, 3))  # type: ignore[union-attr]
        seed = 0 if whole else hash((5, *divmod(number, 3))) % 2**31
        _, member = aggregator.members(pool, here, seed)
        for row, centroids, mask in zip(rows.tolist(), *found, strict=True):
            expected, there = contexts.table.centroids[number].clone().double(), contexts.table.mask[number].clone()
            if row in here and (centroid := int(member[here == row])) >= 0:
                others = here[(member == centroid) & (here != row)]
                there[centroid] = len(others) > 0
                expected[centroid] = pool.features(others).double().mean(dim=0) if len(others) else 0
            assert torch.equal(mask, there)
            torch.testing.assert_close(centroids.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("own", [False, True])
def test_contexts_in_training_need_not_hold_the_positive(
    make: Make, data: Data, listed_pool: CandidatePool, own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranker = make(exclude_positive=True)
    module = data(path=str(listed_pool.path), candidates="own") if own else data()
    batch = first_batch(ranker, module)
    given: list[Contexts] = []
    forward = ranker.context.forward  # type: ignore[union-attr]
    monkeypatch.setattr(ranker.context, "forward", lambda sets, more: (given.append(sets), forward(sets, more))[1])
    ranker.training_scores(batch)
    assert ranker.contexts is not None and ranker.aggregator is not None
    positives = batch.rows[batch.labels.argmax(dim=1)]
    if own:
        assert batch.own is not None
        assert (batch.own == positives.unsqueeze(1)).any()
        lists = [
            [-1 if row == right else row for row in rows]
            for rows, right in zip(batch.own.tolist(), positives, strict=True)
        ]
        expected = ranker.contexts.of_lists(torch.tensor(lists))
    else:
        expected = ranker.contexts.without(batch.partition, positives)
    torch.testing.assert_close(given[0].centroids, expected.centroids, rtol=1e-4, atol=1e-5)
    assert torch.equal(given[0].mask, expected.mask)


@pytest.mark.usefixtures("outside")
def test_an_aggregator_that_cannot_leave_a_positive_out_says_so(make: Make, data: Data) -> None:
    @AGGREGATORS.register("mean_for_a_test")
    class Mean(Aggregator):
        def __init__(self) -> None:
            super().__init__(1)

        def summarise_pool(self, pool: Any, rows: Any, seed: int, without: Any = None) -> Contexts:
            vectors = pool.features(torch.arange(pool.num_candidates) if rows is None else rows)
            return Contexts(vectors.mean(dim=0).view(1, 1, -1), torch.ones(1, 1, dtype=torch.bool))

    ranker = make(aggregator="mean_for_a_test")
    assert ranker.training_scores(first_batch(ranker, data()))[0].isfinite().all()
    ranker = make(aggregator="mean_for_a_test", exclude_positive=True)
    with pytest.raises(ConfigError, match=r"^ranker.exclude_positive: Mean cannot say which candidates"):
        first_batch(ranker, data())


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("options", [{}, {"aggregator": None, "lora": None}], ids=str)
def test_a_saved_ranker_holds_what_was_trained_and_names_its_backbone(
    make: Make, data: Data, tmp_path: Path, options: dict[str, Any]
) -> None:
    ranker = make(**options)
    batch = first_batch(ranker, data())
    folder = save_pretrained(ranker, tmp_path / "saved")
    weights = load_file(folder / "model.safetensors")
    parts = {name.split(".")[0] for name in weights}
    assert parts == ({"head"} if options else {"backbone", "context", "head"})
    assert all("lora_" in name for name in weights if name.startswith("backbone."))
    described = json.loads((folder / "config.json").read_text())["ranker"]
    assert described["backbone"]["sha256"] == Backbone(model=described["backbone"]["model"]).checked_hash
    loaded = load_ranker(folder)
    assert isinstance(loaded, LRanker) and same(loaded.state_dict(), ranker.state_dict())
    module = data()
    loaded.prepare(module.pool, module.partitions)
    assert torch.equal(loaded.embed_batch(batch), ranker.embed_batch(batch))
    again = save_pretrained(loaded, tmp_path / "again")
    for file in ("config.json", "model.safetensors"):
        assert (again / file).read_bytes() == (folder / file).read_bytes()


def test_a_saved_ranker_without_one_of_its_weights_is_refused(make: Make, tmp_path: Path) -> None:
    folder = save_pretrained(make(), tmp_path / "saved")
    described = json.loads((folder / "config.json").read_text())
    for name in ("sha256", "weights_sha256"):  # as an older version wrote it, so that the weights are looked at
        del described[name]
    (folder / "config.json").write_text(json.dumps(described))
    # Copies, since some versions of safetensors map the file that is written over below.
    weights = {name: weight.clone() for name, weight in load_file(folder / "model.safetensors").items()}
    for lost in (
        "head.weight",
        "context.projector.linear.weight",
        "backbone.layers.0.mlp.up_proj.lora_A.default.weight",
    ):
        save_file({name: weight for name, weight in weights.items() if name != lost}, folder / "model.safetensors")
        with pytest.raises(ConfigError, match=f"its weights do not fit lranker: .*1 missing: {lost}"):
            load_ranker(folder)
    save_file({**weights, "backbone.norm.weight": torch.ones(32)}, folder / "model.safetensors")
    with pytest.raises(ConfigError, match=r"1 unknown: backbone\.norm\.weight"):
        load_ranker(folder)


def test_a_backbone_that_changed_since_is_refused(make: Make, tiny_llama: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_llama, tmp_path / "model")
    ranker = LRanker(DIM, Backbone(model=str(model)), max_length=60, template=QUERY_FIRST)
    ranker.configure_model()
    folder = save_pretrained(ranker, tmp_path / "saved")
    weights = load_file(model / "model.safetensors")
    save_file({name: weight + 1 for name, weight in weights.items()}, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=r"saved: ranker.backbone.sha256: the weights in .* have the sha256"):
        load_ranker(folder)


def train(
    ranker: LRanker, data: PartitionedCandidates, folder: Path, epochs: int, resume: Path | None = None
) -> Trainer:
    saved = ModelCheckpoint(folder, "{epoch}", save_top_k=-1, save_last=True)
    options = {"max_epochs": epochs, "accelerator": "cpu", "enable_progress_bar": False}
    trainer = build_trainer(
        {**options, "limit_val_batches": 0.0} | {"limit_val_batches": 1.0},
        callbacks=[saved, StepSeed(0)],
        folder=folder,
    )
    trainer.fit(ranker.train(), datamodule=data, ckpt_path=resume, weights_only=True)
    return trainer


@pytest.mark.parametrize("name", ["tiny_bert", "tiny_llama"])
def test_training_that_is_resumed_ends_as_if_it_had_not_stopped(
    make: Make, data: Data, tmp_path: Path, name: str
) -> None:
    options = {"schedule": "constant", "optimizer": {"name": "adamw", "lr": 1e-2}}
    whole = make(name, **options)
    started = {key: weight.clone() for key, weight in whole.state_dict().items()}
    train(whole, data(), tmp_path / "whole", 2)
    train(make(name, **options), data(), tmp_path / "part", 1)
    resumed = make(name, **options)
    train(resumed, data(), tmp_path / "part", 2, resume=tmp_path / "part" / "last.ckpt")
    assert same(resumed.state_dict(), whole.state_dict()) and not same(started, whole.state_dict())
    assert 0 < float(whole.trainer.callback_metrics["train/positive_in_partition"]) < 1
    loaded = load_ranker(tmp_path / "whole" / "last.ckpt")
    assert same(loaded.state_dict(), whole.state_dict())
    assert (tmp_path / "whole" / "last.ckpt").stat().st_size < 1_000_000


def test_a_ranker_that_encodes_candidates_mines_with_those_of_its_current_weights(
    make: Make, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"candidates": "encoded", "schedule": "constant", "scaling": None}
    module = {"negatives": "mined", "mined_by": "ranker", "mine_depth": 9, "exclude_history": True}
    gaps, mine = [], MinedLists.mine

    def watched(scoring: Scoring, *given: Any, **more: Any) -> MinedLists:
        if isinstance(scoring.candidates, torch.Tensor):  # before the first epoch, the encoder's pool
            rows, was_training = torch.arange(0, 200, 20), ranker.training
            tokens, lengths = padded(ranker.tokenize_candidates([pool.text(row) for row in rows.tolist()]))
            found = ranker.eval().embed_candidates(tokens, lengths)
            ranker.train(was_training)
            gaps.append(float((found - scoring.candidates[rows]).abs().max()))
        return mine(scoring, *given, **more)

    monkeypatch.setattr(MinedLists, "mine", torch.no_grad()(watched))
    for epochs, resume in ((3, None), (4, tmp_path / "last.ckpt")):
        ranker, of_run = make(**options), data(**module)
        pool = of_run.pool
        saved = ModelCheckpoint(tmp_path, save_last=True)
        trainer = build_trainer(
            {
                "max_epochs": epochs,
                "check_val_every_n_epoch": 3,
                "reload_dataloaders_every_n_epochs": 1,
                "accelerator": "cpu",
                "enable_progress_bar": False,
            },
            callbacks=[saved],
            folder=tmp_path,
        )
        trainer.fit(ranker.train(), datamodule=of_run, ckpt_path=resume, weights_only=True)
    assert len(gaps) >= 3 and max(gaps) < 1e-5


@pytest.mark.parametrize("lists", [False, True], ids=["whole pool", "own lists"])
def test_candidates_of_earlier_steps_are_negatives_of_queries_that_do_not_know_them(
    make: Make,
    data: Data,
    listed_pool: CandidatePool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lists: bool,
) -> None:
    own = {"path": str(listed_pool.path), "candidates": "own"} if lists else {}
    ranker, module, seen = make(candidates="encoded", lora=None, memory=40), data(exclude_history=True, **own), []
    scores_of = LRanker.training_scores

    def watched(self: LRanker, batch: PoolBatch) -> Any:
        found = scores_of(self, batch)
        seen.append((batch, *(each.detach() for each in found)))
        return found

    monkeypatch.setattr(LRanker, "training_scores", watched)
    options = {"max_steps": 4, "accelerator": "cpu", "enable_progress_bar": False}
    build_trainer(options, folder=tmp_path).fit(ranker.train(), datamodule=module)
    known, remembered = module.pool.queries, torch.empty(0, dtype=torch.int64)
    for batch, scores, labels, mask in seen:
        count = len(batch.rows)
        older = remembered[~torch.isin(remembered, batch.rows)]
        assert scores.shape == labels.shape == mask.shape == (len(batch.group), count + len(older))
        assert torch.equal(labels[:, :count], batch.labels) and not labels[:, count:].any()
        assert torch.equal(mask[:, :count], batch.mask)
        for place, query in enumerate(batch.group.tolist()):
            judged = known.relevant[known.relevant_offsets[query] : known.relevant_offsets[query + 1]].tolist()
            history = known.history[known.history_offsets[query] : known.history_offsets[query + 1]].tolist()
            ranked = set(range(200))
            if lists:
                ranked = set(known.own[known.own_offsets[query] : known.own_offsets[query + 1]].tolist())
            expected = [row in ranked - {*judged, *history} for row in older.tolist()]
            assert mask[place, count:].tolist() == expected
        remembered = torch.cat([batch.rows, older])[:40]
    assert seen[-1][1].shape[1] > len(seen[-1][0].rows)
    again = len(seen)
    build_trainer(options, folder=tmp_path / "again").fit(ranker.train(), datamodule=module)
    assert seen[again][1].shape[1] == len(seen[again][0].rows)
    with pytest.raises(ConfigError, match=r"ranker\.memory: stored vectors do not change"):
        make(candidates="cached", memory=5)
