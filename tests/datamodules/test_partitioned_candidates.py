import dataclasses
import hashlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer

from datamodules.epoch_loader import EpochLoader
from datamodules.partitioned_candidates import PartitionedCandidates
from ranking.pools.pool_batch import PoolBatch
from ranking.pools.pool_data import Reading
from ranking.stores.candidate_pool import CandidatePool
from ranking.stores.candidate_pool_writer import CandidatePoolWriter
from registry import DATAMODULES, ConfigError

SPLIT_OF = ("train", "train", "val", "train", "test")
NEGATIVES = ("partition", "all", "pool", "batch", "mined")


class Reader:
    """Reads texts letter by letter, candidates in capitals."""

    longest = 100

    def __init__(self, candidates: str = "cached") -> None:
        self.candidates, self.num_cut, self.references = candidates, 0, {}

    def reading(self) -> Reading:
        candidates = self.tokenize_candidates if self.candidates == "encoded" else None
        return Reading(self.tokenize, candidates, lambda: self.num_cut)

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        if "" in texts:
            raise ValueError("a text has no tokens")
        self.num_cut += sum(len(text) > self.longest for text in texts)
        return [[ord(letter) for letter in text[: self.longest]] for text in texts]

    def tokenize_candidates(self, texts: Sequence[str]) -> list[list[int]]:
        return self.tokenize([text.upper() for text in texts])


def datamodule(pool: CandidatePool, reader: Reader | None = None, **options: Any) -> PartitionedCandidates:
    data = PartitionedCandidates(str(pool.path), **{"batch_size": 8, "num_negatives": 5, "seed": 3, **options})
    data.read_for(reader or Reader(), "train", "val", "test")
    return data


def epoch_of(loader: EpochLoader, epoch: int = 0) -> list[PoolBatch]:
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    return list(loader)


def lists(pool: CandidatePool, name: str) -> list[list[int]]:
    offsets, rows = getattr(pool.queries, f"{name}_offsets").tolist(), getattr(pool.queries, name).tolist()
    return [rows[start:end] for start, end in pairwise(offsets)]


def queries_of(split: str) -> list[int]:
    return [query for query in range(60) if SPLIT_OF[query % 5] == split]


def same(one: PoolBatch, other: PoolBatch) -> bool:
    pairs = [
        (getattr(one, field.name), getattr(other, field.name))
        for field in dataclasses.fields(PoolBatch)
        if field.name != "weight"
    ]
    return all(a is b if a is None or b is None else torch.equal(a, b) for a, b in pairs)


def taught(batch: PoolBatch) -> dict[int, tuple[int, set[int]]]:
    """What each query of a batch is taught: its positive, and what is wrong."""
    found = {}
    for place, query in enumerate(batch.group.tolist()):
        rows = batch.rows[batch.mask[place]].tolist()
        assert batch.slot[place][batch.mask[place]].tolist() == rows
        assert set(batch.slot[place][~batch.mask[place]].tolist()) <= {-1}
        (positive,) = batch.rows[batch.mask[place] & (batch.labels[place] > 0)].tolist()
        found[query] = positive, set(rows) - {positive}
    return found


def best_first(pool: CandidatePool, query: int) -> tuple[list[int], torch.Tensor]:
    vectors = torch.cat(list(pool.blocks())).double()
    scores = vectors @ pool.queries.features(torch.tensor([query]))[0].double()
    return scores.argsort(descending=True).tolist(), scores


