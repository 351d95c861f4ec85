"""The tables in the documentation are those of the results, and its commands are valid."""

import json
import re
from pathlib import Path

import pytest
from test_configs import describe_any

from benchmarks.__main__ import RESULTS, tables
from benchmarks.comparison import markdown
from benchmarks.tables.config import TableSpec
from benchmarks.tables.rendering import Rendering
from benchmarks.tables.table import Table
from registry import load_config

DOCS = "\n".join(file.read_text() for file in sorted((Path(__file__).resolve().parent.parent / "docs").glob("*.md")))


PUBLISHED = [name for name in tables() if (RESULTS / f"{name}.json").is_file()]


@pytest.mark.parametrize("name", PUBLISHED)
def test_tables_are_rendered_from_the_results(name: str) -> None:
    table = Table(TableSpec.load(name), RESULTS, Path())
    assert Rendering.of(table.spec, table.findings()).grid() in DOCS


@pytest.mark.parametrize(
    "name",
    [
        "scaling",
        "search",
        "kmeans",
        "training_throughput",
        "sampling",
        "kept_states",
        "hidden_states",
        "sandbox",
        "verification",
        "personal",
        "latency",
        "best_of",
        "serving",
    ],
)
def test_ratios_are_rendered_from_the_results(name: str) -> None:
    assert markdown(json.loads((RESULTS / f"{name}.json").read_text())) in DOCS


def test_every_config_and_override_is_valid() -> None:
    shown = re.findall(r"python train\.py --config (\S+)((?: +[\w.]+=\S+)*)", DOCS)
    assert len(shown) >= 3
    for config, overrides in shown:
        load_config(config, overrides.split(), describe=describe_any)
