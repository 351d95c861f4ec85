"""A store gives back what was written, whatever the dtype, depths and shards."""

import itertools
import math
import pickle
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ranking.stores.files import StoreError
from ranking.stores.group_store import GroupStore
from ranking.stores.group_store_writer import GroupStoreWriter

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass
class Plain:
    """What a store should hold, as ordinary tensors and lists."""

    candidates: Tensor
    queries: Tensor
    sizes: list[int]
    candidate: Tensor
    label: Tensor
    valid: Tensor
    injected: Tensor
    split: list[str | None]

    @classmethod
    def draw(cls, dtype: torch.dtype, num_depths: int) -> "Plain":
        draw = torch.Generator().manual_seed(7)
        sizes = [3, 1, 5, 0, 4, 2, 6]
        slots = sum(sizes)
        label = torch.rand(slots, generator=draw)
        label[::4] = math.nan
        return cls(
            candidates=torch.randn(30, num_depths, 8, generator=draw).to(dtype),
            queries=torch.randn(len(sizes), num_depths, 8, generator=draw).to(dtype),
            sizes=sizes,
            candidate=torch.randint(0, 30, (slots,), generator=draw),
            label=label,
            valid=torch.rand(slots, generator=draw) > 0.2,
            injected=torch.rand(slots, generator=draw) > 0.8,
            split=["train", "val", None, "test", "train", None, "val"],
        )

    def write(
        self, path: Path, dtype: str, depths: list[float | None], candidate_cuts: list[int], group_cuts: list[int]
    ) -> None:
        with GroupStoreWriter(path, feature_dim=8, depths=depths, dtype=dtype, settings={"seed": 7}) as writer:
            for first, last in itertools.pairwise(candidate_cuts):
                texts = [text(row) for row in range(first, last)]
                assert writer.add_candidates(self.candidates[first:last], texts) == first
            for first, last in itertools.pairwise(group_cuts):
                start, end = sum(self.sizes[:first]), sum(self.sizes[:last])
                writer.add_groups(
                    ids=[f"q{group}" for group in range(first, last)],
                    texts=[f"query {group} ü" for group in range(first, last)],
                    features=self.queries[first:last],
                    offsets=torch.tensor([sum(self.sizes[first:group]) for group in range(first, last + 1)]),
                    candidate=self.candidate[start:end],
                    label=self.label[start:end],
                    valid=self.valid[start:end],
                    injected=self.injected[start:end],
                    slot_ids=[f"slot-{slot}" for slot in range(start, end)],
                    split=self.split[first:last],
                )
            writer.finish()


def text(row: int) -> str:
    return "" if row == 4 else f"candidate {row} — 日本語\n"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("depths", [[None], [0.4, 0.6, 1.0]])
