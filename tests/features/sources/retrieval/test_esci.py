"""esci reads the published examples and products, and makes pools of what people judged."""

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from features.sources.retrieval.esci import Esci
from registry import SOURCES, ConfigError

# The labels of each query's six products; query 4 has no exact one, 5 is large only, 6 in Spanish.
LABELS = {1: "EESCII", 2: "EISSCC", 3: "EEEEEE", 4: "SSCCII", 5: "EEEEEE", 6: "EEEEEE"}


def examples() -> list[dict[str, Any]]:
    return [
        {
            "example_id": 10 * query + place,
            "query": f" query {query}",
            "query_id": query,
            "product_id": f"P{query}{place}",
            "product_locale": "es" if query == 6 else "us",
            "esci_label": label,
            "small_version": int(query != 5),
            "large_version": 1,
            "split": "test" if query == 3 else "train",
        }
        for query, labels in LABELS.items()
        for place, label in enumerate(labels)
    ]


def products() -> list[dict[str, Any]]:
    judged = [(each["product_id"], each["product_locale"]) for each in examples()]
    return [
        {
            "product_id": id,
            "product_title": None if id == "P13" else f"Title\n of  {id}",
            "product_description": None,
            "product_bullet_point": f"point\none of {id}",
            "product_brand": "ACME" if id < "P2" and id != "P13" else None,
            "product_color": None if id == "P13" else "red",
            "product_locale": locale,
        }
        # The same product may be on sale in several countries.
        for id, locale in [*judged, *((f"Q{place}", "us") for place in range(20)), ("P10", "jp")]
    ]


@pytest.fixture
def folder(tmp_path: Path) -> str:
    for name, rows in (("examples", examples()), ("products", products())):
        table = pyarrow.Table.from_pylist(rows)
        parquet.write_table(table, tmp_path / f"shopping_queries_dataset_{name}.parquet")
    return str(tmp_path)


def judged(*queries: int) -> set[str]:
    return {f"P{query}{place}" for query in queries for place in range(6)}


def pool(source: Esci) -> set[str]:
    ids = [each.id for each in source.candidates()]
    assert len(set(ids)) == len(ids)
    return set(ids)


def test_one_exact_product_counts_and_the_pool_is_all_that_was_judged(folder: str) -> None:
    source = Esci(folder)
    queries = list(source.queries())
    assert [(query.id, query.text, query.split) for query in queries] == [
        (id, f"query {id}", None) for id in ("1", "2", "3")
    ]
    assert [len(query.relevant) for query in queries] == [1, 1, 1]
    assert next(iter(queries[0].relevant)) in ("P10", "P11") and queries[1].relevant == {"P20": 1.0}
    assert pool(source) == judged(1, 2, 3)
    drawn = Counter(next(iter(next(iter(Esci(folder, seed=seed).queries())).relevant)) for seed in range(200))
    assert set(drawn) == {"P10", "P11"} and min(drawn.values()) > 60


def test_a_products_text_is_made_of_the_wanted_fields(folder: str) -> None:
    texts = {each.id: each.text for each in Esci(folder).candidates()}
    assert texts["P10"] == "Title of P10. Brand: ACME. Color: red" and texts["P20"] == "Title of P20. Color: red"
    assert texts["P13"] == "P13"
    source = SOURCES.build({"name": "esci", "path": folder, "fields": ["bullet_point", "description", "title"]})
    texts = {each.id: each.text for each in source.candidates()}  # type: ignore[attr-defined]
    assert texts["P10"] == "point one of P10. Title of P10" and texts["P13"] == "point one of P13"


def test_exact_and_graded_products_can_count(folder: str) -> None:
    assert [len(query.relevant) for query in Esci(folder, relevance="exact").queries()] == [2, 1, 6]
    [first, *_] = Esci(folder, relevance="graded").queries()
    assert first.relevant == {"P10": 1.0, "P11": 1.0, "P12": 0.1, "P13": 0.01}


def test_the_large_version_and_other_locales_have_other_queries(folder: str) -> None:
    assert [query.id for query in Esci(folder, version="large").queries()] == ["1", "2", "3", "5"]
    assert [query.id for query in Esci(folder, locale="es").queries()] == ["6"]
    assert pool(Esci(folder, locale="es", pool="catalogue")) == judged(6)


def test_queries_and_candidates_are_drawn_to_a_size(folder: str) -> None:
    source = Esci(folder, num_queries=2, num_candidates=5)
    queries, found = list(source.queries()), pool(source)
    assert len(queries) == 2 and len(found) == 5
    assert {id for query in queries for id in query.relevant} < found < judged(*(int(query.id) for query in queries))
    catalogue = pool(Esci(folder, pool="catalogue"))
    assert catalogue == judged(1, 2, 3, 4, 5) | {f"Q{place}" for place in range(20)}
    assert len(pool(Esci(folder, pool="catalogue", num_candidates=30)) & catalogue) == 30
    with pytest.raises(ConfigError, match="2 is less than the 3 relevant candidates"):
        pool(Esci(folder, num_candidates=2))


def test_published_splits_are_kept(tmp_path: Path) -> None:
    rows = [
        {**each, "query_id": each["query_id"] + 10 * copy, "query": f"{copy} {each['query']}"}
        for copy in range(20)
        for each in examples()
    ]
    for name, table in (("examples", rows), ("products", products())):
        path = tmp_path / f"shopping_queries_dataset_{name}.parquet"
        parquet.write_table(pyarrow.Table.from_pylist(table), path)
    queries = list(Esci(str(tmp_path), splits="published").queries())
    assert Counter(query.split for query in queries) == {"train": 36, "val": 4, "test": 20}
    assert {int(query.id) % 10 for query in queries if query.split == "test"} == {3}


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no shopping_queries_dataset_examples\.parquet") as error:
        Esci(str(tmp_path)).fingerprint()
    assert "github.com/amazon-science/esci-data" in str(error.value)
    with pytest.raises(ConfigError, match="no such folder"):
        Esci(str(tmp_path / "nowhere")).fingerprint()


def test_the_fingerprint_depends_on_files_and_options(folder: str) -> None:
    sources = [Esci(), Esci(folder), Esci(folder, seed=1), Esci(folder, fields=["title"]), Esci(folder, locale="jp")]
    fingerprints = [source.fingerprint() for source in sources]
    assert Esci(folder).fingerprint() == fingerprints[1]
    assert all(one != other for place, one in enumerate(fingerprints) for other in fingerprints[:place])
