"""TableConfig: what a yaml in configs/tables/ can say, and the run config of each of its cells."""

import dataclasses
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import MinLen

from ranking.metrics import metric_name
from ranking.pools.pool_evaluation import DIRECT, UNMIXED
from ranking.stores.group_store import GroupStore
from registry import RANKERS, ConfigError, FeaturesConfig, RunConfig, load_config
from registry.config import CONFIGS
from registry.ranges import Seed, Text
from registry.schema import NUMBER
from training.results.report import BOUND, WITHIN

Costs = Literal["parameters", "loaded", "fit", "score", "memory"]
Value = Costs | Literal["test", "val", "gain", "lc_win_rate", "scaling", "spread", "context_cost", "below", "change"]
OF_METRICS, OF_CENTROIDS = ("test", "val", "gain", "below"), ("spread", "context_cost")
Plot = Literal["by_k", "ranges", "heat_map", "curves"]
Overrides = list[str]
_MODEL = ("model", "package", "revision", "gguf")
_OF_RUNS = ("overrides", "config", "columns", "backbone", "fuses")


@dataclass(frozen=True)
class InColumn:
    """What a row changes in one column.

    Args:
        config: The run config that the cell starts from; null for the row's.
        data: A features config or the path of a store; null for the column's.
        overrides: Options of the run, after those of the column.
    """

    config: Text | None = None
    data: Text | None = None
    overrides: Overrides = field(default_factory=list)


@dataclass(frozen=True)
class Row:
    """A method.

    Args:
        name: The method's name in the table.
        config: The run config that its cells start from; null for the table's.
        overrides: Options of the run, as on train.py's command line.
        columns: Column -> what differs there, such as the states of another model.
        of: The row whose runs this row reads, for a reference that needs no run of its own; null for its own runs.
        fuses: Rows whose runs are the `runs` of this row's ranker, a `fusion`, in this order.
        scorer: The scorer of the run that the row shows; null for the ranker.
        ours: Whether the row is compared with the best row that is not ours; the others are the rivals.
        bound: Whether the row is a bound, such as the oracle, which is neither best nor a rival.
        backbone: `generator` makes the model that the features are of the backbone of the row's ranker.
        million: The M in which weights of the row are counted: 2^20 as for the paper's rankers, or 10^6 as for its
            reward models.
    """

    name: Text
    config: Text | None = None
    overrides: Overrides = field(default_factory=list)
    columns: dict[str, InColumn] = field(default_factory=dict)
    of: Text | None = None
    fuses: list[Text] = field(default_factory=list)
    scorer: Text | None = None
    ours: bool = False
    bound: bool = False
    backbone: Literal["generator"] | None = None
    million: Literal["2^20", "10^6"] = "2^20"


@dataclass(frozen=True)
class Column:
    """A data set, or a value of the runs.

    Args:
        name: The column's name in the table.
        data: A features config or the path of a store; null for that of the row's config.
        overrides: Options of the run, as on train.py's command line.
        judged: Options that change only the data on which the finished run is judged, for a test of transfer.
        value: What the column shows of a run.
        metric: The metric; null for the table's.
        scorer: Another scorer of the same run; null for the row's.
        over: The scorer that a `gain` is measured against, or that `below` counts the worse seeds against.
        between: For a `change`: two columns; it is what the second is more than the first, in percent of the first.
    """

    name: Text
    data: Text | None = None
    overrides: Overrides = field(default_factory=list)
    judged: Overrides = field(default_factory=list)
    value: Value = "test"
    metric: Text | None = None
    scorer: Text | None = None
    over: Text | None = None
    between: tuple[Text, Text] | None = None


@dataclass(frozen=True)
class Section:
    """A part of the table with all of its rows, such as one base model.

    Args:
        name: The title of the part.
        overrides: Options of all its runs, as on train.py's command line.
        paper: Row -> column -> the number in the paper, in the unit of the table.
    """

    name: str = ""
    overrides: Overrides = field(default_factory=list)
    paper: dict[str, dict[str, float | str]] = field(default_factory=dict)


