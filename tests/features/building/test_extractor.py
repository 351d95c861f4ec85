"""A look at a source's first item finds what is wrong with the user's own files, and leaves published data alone."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from features.extractors.texts import TextsExtractor
from features.texts.groups import TextGroup
from registry import EXTRACTORS, SOURCES, ConfigError

GROUP = {"query_id": "q", "query": "q", "candidates": [{"id": "a", "text": "a"}]}


def extractor(name: str, source: dict[str, Any]) -> Any:
    options = {} if name == "texts" else {"encoder": None}
    return EXTRACTORS.build({"name": name, "source": source, **options})


@pytest.mark.parametrize("name", ["embedding", "texts", "candidate_pool"])
def test_a_bad_first_line_is_found_in_groups_also_as_a_pool(name: str, tmp_path: Path) -> None:
    path = tmp_path / "groups.jsonl"
    path.write_text(json.dumps(GROUP | {"query": ""}))
    with pytest.raises(ConfigError, match="line 1: query: empty"):
        extractor(name, {"name": "jsonl", "path": str(path)}).check_source()


def test_files_without_any_candidate_are_named(tmp_path: Path) -> None:
    (tmp_path / "texts.csv").write_text("id,text\n")
    with pytest.raises(ConfigError, match=r"(?s)texts.csv: has no candidates.*features.source"):
        extractor("candidate_pool", {"name": "pool_files", "candidates": str(tmp_path / "texts.csv")}).check_source()
    for name in ("collection.tsv", "queries.tsv", "qrels.txt"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ConfigError, match=r"(?s)collection.tsv.*: has no candidates"):
        extractor("candidate_pool", {"name": "trec", "path": str(tmp_path)}).check_source()


def test_a_source_of_other_data_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    class Published:
        def fingerprint(self) -> dict[str, Any]:
            return {"name": "published"}

        def groups(self) -> Iterator[TextGroup]:
            raise AssertionError("it was read")

    monkeypatch.setattr(SOURCES, "build", lambda *_, **__: Published())
    TextsExtractor("published").check_source()
