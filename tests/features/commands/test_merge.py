"""Store merging: every query, response, label and vector is in the new stores as it was in the old ones, once."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from features.__main__ import main
from features.commands.merge import merge, split
from ranking.stores.files import StoreError
from ranking.stores.group_store import GroupStore
from ranking.stores.group_store_writer import GroupStoreWriter
from registry import ConfigError


def write(
    path: Path, queries: range, numbers: range, *, dim: int = 4, text: str = "query", answers: bool = True
) -> Path:
    """A store whose content follows from the numbers of its queries and responses; two queries share a candidate."""
    depths, per_query = [0.4, 0.6], len(numbers)
    count = len(queries) * per_query
    rows = [100 * query + number for query in queries for number in numbers]
    vectors = torch.tensor(rows, dtype=torch.float32).view(-1, 1, 1) + torch.arange(2 * dim).view(1, 2, dim) / 100
    candidate = torch.arange(count)
    candidate[-1] = 0
    writer = GroupStoreWriter(
        path, feature_dim=dim, depths=depths, dtype="float32", settings={"path": path.name}, source={"name": path.name}
    )
    known = {
        "answer": candidate % 3,
        "log_probability": -candidate.float(),
        "num_tokens": candidate + 1,
        "self_certainty": candidate / 7,
    }
    with writer:
        writer.add_candidates(vectors, [f"response {row}" for row in rows])
        writer.add_groups(
            ids=[f"q{query}" for query in queries],
            texts=[f"{text} {query}" for query in queries],
            features=torch.tensor(list(queries), dtype=torch.float32).view(-1, 1, 1).expand(-1, 2, dim),
            offsets=torch.arange(0, count + 1, per_query),
            candidate=candidate,
            label=(torch.arange(count) % 2).float(),
            slot_ids=[f"r{number}" for _ in queries for number in numbers],
            valid=torch.arange(count) % 5 != 0,
            split=[("train", "test", None)[query % 3] for query in queries],
            known=known if answers else None,
            beams=[(f"beam {query}", float(query % 2)) for query in queries] if answers else None,
        )
        return writer.finish()


def content(store: GroupStore) -> dict[str, Any]:
    """All that a store says of each query, by ids alone."""
    found: dict[str, Any] = {}
    vectors_of = [store.candidate_features(store.candidate, depth) for depth in (0, 1)]
    for group in range(store.num_groups):
        slots = range(int(store.offsets[group]), int(store.offsets[group + 1]))
        about = {
            store.slot_id(slot): (
                store.candidate_text(int(store.candidate[slot])),
                float(store.label[slot]),
                bool(store.valid[slot]),
                [vectors[slot].tolist() for vectors in vectors_of],
                None if store.answer is None else int(store.answer[slot]),
                None if store.log_probability is None else float(store.log_probability[slot]),
                None if store.num_tokens is None else int(store.num_tokens[slot]),
                None if store.self_certainty is None else float(store.self_certainty[slot]),
            )
            for slot in slots
        }
        vectors = [store.query_features(torch.tensor([group]), depth).tolist() for depth in (0, 1)]
        beam = store.beam_text(group)
        found[store.query_id(group)] = (store.query_text(group), int(store.split[group]), (vectors, beam), about)
    return found


@pytest.mark.slow
def test_a_store_that_is_split_and_merged_again_says_the_same(tmp_path: Path) -> None:
    whole = GroupStore.open(write(tmp_path / "whole", range(700), range(3)))
    paths = split(whole.path, {tmp_path / "a": 0.7, tmp_path / "b": 0.3}, seed=1)
    parts = [GroupStore.open(path, verify=True) for path in paths]
    assert [part.num_groups for part in parts] == [490, 210]
    assert content(parts[0]) | content(parts[1]) == content(whole)
    assert sum(part.num_candidates for part in parts) <= whole.num_candidates + 1
    merged = GroupStore.open(merge(paths, tmp_path / "merged"), verify=True)
    assert content(merged) == content(whole)


def test_more_responses_to_the_same_queries_come_into_the_same_groups(tmp_path: Path) -> None:
    first, more = write(tmp_path / "first", range(5), range(3)), write(tmp_path / "more", range(3, 8), range(3, 5))
    merged = content(GroupStore.open(merge([first, more], tmp_path / "merged")))
    one, other = content(GroupStore.open(first)), content(GroupStore.open(more))
    assert list(merged) == [f"q{query}" for query in range(8)]
    for query, (*others, about) in merged.items():
        expected = [part[query] for part in (one, other) if query in part]
        assert others == list(expected[0][:3])
        assert about == {slot: values for part in expected for slot, values in part[3].items()}


def test_where_a_query_goes_depends_on_seed_and_id_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "whole", range(40), range(2))
    ids = []
    for seed in (0, 1):
        first, _ = split(path, {tmp_path / f"{seed}a": 0.5, tmp_path / f"{seed}b": 0.5}, seed)
        ids.append(set(content(GroupStore.open(first))))
    assert ids[0] != ids[1] and len(ids[0]) == len(ids[1]) == 20


def test_columns_that_only_one_store_has_are_left_out(tmp_path: Path) -> None:
    first, other = (
        write(tmp_path / "a", range(2), range(2)),
        write(tmp_path / "b", range(2, 4), range(2), answers=False),
    )
    merged = GroupStore.open(merge([first, other], tmp_path / "merged"))
    assert merged.answer is None and merged.log_probability is None and merged.num_groups == 4
    assert [merged.beam_text(group) for group in range(4)] == ["beam 0", "beam 1", None, None]
    assert merged.beam_label is not None and merged.beam_label.nan_to_num(-1).tolist() == [0, 1, -1, -1]


def test_the_beam_of_an_earlier_version_moves_from_its_slot_to_the_column(tmp_path: Path) -> None:
    paths = []
    for name, query, slot_ids in (("then", "a", ["r0", "beam"]), ("now", "a", ["r1", "r2"]), ("other", "b", ["r0"])):
        writer = GroupStoreWriter(
            tmp_path / name, feature_dim=2, depths=[None], dtype="float32", settings={}, source={"name": name}
        )
        count = len(slot_ids)
        with writer:
            writer.add_candidates(torch.zeros(count, 1, 2), [f"{name} {slot}" for slot in slot_ids])
            writer.add_groups(
                ids=[query],
                texts=[query],
                features=torch.zeros(1, 1, 2),
                offsets=torch.tensor([0, count]),
                candidate=torch.arange(count),
                label=torch.ones(count),
                slot_ids=slot_ids,
                valid=torch.tensor([slot != "beam" for slot in slot_ids]),
                beams=[("", torch.nan)] if name == "now" else None,
            )
            paths.append(writer.finish())
    merged = GroupStore.open(merge([paths[1], paths[0], paths[2]], tmp_path / "merged"), verify=True)
    assert [merged.slot_id(slot) for slot in range(merged.num_slots)] == ["r1", "r2", "r0", "r0"]
    assert bool(merged.valid.all()) and merged.num_candidates == 4
    assert [merged.beam_text(group) for group in range(2)] == ["then beam", None]
    assert merged.beam_label is not None and merged.beam_label.nan_to_num(-1).tolist() == [1, -1]


@pytest.mark.parametrize(("change", "problem"), [
    ({"dim": 5}, "its feature_dim is 5, but 4"),
    ({"text": "other"}, "query 'q1' has different texts in these stores"),
    ({}, "query 'q1' has two responses 'r0'"),
])  # fmt: skip
def test_stores_that_do_not_fit_are_refused_and_nothing_is_written(
    tmp_path: Path, change: dict[str, Any], problem: str
) -> None:
    paths = [write(tmp_path / "a", range(2), range(2)), write(tmp_path / "b", range(1, 3), range(2), **change)]
    with pytest.raises(ConfigError, match=problem):
        merge(paths, tmp_path / "merged")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def change_a_byte(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("file", ["candidates-00000.safetensors", "groups-00000.safetensors"])
def test_a_damaged_store_is_not_copied_into_one_with_hashes_that_fit(
    tmp_path: Path, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, damaged = write(tmp_path / "whole", range(4), range(2)), write(tmp_path / "damaged", range(4, 8), range(2))
    change_a_byte(damaged / file, -3)
    GroupStore.open(damaged)  # the change shows in its hash alone
    cure = f"delete {damaged} and build it again, or copy it again from an undamaged copy"
    told = f"{damaged / file}: its content has changed: the manifest has another sha256.\n  What to do:   {cure}\n"
    new = [str(tmp_path / "a"), str(tmp_path / "b")]
    assert main(["merge", str(whole), str(damaged), "--into", new[0]]) == 1
    assert capsys.readouterr().err == told
    assert main(["split", str(damaged), "--into", *new, "--shares", "0.5", "0.5"]) == 1
    assert capsys.readouterr().err == told
    assert main(["analyse", str(damaged), "--into", new[0]]) == 1
    assert capsys.readouterr().err == told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged", "whole"]


def test_verifying_a_large_store_shows_progress(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "large", range(100), range(2), dim=1500)
    split(path, {tmp_path / "a": 0.5, tmp_path / "b": 0.5})
    megabytes = sum(file.stat().st_size for file in path.glob("*.safetensors")) // 10**6
    assert megabytes == 3
    assert re.match(r"Verified 3 MB in \d+ s \(", capsys.readouterr().err)


def test_shares_have_to_add_up(tmp_path: Path) -> None:
    path = write(tmp_path / "whole", range(4), range(2))
    with pytest.raises(ConfigError, match="add up to 1"):
        split(path, {tmp_path / "a": 0.5, tmp_path / "b": 0.4})
    with pytest.raises(ConfigError, match="its share of 4 queries is 0"):
        split(path, {tmp_path / "a": 0.95, tmp_path / "b": 0.05})


def test_the_commands_do_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, names = write(tmp_path / "whole", range(10), range(2)), [str(tmp_path / name) for name in "ab"]
    assert main(["split", str(path), "--into", *names, "--shares", "0.8", "0.2"]) == 0
    assert main(["merge", *names, "--into", str(tmp_path / "again")]) == 0
    assert "is ready" in capsys.readouterr().out
    assert content(GroupStore.open(tmp_path / "again")) == content(GroupStore.open(path))
    assert main(["merge", *names, "--into", str(tmp_path / "again")]) == 1
    with pytest.raises(StoreError, match="already exists"):
        merge(names, tmp_path / "again")