@pytest.mark.parametrize("negatives", NEGATIVES)
@pytest.mark.parametrize("known_only", [False, True])
@pytest.mark.parametrize(("in_batch", "exclude_history", "num_partitions"), [(False, False, 6), (True, True, 12)])
def test_a_query_is_taught_its_positive_against_the_negatives_asked_for(
    pool: CandidatePool, negatives: str, known_only: bool, in_batch: bool, exclude_history: bool, num_partitions: int
) -> None:
    options = {"known_only": known_only, "in_batch": in_batch, "exclude_history": exclude_history}
    options |= {"num_partitions": num_partitions, "mine_depth": 30, "mine_margin": 0.9}
    data = datamodule(pool, negatives=negatives, **options)
    assert data.partitions is not None
    relevant, history, labels = lists(pool, "relevant"), lists(pool, "history"), pool.queries.label
    known = {row for query in queries_of("train") for row in relevant[query]}
    everything = set(range(pool.num_candidates)) if not known_only else known
    for batch in epoch_of(data.train_dataloader()):
        found = taught(batch)
        positives = {positive for positive, _ in found.values()}
        for place, (query, (positive, wrong)) in enumerate(found.items()):
            forbidden = {*relevant[query], *(history[query] if exclude_history else ())}
            part = set(data.partitions.rows(*divmod(int(batch.partition[place]), num_partitions)).tolist())
            allowed = {"partition": part, "all": part, "pool": everything, "batch": set()}.get(negatives)
            if allowed is None:
                order, scores = best_first(pool, query)
                listed = [row for row in order if row not in forbidden][:30]
                allowed = {row for row in listed if scores[row] <= 0.9 * scores[positive]}
            allowed = (allowed & everything) - forbidden
            others = positives - forbidden if in_batch or negatives == "batch" else set()
            if negatives in ("partition", "mined"):
                drawn = wrong - others
                assert drawn <= allowed
                assert min(5, len(allowed)) - len(others & allowed) <= len(drawn) <= 5
                assert others <= wrong
            else:
                assert wrong == allowed | others
            start = int(pool.queries.relevant_offsets[query])
            label = labels[start + relevant[query].index(positive)]
            assert batch.labels[place].tolist() == [label if row == positive else 0 for row in batch.rows.tolist()]
        assert torch.equal(batch.candidates, pool.features(batch.rows))


def test_an_epoch_shows_each_training_query_once_as_its_tokens(pool: CandidatePool) -> None:
    data = datamodule(pool)
    batches = epoch_of(data.train_dataloader())
    assert len(batches) == data.steps_per_epoch == 5
    assert sorted(query for batch in batches for query in batch.group.tolist()) == queries_of("train")
    for batch in batches:
        for query, tokens, length in zip(batch.group, batch.tokens, batch.lengths, strict=True):
            text = pool.queries.text(int(query))
            assert "".join(map(chr, tokens[:length].tolist())) == text
            assert not tokens[length:].any()
        assert batch.tokens.shape[1] == int(batch.lengths.max())


