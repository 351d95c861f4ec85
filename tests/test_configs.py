"""Every yaml of the repository fits the code, and every component can be read about before it is used."""

import dataclasses
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from benchmarks.tables.config import Cell, TableSpec
from registry import KINDS, ConfigError, FeaturesConfig, Registry, RunConfig, load_config, schema
from registry.config import CONFIGS
from training import run
from training.dashboards.sweep import Sweep

SHAPES = {"features": FeaturesConfig}
SHIPPED = {
    str(path.relative_to(CONFIGS)): SHAPES.get(path.relative_to(CONFIGS).parts[0], RunConfig)
    for path in sorted(CONFIGS.rglob("*.yaml"))
    if path.relative_to(CONFIGS).parts[0] not in ("base", "sweeps", "tables")
}
TABLES = sorted(path.stem for path in (CONFIGS / "tables").glob("*.yaml"))
SWEEPS = sorted((CONFIGS / "sweeps").glob("*.yaml"))
COMPONENTS = [
    (registry, name)
    for registry in KINDS.values()
    for name in registry.names()
    if registry.get(name).__module__.startswith(registry.home)
]


def describe_any(start: Path) -> dict[str, Any]:
    """What a start would say of itself."""
    return {"ranker": {"name": "list_ranker"}, "imports": {}}


def load_with_every_gap_filled(name: str, shape: type) -> Any:
    overrides: list[str] = []
    while True:
        try:
            return load_config(name, overrides, into=shape, describe=describe_any)
        except ConfigError as error:
            if error.problem != "has to be set.":
                raise
            overrides.append(f"{error.path}=something")


@pytest.mark.parametrize(("name", "shape"), SHIPPED.items())
def test_every_shipped_config_fits_the_code(name: str, shape: type) -> None:
    config = load_with_every_gap_filled(name, shape)
    if isinstance(config, RunConfig):
        run.check(config)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_config_begins_with_a_sentence_that_says_what_it_is(name: str) -> None:
    first = (CONFIGS / name).read_text().splitlines()[0]
    assert first.startswith("# ") and first.endswith(".")


@cache
def cells(table: str) -> list[Cell]:
    """A table's cells of one seed; those of the others differ by nothing else."""
    return [*TableSpec.load(table, ["seeds=[0]"]).cells()]


@pytest.mark.parametrize("name", TABLES)
def test_every_cell_of_every_table_fits_the_code(name: str) -> None:
    checked = set()
    for cell in cells(name):
        for config in (cell.config, cell.judged or cell.config):
            # Some columns are for machines with a GPU; what features are made of has been checked when they were read.
            here = dataclasses.replace(config, trainer={**config.trainer, "accelerator": "cpu"})
            if (key := json.dumps({**dataclasses.asdict(here), "features": None, "seed": 0})) not in checked:
                run.check(here)
                checked.add(key)
    assert checked
    first = (CONFIGS / "tables" / f"{name}.yaml").read_text().splitlines()[0]
    assert first.startswith("# ") and first.endswith(".")


@pytest.mark.parametrize("name", TABLES)
def test_all_rows_of_a_column_are_judged_on_the_same_draws(name: str) -> None:
    draws: dict[tuple[str, str], list[list[Any]]] = {}
    for cell in cells(name):
        datamodule = (cell.judged or cell.config).datamodule
        what = [datamodule.get(option) for option in ("eval_draws", "eval_seed", "split_shares", "num_candidates")]
        draws.setdefault((cell.section, cell.column), []).append(what)
    for found in draws.values():
        # A pool's own lists are ranked whole: nothing is drawn.
        drawn = [each[:3] for each in found if each[0] is not None]
        assert all(each == drawn[0] for each in drawn) and len({str(each[2]) for each in found}) == 1, found
        # Null is all, such as the ten of each query in the quickstart's table.
        assert len({each[3] for each in found} - {None}) <= 1, found


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_value_of_a_sweep_is_an_override_of_its_config(path: Path) -> None:
    assert Sweep.load(path.name).num_runs > 1


@pytest.mark.parametrize("registry", KINDS.values(), ids=KINDS)
def test_every_kind_has_a_component(registry: Registry) -> None:
    assert registry.names()


@pytest.mark.parametrize(("registry", "name"), COMPONENTS, ids=[f"{kind.kind}-{name}" for kind, name in COMPONENTS])
def test_every_component_is_found_by_its_name_and_says_what_its_options_are(registry: Registry, name: str) -> None:
    factory = registry.get(name)
    is_package = hasattr(__import__(registry.home, fromlist=["*"]), "__path__")
    folder, _, file = factory.__module__.rpartition(".")
    if is_package:
        assert file == name and f"{folder}.".startswith(f"{registry.home}.")
    else:
        assert factory.__module__ == registry.home
    assert schema.first_line(factory).endswith(".")
    for option in schema.options(factory).values():
        assert option.doc or option.name in registry.provided, f"{option.name} is not in the Args of {name}"


def test_every_key_of_a_run_says_what_it_is() -> None:
    for shape in (RunConfig, FeaturesConfig):
        assert all(option.doc for option in schema.options(shape).values())