@dataclass(frozen=True)
class TableConfig:
    """Everything that decides a table.

    Args:
        question: The question that the table answers; its caption.
        config: The run config that cells start from.
        overrides: Options of all runs, as on train.py's command line.
        rows: The methods.
        columns: The data sets or values.
        sections: Parts that repeat all rows, such as base models.
        source: Where the paper's numbers are from.
        metric: The metric of all columns.
        percent: Whether metrics are shown times 100.
        seeds: The seeds of each cell.
        costs: Costs to show beside the columns.
        plot: The picture to draw.
        measure: Measures more of each finished run: how much centroids matter to LRanker.
        data: A features config or the path of a store to use instead of every column's data.
        imports: Modules outside the repository that register components used here.
    """

    question: Text
    config: Text
    rows: Annotated[list[Row], MinLen(1)]
    columns: Annotated[list[Column], MinLen(1)]
    overrides: Overrides = field(default_factory=list)
    sections: Annotated[list[Section], MinLen(1)] = field(default_factory=lambda: [Section()])
    source: Text | None = None
    metric: Text = "mrr"
    percent: bool = False
    seeds: Annotated[list[Seed], MinLen(1)] = field(default_factory=lambda: [0])
    costs: list[Costs] = field(default_factory=list)
    plot: Plot | None = None
    measure: Literal["centroids"] | None = None
    data: Text | None = None
    imports: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """A cell's run with one seed: the config to train with, other data to judge on, and cells whose runs it fuses."""

    section: str
    row: str
    column: str
    seed: int
    config: RunConfig
    name: str
    judged: RunConfig | None = None
    fuses: tuple["Cell", ...] = ()

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What identifies the cell in the results of its table."""
        return self.section, self.row, self.column, self.seed


@dataclass(frozen=True)
class TableSpec:
    """A checked table.

    Args:
        name: The name of the table and of its files.
        config: Its yaml, with rows, columns and sections as objects.
    """

    name: str
    config: TableConfig

    @classmethod
    def load(cls, name: str, overrides: Sequence[str] = ()) -> "TableSpec":
        """Read `configs/tables/<name>.yaml` or the yaml with this path, and check all but its cells.

        Raises:
            ConfigError: For the first mistake, with its yaml path.
        """
        file = CONFIGS / "tables" / f"{name}.yaml"
        path = file if file.is_file() else Path(name)
        config = load_config(path, overrides, into=TableConfig)
        try:
            _check_names(config)
        except ConfigError as error:
            error.file = error.file or path.name
            raise
        suffix = "" if config.data is None else f"_{Path(config.data).stem}"
        return cls(path.stem + suffix, _with_data(config))

    def place(self, column: Column) -> str:
        """The first column that shows the same runs."""
        return _place(self.config, column)

    def runs_of(self, row: Row) -> Row:
        """The row whose runs a row shows."""
        return row if row.of is None else next(each for each in self.config.rows if each.name == row.of)

    def places(self) -> Iterator[tuple[Section, Row, Column]]:
        """Each section, row and column with runs of its own."""
        columns = [column for column in self.config.columns if self.place(column) == column.name]
        rows = [row for row in self.config.rows if row.of is None]
        with_runs = [column for column in columns if column.value != "change"]
        yield from itertools.product(self.config.sections, rows, with_runs)

    def cells(self) -> Iterator[Cell]:
        """Every cell with runs of its own, with its checked config.

        Raises:
            ConfigError: For a config or override that does not fit, with the row and column it is from.
        """
        for section, row, column in self.places():
            yield from self._cells(section, row, column, f"rows[{self.config.rows.index(row)}]")

    def _cells(self, section: Section, row: Row, column: Column, path: str) -> Iterator[Cell]:
        here = row.columns.get(column.name, InColumn())
        name, data = here.config or row.config or self.config.config, here.data or column.data
        self._check_effects(row, column, here, data, path)
        # A row may replace whole components, so that a column's options come after it.
        given = [*self.config.overrides, *section.overrides, *row.overrides, *column.overrides, *here.overrides]
        for seed in self.config.seeds:
            configs = []
            for more in ([], column.judged)[: 1 + bool(column.judged)]:
                try:
                    overrides = [*_on_data(data, [*given, *more]), f"seed={seed}"]
                    configs.append(load_config(name, _with_backbone(row, name, overrides)))
                except ConfigError as error:
                    where = f"{path} ({row.name}) x {column.name}: {error.path}"
                    changed = ConfigError(where, error.problem, known=error.known, cure=error.cure)
                    changed.meant, changed.file = error.meant, f"{self.name}.yaml"
                    raise changed from error
            for each in self.config.columns:
                if self.place(each) == column.name and each.value in OF_METRICS:
                    self._check_metric(each, configs[-1], f"{path} ({row.name}) x {each.name}")
            judged = configs[1] if column.judged else None
            fuses = tuple(self._fused(section, row, column, seed, configs[0], path))
            yield Cell(section.name, row.name, column.name, seed, configs[0], Path(name).stem, judged, fuses)

    def _fused(
        self, section: Section, row: Row, column: Column, seed: int, config: RunConfig, path: str
    ) -> Iterator[Cell]:
        """The cells of the same column and seed in the rows that a row fuses."""
        if row.fuses and config.ranker["name"] != "fusion":
            problem = f"the ranker of {row.name} is {config.ranker['name']}."
            error = ConfigError(f"{path}.fuses", problem, cure="ranker={name: fusion} in the row's overrides")
            error.file = f"{self.name}.yaml"
            raise error
        for name in row.fuses:
            place = next(place for place, each in enumerate(self.config.rows) if each.name == name)
            cells = self._cells(section, self.config.rows[place], column, f"rows[{place}]")
            yield next(cell for cell in cells if cell.seed == seed)

    def _check_effects(self, row: Row, column: Column, here: InColumn, data: str | None, path: str) -> None:
        """Refuse a store where only options of features tell cells apart: there all would be one run."""
        if data is None or not Path(data).is_dir():
            return
        place = f"columns[{self.config.columns.index(column)}]"
        has_own_config = (here.config or row.config) is not None
        given = {
            f"{path}.overrides": [] if has_own_config else row.overrides,
            f"{path}.columns.{column.name}.overrides": [] if here.config else here.overrides,
            # The only column tells nothing apart: its data are just others.
            f"{place}.overrides": column.overrides if len(self.config.columns) > 1 else [],
            f"{place}.judged": column.judged,
        }
        for where, overrides in given.items():
            if overrides and all(map(_is_of_features, overrides)):
                problem = f"has no effect: {data} is a store, and options of features do not change a finished store."
                cure = "give a yaml with features, such as data=features/math_llama3.1.yaml"
                error = ConfigError(where, problem, cure=cure)
                error.file = f"{self.name}.yaml"
                raise error

    def _check_metric(self, column: Column, config: RunConfig, where: str) -> None:
        metric = column.metric or self.config.metric
        known = [metric_name(node) for node in config.ranker.get("metrics", [])]
        if known and metric not in known:
            cure = "ranker.metrics=[...] in the overrides, or another metric"
            problem = f"the runs have no metric {metric!r}."
            error = ConfigError(where, problem, given=metric, known=known, cure=cure)
            error.file = f"{self.name}.yaml"
            raise error


def _place(config: TableConfig, column: Column) -> str:
    same = (column.data, column.overrides, column.judged)
    return next(each.name for each in config.columns if (each.data, each.overrides, each.judged) == same)


def _with_data(config: TableConfig) -> TableConfig:
    """The table on other data: columns that only differed by their data become one, and base models have no say."""
    if config.data is None:
        return config
    kept: dict[str, Column] = {}
    # The column that stands for each, as those that only differed by their data are one.
    standing: dict[str, Column] = {}
    for column in config.columns:
        unnamed = dataclasses.replace(column, name="-", data=config.data)
        standing[column.name] = kept.setdefault(json.dumps(dataclasses.asdict(unnamed)), column)
    names = _names_on(Path(config.data).stem, [*kept.values()], config.metric)
    columns = []
    for column in kept.values():
        between = column.between and (names[standing[column.between[0]].name], names[standing[column.between[1]].name])
        columns.append(dataclasses.replace(column, name=names[column.name], data=config.data, between=between))
    question = f"{config.question}; here on {Path(config.data).stem}"
    rows = [dataclasses.replace(row, columns={}) for row in config.rows]
    return dataclasses.replace(config, question=question, rows=rows, columns=columns, sections=[Section()])


def _names_on(stem: str, columns: Sequence[Column], metric: str) -> dict[str, str]:
    """The names of columns on other data: columns that had data of their own are named by the new, and told apart."""
    ways = [
        {
            column.name: name.format(stem=stem, metric=column.metric or metric, column=column.name)
            if column.data is not None
            else column.name
            for column in columns
        }
        for name in ("{stem}", "{stem} {metric}", "{stem}, as {column}")
    ]
    return next(names for names in ways if len({*names.values()}) == len(columns))


def _on_data(data: str | None, overrides: list[str]) -> list[str]:
    """The overrides of a run, on a store or on the features of a config in the place of those of the run.

    A store is what it is: overrides of features have no effect on it.
    """
    if data is None:
        return overrides
    of_features = [each for each in overrides if _is_of_features(each)]
    others = [each for each in overrides if each not in of_features]
    if Path(data).is_dir():
        return ["features=null", *others, f"datamodule.path={json.dumps(data)}"]
    further = [each.name for each in dataclasses.fields(RunConfig) if each.name not in ("features", "imports")]
    features = load_config(data, of_features, into=FeaturesConfig, ignore=further).features
    return ["features=null", f"features={json.dumps(features)}", *others]


def _is_of_features(override: str) -> bool:
    return override.startswith("features.")


def _with_backbone(row: Row, name: str, overrides: list[str]) -> list[str]:
    """The overrides of a run, with the model that the features are of as its ranker's backbone if the row asks for it.

    A model that responds is the backbone with the responses' texts; the model of a store is in its manifest.
    """
    if row.backbone is None:
        return overrides
    config = load_config(name, overrides)
    path = Path(config.datamodule.get("path") or "")
    if config.features is None and path.is_dir():
        known: Any = GroupStore.open(path).encoder
    else:
        features: Any = config.features or {}
        known = features.get("generator") or features.get("encoder")
    model = {key: value for key in _MODEL if (value := (known or {}).get(key)) is not None}
    if not model:
        problem = "the model that the features are of is unknown."
        raise ConfigError("backbone", problem, cure="leave it out, and set ranker.backbone in the row's overrides")
    return [*overrides, f"ranker.backbone={json.dumps(model)}"]


def _check_names(config: TableConfig) -> None:
    for kind in ("rows", "columns", "sections"):
        names = [each.name for each in getattr(config, kind)]
        if twice := [name for place, name in enumerate(names) if name in names[:place]]:
            cure = f"another name for one of the two {kind}"
            raise ConfigError(f"{kind}[{names.index(twice[0])}].name", f"{twice[0]!r} is there twice.", cure=cure)
    rows, columns = ([each.name for each in part] for part in (config.rows, config.columns))
    with_runs = [row.name for row in config.rows if row.of is None]
    for place, row in enumerate(config.rows):
        if row.of is not None and row.of not in with_runs:
            raise ConfigError(f"rows[{place}].of", "no such row with runs.", given=row.of, known=with_runs)
        if row.of is not None and (useless := next((key for key in _OF_RUNS if getattr(row, key)), None)):
            problem = f"has no effect: the runs are those of {row.of}."
            cure = "leave it out, or leave out `of`, and the row has runs of its own; `scorer` alone says what it shows"
            raise ConfigError(f"rows[{place}].{useless}", problem, cure=cure)
        trained = [each.name for each in config.rows if each.of is None and not each.fuses]
        if unknown := [name for name in row.fuses if name not in trained]:
            raise ConfigError(f"rows[{place}].fuses", "no such row to fuse.", given=unknown[0], known=trained)
        for name in row.columns:
            path = f"rows[{place}].columns.{name}"
            if name not in columns:
                raise ConfigError(path, "no such column.", given=name, known=columns)
            if (first := _place(config, config.columns[columns.index(name)])) != name:
                problem = f"the runs of this column are those of {first}."
                raise ConfigError(path, problem, cure=f"{first} instead, or other data or overrides for {name}")
    for place, column in enumerate(config.columns):
        if column.value in ("gain", "below") and column.over is None:
            problem = f"a {column.value} needs the scorer it is measured against."
            cure = "over: the name of a ranker or reference of the same runs, such as random"
            raise ConfigError(f"columns[{place}].over", problem, cure=cure)
        if (column.value == "change") != (column.between is not None):
            problem = "a change is between two columns; no other value is."
            raise ConfigError(f"columns[{place}].between", problem, cure="value: change, between: [first, second]")
        others = [each.name for each in config.columns if each.value in ("test", "val")]
        if unknown := [name for name in column.between or () if name not in others]:
            raise ConfigError(f"columns[{place}].between", "no such column.", given=unknown[0], known=others)
        if column.value in OF_CENTROIDS and config.measure != "centroids":
            raise ConfigError("measure", f"{column.value} of {column.name!r} needs this.", cure="measure: centroids")
        if config.plot == "curves" and not NUMBER.fullmatch(column.name.rpartition(" ")[2]):
            cure = "names such as `depth 0.6`, whose numbers are the axis"
            raise ConfigError(f"columns[{place}].name", f"{column.name!r} ends in no number.", cure=cure)
    scorers = {
        path: scorer
        for kind in ("rows", "columns")
        for place, each in enumerate(getattr(config, kind))
        for path, scorer in ((f"{kind}[{place}].{key}", getattr(each, key, None)) for key in ("scorer", "over"))
        if scorer is not None
    }
    for path, scorer in scorers.items():
        if scorer not in (known := [*RANKERS.names(), BOUND, DIRECT, UNMIXED, WITHIN]):
            raise ConfigError(path, f"no ranker or reference is called {scorer!r}.", given=scorer, known=known)
    for place, section in enumerate(config.sections):
        for row, values in section.paper.items():
            path = f"sections[{place}].paper"
            if row not in rows:
                raise ConfigError(f"{path}.{row}", "no such row.", given=row, known=rows)
            if unknown := [name for name in values if name not in [*columns, *config.costs]]:
                raise ConfigError(f"{path}.{row}.{unknown[0]}", "no such column.", given=unknown[0], known=columns)