def test_a_batch_draws_one_split_and_each_of_its_queries_a_part(pool: CandidatePool) -> None:
    data = datamodule(pool, num_partitions=4, num_splits=3)
    loader, drawn = data.train_dataloader(), []
    for epoch in range(30):
        for batch in epoch_of(loader, epoch):
            assert len((batch.partition // 4).unique()) == 1
            drawn.append(batch.partition)
    counts = torch.bincount(torch.cat(drawn), minlength=12)
    assert len(counts) == 12
    assert counts.min() > 50


def test_each_right_candidate_of_a_query_has_its_turn(pool: CandidatePool) -> None:
    loader, seen = datamodule(pool).train_dataloader(), {}
    for epoch in range(30):
        for batch in epoch_of(loader, epoch):
            for query, (positive, _) in taught(batch).items():
                seen.setdefault(query, set()).add(positive)
    relevant = lists(pool, "relevant")
    assert seen == {query: set(relevant[query]) for query in queries_of("train")}


@pytest.mark.parametrize("negatives", NEGATIVES)
def test_an_epoch_is_a_function_of_its_seed_and_number(pool: CandidatePool, negatives: str) -> None:
    first, again = (datamodule(pool, negatives=negatives).train_dataloader() for _ in range(2))
    for epoch in (2, 0):
        found, expected = epoch_of(first, epoch), epoch_of(again, epoch)
        assert all(same(one, other) for one, other in zip(found, expected, strict=True))
    other = datamodule(pool, negatives=negatives, seed=4).train_dataloader()
    for changed in (epoch_of(first, 1), epoch_of(other, 0)):
        assert not all(same(one, other) for one, other in zip(changed, epoch_of(first, 0), strict=True))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_epoch_goes_on_in_its_middle(pool: CandidatePool, num_workers: int) -> None:
    whole = epoch_of(datamodule(pool).train_dataloader(), 1)
    loader = datamodule(pool, num_workers=num_workers).train_dataloader()
    loader.load_state_dict({"epoch": 1, "step": 2})
    rest = epoch_of(loader, 1)
    assert all(same(found, expected) for found, expected in zip(rest, whole[2:], strict=True))


@pytest.mark.parametrize("negatives", NEGATIVES)
def test_several_processes_teach_what_one_would(
    pool: CandidatePool, negatives: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"negatives": negatives, "in_batch": True}
    alone = epoch_of(datamodule(pool, **options).train_dataloader(), 1)
    shares = []
    for rank in range(2):
        data = datamodule(pool, **options)
        mined = data._mine() if negatives == "mined" else None
        monkeypatch.setattr(data, "_mine", lambda mined=mined: mined)
        monkeypatch.setattr(data, "process", lambda rank=rank: {"rank": rank, "world": 2})
        shares.append(epoch_of(data.train_dataloader(), 1))
    for batch, *parts in zip(alone, *shares, strict=True):
        assert {query: what for part in parts for query, what in taught(part).items()} == taught(batch)
        assert len({len(part.group) for part in parts}) == 1
        where = dict(zip(batch.group.tolist(), batch.partition.tolist(), strict=True))
        for part in parts:
            assert part.partition.tolist() == [where[query] for query in part.group.tolist()]


def test_processes_that_cannot_share_a_batch_evenly_are_refused(
    pool: CandidatePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = datamodule(pool)
    monkeypatch.setattr(data, "process", lambda: {"rank": 0, "world": 3})
    with pytest.raises(ConfigError, match=r"datamodule.batch_size.*8 queries cannot be shared evenly by 3"):
        data.train_dataloader()


def test_evaluation_shows_each_query_once_with_all_its_right_candidates(
    pool: CandidatePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    relevant, offsets = lists(pool, "relevant"), pool.queries.relevant_offsets
    for split in ("val", "test"):
        seen, lengths = [], []
        for rank in range(2):
            data = datamodule(pool, eval_batch_size=4)
            monkeypatch.setattr(data, "process", lambda rank=rank: {"rank": rank, "world": 2})
            for batch in getattr(data, f"{split}_dataloader")():
                seen += batch.group.tolist()
                lengths.append((rank, batch.lengths.tolist()))
                assert batch.partition.tolist() == [-1] * len(batch.group)
                assert batch.own is None
                assert batch.removed is None
                for place, query in enumerate(batch.group.tolist()):
                    slots = batch.slot[place][batch.mask[place]]
                    assert slots.tolist() == sorted(relevant[query])
                    labels = dict(zip(relevant[query], pool.queries.label[offsets[query] :].tolist(), strict=False))
                    assert batch.labels[place][batch.mask[place]].tolist() == [labels[row] for row in slots.tolist()]
        assert sorted(seen) == queries_of(split)
        for rank in range(2):
            mine = [length for its, batch in lengths if its == rank for length in batch]
            assert mine == sorted(mine, reverse=True)


def test_own_lists_are_the_context_and_the_negatives(listed_pool: CandidatePool) -> None:
    own, relevant = lists(listed_pool, "own"), lists(listed_pool, "relevant")
    for negatives in ("all", "partition"):
        data = datamodule(listed_pool, candidates="own", num_partitions=2, negatives=negatives)
        assert data.partitions is None
        contexts = set()
        for epoch in range(2):
            for batch in epoch_of(data.train_dataloader(), epoch):
                assert batch.partition.tolist() == [-1] * len(batch.group)
                assert batch.own is not None
                for (query, (_, wrong)), part in zip(taught(batch).items(), batch.own.tolist(), strict=True):
                    contexts.add((query, *part))
                    assert len(set(part)) == 10
                    assert set(part) <= set(own[query])
                    expected = set(part) - set(relevant[query])
                    assert wrong == expected if negatives == "all" else wrong <= expected
                    assert negatives == "all" or len(wrong) == 5
        assert len(contexts) == 2 * len(queries_of("train"))
    batch = next(iter(data.test_dataloader()))
    assert batch.own is not None
    assert [rows.tolist() for rows in batch.own] == [own[query] for query in batch.group.tolist()]
    queries = torch.tensor([7, 2])
    found, removed = data.restrictions(queries)
    assert found is not None
    assert found.tolist() == [own[7], own[2]]
    assert removed is None


def write(path: Path, texts: Sequence[str], **changes: Any) -> CandidatePool:
    """A pool of four candidates, of which a query has the first right."""
    count = len(texts)
    with CandidatePoolWriter(path, feature_dim=2, dtype="float32", settings={}, encoder={"model": "tiny"}) as writer:
        writer.add_candidates(list("abcd"), ["A", "B b", "C", "D"], torch.eye(4)[:, :2])
        given = {
            "ids": [f"q{place}" for place in range(count)],
            "texts": texts,
            "features": torch.zeros(count, 2),
            "relevant_offsets": torch.arange(count + 1),
            "relevant": torch.zeros(count, dtype=torch.int64),
        }
        writer.add_queries(**{**given, **changes})
        return CandidatePool.open(writer.finish())


def test_history_is_removed_but_not_what_is_right(tmp_path: Path) -> None:
    history = torch.tensor([0, 1, 3, 1, 0, 0])
    splits = ["train", "val", "test"]
    pool = write(tmp_path / "pool", ["x", "y", "z"], split=splits, history=history, history_offsets=2 * torch.arange(4))
    data = datamodule(pool, exclude_history=True, negatives="pool", num_partitions=2)
    (batch,) = data.val_dataloader()
    assert batch.removed is not None
    assert batch.removed.tolist() == [[0, 1], [0, 3]]
    assert data.restrictions(torch.tensor([2, 1, 0]))[1].tolist() == [[1, 1], [1, 3], [2, 1]]  # type: ignore[union-attr]
    assert taught(epoch_of(data.train_dataloader())[0]) == {0: (0, {2, 3})}
    kept = datamodule(pool, negatives="pool", num_partitions=2)
    assert kept.restrictions(torch.tensor([0]))[1] is None
    assert taught(epoch_of(kept.train_dataloader())[0]) == {0: (0, {1, 2, 3})}


def test_queries_without_a_right_candidate_are_misses_and_teach_nothing(tmp_path: Path) -> None:
    texts, splits = [f"text {place}" for place in range(6)], ["train", "train", "val", "val", "test", "test"]
    offsets = torch.tensor([0, 1, 1, 1, 2, 2, 3])
    pool = write(tmp_path / "pool", texts, split=splits, relevant_offsets=offsets, relevant=torch.tensor([0, 1, 2]))
    data = datamodule(pool, num_partitions=2)
    assert [data.num_queries(split) for split in ("train", "val", "test")] == [1, 2, 2]
    (batch,) = data.val_dataloader()
    assert dict(zip(batch.group.tolist(), batch.mask.sum(dim=1).tolist(), strict=True)) == {2: 0, 3: 1}
    assert [batch.group.tolist() for batch in data.train_dataloader()] == [[0]]


def test_queries_without_a_split_get_one_by_their_text(tmp_path: Path) -> None:
    texts = [f"what is {place % 150}?" for place in range(300)]
    data = datamodule(write(tmp_path / "pool", texts), num_partitions=2, split_shares=(0.5, 0.3, 0.2))
    expected: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for query, text in enumerate(texts):
        share = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
        expected["train" if share < 0.5 else "val" if share < 0.8 else "test"].append(query)
    for split, queries in expected.items():
        shown = [query for batch in getattr(data, f"{split}_dataloader")() for query in batch.group.tolist()]
        assert sorted(shown) == queries


def test_candidates_that_are_encoded_come_as_tokens(pool: CandidatePool) -> None:
    data = datamodule(pool, Reader("encoded"))
    for loader in (data.train_dataloader(), data.val_dataloader()):
        batch = next(iter(loader))
        assert batch.candidate_tokens is not None
        assert batch.candidate_lengths is not None
        for row, tokens, length in zip(batch.rows, batch.candidate_tokens, batch.candidate_lengths, strict=True):
            assert "".join(map(chr, tokens[:length].tolist())) == pool.text(int(row)).upper()
    assert next(iter(datamodule(pool).train_dataloader())).candidate_tokens is None


@pytest.mark.parametrize("candidates", ["cached", "encoded"])
def test_what_is_read_in_one_batch_is_about_as_long(pool: CandidatePool, candidates: str) -> None:
    loader = datamodule(pool, Reader(candidates)).train_dataloader()
    for epoch in range(2):
        ranges = []
        for batch in epoch_of(loader, epoch):
            lengths = batch.lengths.tolist()
            if candidates == "encoded":
                positives = [positive for positive, _ in taught(batch).values()]
                lengths = [length + len(pool.text(row)) for length, row in zip(lengths, positives, strict=True)]
            ranges.append((min(lengths), max(lengths)))
        assert all(longest <= shortest for (_, longest), (shortest, _) in pairwise(sorted(ranges)))


@pytest.mark.parametrize(("negatives", "shared"), [("pool", True), ("all", True), ("partition", False)])
def test_a_table_that_batches_share_is_gathered_and_moved_once(
    pool: CandidatePool, negatives: str, shared: bool
) -> None:
    data = datamodule(pool, negatives=negatives, num_partitions=4)
    one, other, *_ = epoch_of(data.train_dataloader())
    assert (one.candidates is other.candidates) == shared
    device = torch.device("meta")
    moved = [data.transfer_batch_to_device(batch, device, 0) for batch in (one, other)]
    assert moved[0].candidates.device == moved[1].labels.device == device
    assert (moved[0].candidates is moved[1].candidates) == shared
    assert data.transfer_batch_to_device(next(iter(data.val_dataloader())), device, 0).candidates.device == device


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*isinstance.treespec, LeafSpec")
def test_a_trainer_has_the_texts_tokenized_by_its_ranker(pool: CandidatePool) -> None:
    class Ranker(LightningModule, Reader):
        def __init__(self) -> None:
            super().__init__()
            self.candidates, self.num_cut, self.references = "cached", 0, {}
            self.weight, self.seen = torch.nn.Parameter(torch.zeros(())), []

        def training_step(self, batch: PoolBatch) -> torch.Tensor:
            self.seen.append(batch)
            return self.weight * batch.tokens.float().mean()

        def validation_step(self, batch: PoolBatch) -> None:
            self.seen.append(batch)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters())

    ranker = Ranker()
    data = DATAMODULES.build({"name": "partitioned_candidates", "path": str(pool.path), "batch_size": 8})
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_epochs=2, accelerator="cpu", enable_model_summary=False, num_sanity_val_steps=0, **quiet)
    trainer.fit(ranker, datamodule=data)
    expected = PartitionedCandidates(str(pool.path), batch_size=8)
    expected.read_for(Reader(), "train", "val")
    loader, val = expected.train_dataloader(), list(expected.val_dataloader())
    for found, wanted in zip(ranker.seen, [*epoch_of(loader, 0), *val, *epoch_of(loader, 1), *val], strict=True):
        assert same(found, wanted)


class HistoryReader(Reader):
    """Reads what each query's user has seen."""

    name = "sequence_ranker"

    def reading(self) -> Reading:
        return Reading(histories=True)


def test_histories_are_read_oldest_first_in_training_and_evaluation(pool: CandidatePool) -> None:
    data, known = datamodule(pool, HistoryReader()), pool.queries
    batches = [*epoch_of(data.train_dataloader()), *data.val_dataloader(), *data.test_dataloader()]
    assert sum(len(batch.group) for batch in batches) > 20
    for batch in batches:
        assert batch.tokens.shape[1] == 0 and batch.history is not None
        for query, row in zip(batch.group.tolist(), batch.history.tolist(), strict=True):
            seen = known.history[known.history_offsets[query] : known.history_offsets[query + 1]].tolist()
            assert row == seen + [-1] * (len(row) - len(seen))


def test_a_ranker_of_histories_is_refused_where_there_are_none(pool: CandidatePool) -> None:
    data = datamodule(pool)
    data.pool.queries.history = torch.empty(0, dtype=torch.int32)
    with pytest.raises(ConfigError, match=r"sequence_ranker reads histories of items, and the queries of .* have none"):
        data.check_ranker(HistoryReader())


def test_texts_that_are_cut_are_counted_aloud(pool: CandidatePool, capsys: pytest.CaptureFixture[str]) -> None:
    reader = Reader("encoded")
    reader.longest = 10
    datamodule(pool, reader)
    told = capsys.readouterr().err.splitlines()
    for split in ("train", "val", "test"):
        cut = sum(len(pool.queries.text(query)) > 10 for query in queries_of(split))
        line = f"{cut} of {len(queries_of(split))} {split} queries are cut"
        assert any(line in each for each in told)
    assert any("200 of 200 candidates are cut" in each for each in told)


def test_a_text_without_tokens_is_refused(tmp_path: Path) -> None:
    pool = write(tmp_path / "pool", ["x", "", "z"], split=["train", "val", "test"])
    with pytest.raises(ConfigError, match="val queries: a text has no tokens"):
        datamodule(pool, num_partitions=2)


def test_what_a_run_asks_for(pool: CandidatePool) -> None:
    data = datamodule(pool, num_partitions=4, num_splits=3)
    assert data.facts == {"feature_dim": 16, "num_items": 200}
    assert (data.query_id(3), data.candidate_id(7)) == ("q3", "c7")
    assert (data.query_text(3), data.candidate_text(7)) == (pool.queries.text(3), pool.text(7))
    assert data.shared_negatives
    assert data.encoder is None
    assert data.pool.num_candidates == 200
    assert data.partitions is not None
    assert len(data.partitions) == 12
    assert data.restrictions(torch.tensor([1])) == (None, None)
    assert data.queries("val").tolist() == queries_of("val")


@pytest.mark.parametrize(
    ("options", "path", "problem"),
    [
        ({"batch_size": 0}, "datamodule.batch_size", "from 1 to 1,000,000, got 0"),
        ({"num_partitions": 0}, "datamodule.num_partitions", "from 1 to"),
        ({"num_partitions": 201}, "datamodule.num_partitions", "200 candidates cannot be split into 201 parts"),
        ({"num_splits": 0}, "datamodule.num_splits", "from 1 to"),
        ({"num_negatives": 0}, "datamodule.num_negatives", "from 1 to"),
        ({"num_workers": -1}, "datamodule.num_workers", "from 0 to"),
        ({"split_shares": [0.0, 0.0, 0.0]}, "datamodule.split_shares", "three shares"),
        ({"negatives": "batch", "batch_size": 1}, "datamodule.batch_size", "no other's positive"),
        ({"candidates": "own", "num_partitions": 1}, "datamodule.candidates", "60 of 60 queries have no list"),
        ({"encoder": "some/model"}, "pool", "no known encoder, not from some/model"),
    ],
)
def test_options_that_make_no_sense_are_refused_by_name(
    pool: CandidatePool, options: dict[str, Any], path: str, problem: str
) -> None:
    node = {"name": "partitioned_candidates", "path": str(pool.path), **options}
    with pytest.raises(ConfigError) as refused:
        DATAMODULES.build(node, path="datamodule")
    assert path in str(refused.value)
    assert problem in str(refused.value)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"negatives": "mined"}, "'mined' are not in a query's own list"),
        ({"negatives": "pool"}, "'pool' are not in a query's own list"),
        ({"known_only": True}, "known to be wrong"),
        ({"num_partitions": 11}, "a list of 20 candidates in 11 parts leaves nothing to compare"),
    ],
)
def test_own_lists_refuse_what_they_cannot_do(
    listed_pool: CandidatePool, options: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        datamodule(listed_pool, **{"candidates": "own", "num_partitions": 2, **options})


def test_pools_that_cannot_be_trained_on_are_refused(tmp_path: Path) -> None:
    splits, nothing = ["train", "val", "test"], torch.zeros(0, dtype=torch.int64)
    changes: dict[str, dict[str, Any]] = {
        "the pool has no queries": {"relevant_offsets": torch.zeros(1, dtype=torch.int64), "relevant": nothing},
        r"no query with a right candidate for val \(queries: train 1, val 1, test 1\)": {
            "relevant_offsets": torch.tensor([0, 1, 1, 2]),
            "relevant": torch.tensor([0, 1]),
            "split": splits,
        },
        "no query with a right candidate for test": {"split": ["train", "val", "val"]},
        "no vectors of queries": {"split": splits},
    }
    for place, (problem, change) in enumerate(changes.items()):
        texts = [] if "no queries" in problem else ["x", "y", "z"]
        pool = write(tmp_path / str(place), texts, **change)
        with pytest.raises(ConfigError, match=problem):
            datamodule(pool, num_partitions=2, negatives="mined")
    pool = write(tmp_path / "good", ["x", "y", "z"], split=splits)
    assert datamodule(pool, num_partitions=2, encoder="tiny").encoder == {"model": "tiny"}
    with pytest.raises(ConfigError, match="its vectors are from tiny, not from other"):
        datamodule(pool, num_partitions=2, encoder="other")


def test_what_is_excluded_is_gone_from_own_lists_wherever_they_are_ranked(listed_pool: CandidatePool) -> None:
    options = {"candidates": "own", "exclude_history": True, "num_partitions": 1}
    data = datamodule(listed_pool, **options)
    own, history, relevant = (lists(listed_pool, name) for name in ("own", "history", "relevant"))
    expected = [set(own[query]) - (set(history[query]) - set(relevant[query])) for query in range(60)]
    assert any(len(left) < len(own[query]) for query, left in enumerate(expected))
    found, removed = data.restrictions(torch.arange(60))
    assert found is not None and removed is None
    assert [set(rows.tolist()) - {-1} for rows in found] == expected
    for batch in data.test_dataloader():
        assert batch.own is not None and batch.removed is None
        for query, rows in zip(batch.group.tolist(), batch.own, strict=True):
            assert set(rows.tolist()) - {-1} == expected[query]
    for batch in epoch_of(data.train_dataloader()):
        assert batch.own is not None
        for query, rows in zip(batch.group.tolist(), batch.own, strict=True):
            assert set(rows.tolist()) - {-1} <= expected[query]