@pytest.mark.parametrize("cuts", [([0, 30], [0, 7]), ([0, 11, 12, 30], [0, 2, 3, 7])])
def test_what_was_written_is_read_back_exactly(
    dtype: str, depths: list[float | None], cuts: tuple[list[int], list[int]], tmp_path: Path
) -> None:
    plain = Plain.draw(DTYPES[dtype], len(depths))
    plain.write(tmp_path / "store", dtype, depths, *cuts)
    store = GroupStore.open(tmp_path / "store", verify=True)
    assert (store.num_groups, store.num_candidates, store.num_slots) == (7, 30, 21)
    assert (store.feature_dim, store.depths, store.dtype) == (8, depths, DTYPES[dtype])
    index = torch.tensor([29, 0, 11, 11, 12, 10, 5, 0])
    for depth in range(len(depths)):
        assert torch.equal(store.candidate_features(index, depth), plain.candidates[index, depth])
        assert torch.equal(store.query_features(torch.tensor([6, 0, 2, 2]), depth), plain.queries[[6, 0, 2, 2], depth])
    assert store.candidate_features(torch.tensor([], dtype=torch.int64)).shape == (0, 8)
    assert store.offsets.tolist() == [0, 3, 4, 9, 9, 13, 15, 21]
    assert torch.equal(store.candidate, plain.candidate)
    assert torch.allclose(store.label, plain.label, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(store.valid, plain.valid)
    assert torch.equal(store.injected, plain.injected)
    assert store.split.tolist() == [0, 1, 255, 2, 0, 255, 1]
    assert [store.candidate_text(row) for row in range(30)] == [text(row) for row in range(30)]
    assert [store.query_text(group) for group in range(7)] == [f"query {group} ü" for group in range(7)]
    assert [store.query_id(group) for group in range(7)] == [f"q{group}" for group in range(7)]
    assert [store.slot_id(slot) for slot in range(21)] == [f"slot-{slot}" for slot in range(21)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    Plain.draw(torch.float32, 1).write(tmp_path / "store", "float32", [None], [0, 11, 30], [0, 3, 7])
    return tmp_path / "store"


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux what is in memory")
def test_opening_maps_the_features_and_reads_none_of_them(tmp_path: Path) -> None:
    with GroupStoreWriter(tmp_path / "s", feature_dim=4096, depths=[None], dtype="float32", settings={}) as writer:
        writer.add_candidates(torch.ones(4096, 1, 4096), [""] * 4096)
        add_one_group(writer)
        writer.finish()

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    before = resident()
    store = GroupStore.open(tmp_path / "s")
    assert store.candidate_features(torch.tensor([4095])).sum() == 4096
    assert resident() - before < 16 << 20


def test_reading_past_the_end_is_an_index_error(path: Path) -> None:
    store = GroupStore.open(path)
    for read in (store.query_text, store.candidate_text, store.slot_id):
        for wrong in (-1, 1000):
            with pytest.raises(IndexError):
                read(wrong)
    for wrong in (-1, 30):
        with pytest.raises((IndexError, RuntimeError)):
            store.candidate_features(torch.tensor([wrong]))


def test_a_pickled_store_is_its_path(path: Path) -> None:
    store = GroupStore.open(path)
    pickled = pickle.dumps(store)
    assert len(pickled) < 1000
    again = pickle.loads(pickled)
    assert torch.equal(again.candidate_features(torch.arange(30)), store.candidate_features(torch.arange(30)))


def test_changing_what_was_read_leaves_the_file_alone(path: Path) -> None:
    store = GroupStore.open(path)
    store.candidate_features(torch.arange(30)).zero_()
    store.label.zero_()
    GroupStore.open(path, verify=True)


def test_features_that_a_dtype_cannot_hold_are_refused_when_written(tmp_path: Path) -> None:
    features = torch.ones(3, 1, 8)
    features[1, 0, 2] = 70_000
    with GroupStoreWriter(tmp_path / "s", feature_dim=8, depths=[None], dtype="float16", settings={}) as writer:
        with pytest.raises(StoreError, match=r"candidate 1 .* 70000.*float16(.|\n)*float32"):
            writer.add_candidates(features, ["a", "b", "c"])
        features[1, 0, 2] = math.nan
        with pytest.raises(StoreError, match="nan"):
            writer.add_candidates(features, ["a", "b", "c"])
        assert writer.num_candidates == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"candidate": torch.tensor([0, 3])}, "outside the 3"),
        ({"candidate": torch.tensor([-1, 0])}, "outside the 3"),
        ({"texts": ["a", "b"]}, "do not fit"),
        ({"offsets": torch.tensor([0, 3])}, "do not fit"),
        ({"offsets": torch.tensor([1, 2])}, "do not fit"),
        ({"label": torch.tensor([0, math.inf])}, "infinite label"),
        ({"features": torch.ones(1, 2, 8)}, "expected"),
        ({"features": torch.ones(1, 1, 9)}, "expected"),
        ({"split": ["dev"]}, "dev"),
        ({"slot_ids": ["a"]}, "do not fit"),
    ],
)
def test_groups_that_do_not_fit_are_refused_when_written(tmp_path: Path, changes: dict, message: str) -> None:
    with GroupStoreWriter(tmp_path / "s", feature_dim=8, depths=[None], dtype="float32", settings={}) as writer:
        writer.add_candidates(torch.ones(3, 1, 8), ["a", "b", "c"])
        with pytest.raises(ValueError, match=message):
            add_one_group(writer, **changes)
        assert writer.num_groups == 0


def add_one_group(writer: GroupStoreWriter, **changes: object) -> None:
    """A group of the first two candidates."""
    dim = writer._manifest["feature_dim"]
    usual = {
        "ids": ["q"],
        "texts": ["query"],
        "features": torch.ones(1, 1, dim),
        "offsets": torch.tensor([0, 2]),
        "candidate": torch.tensor([0, 1]),
        "label": torch.tensor([0.0, 1.0]),
        "slot_ids": ["a", "b"],
    }
    writer.add_groups(**(usual | changes))


def test_what_a_beam_search_found_stands_beside_the_candidates_also_in_stores_of_earlier_versions(
    tmp_path: Path,
) -> None:
    given = {
        "ids": ["a", "b", "c"],
        "texts": ["x", "y", "z"],
        "features": torch.zeros(3, 1, 2),
        "offsets": torch.tensor([0, 2, 3, 5]),
        "candidate": torch.zeros(5, dtype=torch.int64),
        "label": torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0]),
    }
    stores = {}
    for name, more in {
        "now": {"slot_ids": list("01010"), "beams": [("found", 1.0), ("", torch.nan), ("unlabelled", torch.nan)]},
        "then": {"slot_ids": ["0", "beam", "0", "0", "beam"], "valid": torch.tensor([1, 0, 1, 1, 0]).bool()},
    }.items():
        writer = GroupStoreWriter(tmp_path / name, feature_dim=2, depths=[None], dtype="float32", settings={})
        with writer:
            writer.add_candidates(torch.zeros(1, 1, 2), ["candidate"])
            writer.add_groups(**given, **more)  # type: ignore[arg-type]
            stores[name] = GroupStore.open(writer.finish())
    now, then = stores["now"], stores["then"]
    assert [now.beam_text(group) for group in range(3)] == ["found", None, "unlabelled"]
    assert [then.beam_text(group) for group in range(3)] == ["candidate", None, "candidate"]
    assert now.beam_label is not None and now.beam_label.nan_to_num(-1).tolist() == [1, -1, -1]
    assert then.beam_label is not None and then.beam_label.nan_to_num(-1).tolist() == [0, -1, 1]
