"""Config: a yaml with its bases and overrides, checked and merged into one plain mapping."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from registry import schema
from registry.errors import ConfigError, TakenNameError, shown
from registry.imports import import_modules, imported_modules
from registry.kinds import CALLBACKS, DATAMODULES, EXTRACTORS, LOGGERS, RANKERS
from registry.ranges import FilePath, NonNegative, Seed, Text

CONFIGS = Path(__file__).resolve().parent.parent / "configs"

_MISREAD = re.compile(
    r"[-+]?(\d[\d_]*(:[0-5]?\d)+(\.[\d_]*)?|0[\d_]+|0b[01_]+|0x[\da-fA-F_]+|(?=[\d.]*\d_)[\d_]*\.?[\d_]*)"
)

_HASH = 32
"""The fewest digits of a hash, which is a text even if it has no letter."""

S = TypeVar("S")


@dataclass(frozen=True)
class Start:
    """The trained ranker that training starts from.

    Args:
        name: A run's folder, a `.ckpt` file, or a folder of `save_pretrained`.
        pull: Weight w of w / 2 * |weights - start's weights|^2, which is added to the loss (L2-SP, Li et al. 2018).
        counts: Whether the start itself can be the best checkpoint: a validation before the first step.
        sha256: The hash of the start's weights, which a run writes into its config; null to take any weights.
    """

    name: FilePath
    pull: NonNegative = 0.0
    counts: bool = True
    sha256: Text | None = None


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run of train.py.

    Args:
        ranker: The model, with its loss, optimizer, schedule and metrics.
        datamodule: The training, validation and test data.
        features: How to build the store that the datamodule reads, if it does not exist yet.
        trainer: Any options of Lightning's Trainer.
        logger: One or several loggers; null for none.
        callbacks: Your own callbacks, in addition to those of every run.
        references: Rankers without weights to compare the ranker with; null for those that fit the data.
        init_from: The trained ranker to start from; the ranker's options are then its own unless `ranker:` changes
            them. Its path, or a mapping with `name`, the path, and options.
        monitor: The validation metric that selects the best checkpoint; higher is better.
        save_every: Seconds between saves of the state to resume from, in addition to the save at each validation.
        seed: Seed of weights, batches, draws and dropout.
        runs: Folder of all runs; this run gets `runs/<config>/<time>`.
        imports: Modules outside the repository that register components used here: a list of names, or a mapping of
            names to folders.
    """

    ranker: Annotated[dict[str, Any], RANKERS]
    datamodule: Annotated[dict[str, Any], DATAMODULES]
    features: Annotated[dict[str, Any], EXTRACTORS] | None = None
    trainer: dict[str, Any] = field(default_factory=dict)
    logger: list[Annotated[dict[str, Any], LOGGERS]] = field(default_factory=lambda: [{"name": "csv"}])
    callbacks: list[Annotated[dict[str, Any], CALLBACKS]] = field(default_factory=list)
    references: list[Annotated[dict[str, Any], RANKERS]] | None = None
    init_from: Start | None = None
    monitor: Text = "val/mrr"
    save_every: NonNegative = 60.0
    seed: Seed = 0
    runs: FilePath = "runs"
    imports: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class FeaturesConfig:
    """Everything that decides what `python -m features` builds.

    Args:
        features: How to build the store.
        imports: Modules outside the repository that register components used here: a list of names, or a mapping of
            names to folders.
    """

    features: Annotated[dict[str, Any], EXTRACTORS]
    imports: dict[str, str] = field(default_factory=dict)


def load_config(
    name: str | Path | None,
    overrides: Sequence[str] = (),
    *,
    into: type[S] = RunConfig,
    ignore: Collection[str] = (),
    describe: Callable[[Path], Mapping[str, Any]] | None = None,
) -> S:
    """Read a yaml with its bases, apply overrides, and check everything; build no components.

    Args:
        name: A path, or a name in configs/ with or without `.yaml`; None to use only overrides.
        overrides: `key=value` with dotted keys and yaml values, such as `ranker.loss=bce`.
        into: The dataclass whose fields the mapping must have.
        ignore: Further keys that are allowed but not checked.
        describe: Reads the description of the ranker that `init_from` names, to complete `ranker:` by its options;
            None to take `ranker:` as it is.

    Raises:
        ConfigError: For the first mistake; names the file, the key and the cure.
    """
    file = find_config(name) if name is not None else None
    try:
        merged = _read_with_bases(file, ()) if file else {}
        if file is not None and file.name == "config.yaml":  # saved by a run, perhaps of an earlier version
            for node in (merged.get("ranker"), *(merged.get("references") or ())):
                drop_training(node)
        for override in overrides:
            merged = merge(merged, _parse_override(override))
        try:
            resolved = OmegaConf.to_container(OmegaConf.create(merged), resolve=True, throw_on_missing=True)
        except OmegaConfBaseException as error:
            key = str(getattr(error, "full_key", None) or "")
            if "???" in str(merged) and "issing mandatory" in str(error):
                raise ConfigError(key, "has to be set.", cure=f"add {key}=VALUE to the command") from error
            raise ConfigError(key, str(error).partition("\n")[0]) from error
        assert isinstance(resolved, dict)
        if into is RunConfig and isinstance(ranker := resolved.get("ranker"), dict) and "baselines" in ranker:
            if file is None or file.name != "config.yaml":
                cure = "references: [bm25, encoder], beside `ranker:` rather than in it"
                raise ConfigError("ranker.baselines", "references are not an option of the ranker.", cure=cure)
            # The config that a run of an earlier version saved.
            resolved["references"] = ranker.pop("baselines")
        try:
            resolved["imports"] = _import(resolved.get("imports", []), [file.parent] if file else [])
        except ConfigError as error:
            if isinstance(error.__cause__, TakenNameError):
                _add_misspelt(error, into, {key: value for key, value in resolved.items() if key != "imports"})
            raise
        if isinstance(logger := resolved.get("logger", []), str | Mapping | None):
            resolved["logger"] = [] if logger is None else [logger]
        if isinstance(start := resolved.get("init_from"), str):
            resolved["init_from"] = {"name": start}
        if describe and isinstance(start := resolved.get("init_from"), Mapping):
            resolved |= _completed_by_start(resolved, schema.bind(Start, start, "init_from")["name"], describe)
        read = {str(key): value for key, value in resolved.items() if key not in ignore}
        return into(**schema.instantiate(into, schema.bind(into, read, "")))
    except ConfigError as error:
        error.file = error.file or (file.name if file else "")
        raise


def drop_training(node: Any) -> None:
    """Remove the options of training that earlier versions saved for a ranker without weights.

    Args:
        node: The ranker's name and options, which are changed.
    """
    if isinstance(node, dict) and isinstance(node.get("name"), str):
        with suppress(ConfigError):  # raised for names of modules that are not imported yet
            for option in {"loss", "optimizer", "schedule"} - schema.options(RANKERS.get(node["name"])).keys():
                node.pop(option, None)


def find_config(name: str | Path) -> Path:
    """The file with this path, or with this name in configs/.

    Raises:
        ConfigError: If no such file exists; lists the names in configs/, or in the folder of it that the name is in.
    """
    known: list[str] = []
    with suppress(OSError):  # raised for names that no file can have
        for path in (Path(name), CONFIGS / name, CONFIGS / f"{name}.yaml"):
            if path.is_file():
                return path.resolve()
        folder = CONFIGS / Path(name).parent
        if folder.is_relative_to(CONFIGS) and ".." not in folder.parts:
            known = sorted(str(path.relative_to(CONFIGS)) for path in folder.glob("*.yaml"))
    raise ConfigError(str(name) or "--config", "no such file, and no such name in configs/.", given=name, known=known)


def merge(base: Any, child: Any) -> Any:
    """Merge a child into its base: mappings key by key; any other value of the child replaces that of the base.

    A mapping without a `name` adds options to a plain name in the base: `{temperature: 2}` to `softmax`. A mapping with
    another name replaces the component in the base and all its options.
    """
    if isinstance(base, str) and isinstance(child, Mapping) and child and "name" not in child:
        base = {"name": base}
    if not isinstance(base, Mapping) or not isinstance(child, Mapping):
        return child
    if "name" in base and child.get("name", base["name"]) != base["name"]:
        return child
    merged = dict(base)
    for key, value in child.items():
        merged[key] = merge(base[key], value) if key in base else value
    return merged


def to_yaml(config: Mapping[str, Any]) -> str:
    """A checked config as yaml text."""
    return OmegaConf.to_yaml(OmegaConf.create(dict(config)))


def _read_with_bases(file: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if file in seen:
        raise ConfigError("base", f"goes in a circle: {' -> '.join(path.name for path in (*seen, file))}.")
    try:
        text = file.read_text(encoding="utf-8")
        if not text.strip():
            cure = "write `ranker:` and `datamodule:` into it, or copy it back if a run saved it"
            raise _in_file(ConfigError("", "is empty.", cure=cure), file)
        content = deepcopy(_parse_yaml(text))
    except OSError as error:
        raise _in_file(ConfigError("", f"cannot be read: {error.strerror}."), file) from error
    except (yaml.YAMLError, UnicodeDecodeError, OmegaConfBaseException) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        reason = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise _in_file(ConfigError(where, f"not valid yaml: {reason.rstrip('.')}."), file) from error
    if not isinstance(content, dict):
        raise _in_file(ConfigError("", "expected `key: value` lines at the top level."), file)
    content = {str(key): value for key, value in content.items()}
    base = content.pop("base", None)
    if base is None:
        return content
    if not isinstance(base, str):
        raise _in_file(ConfigError("base", f"expected the name of one file, got {shown(base)}."), file)
    parent = next((path.resolve() for path in (file.parent / base, CONFIGS / base) if path.is_file()), None)
    if parent is None:
        known = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.yaml"))
        raise _in_file(ConfigError("base", f"no such file: {base!r}.", given=base, known=known), file)
    return merge(_read_with_bases(parent, (*seen, file)), content)


def _import(imports: Any, folders: list[Path]) -> dict[str, str]:
    """Import a list of modules, or a mapping of modules to folders as a run saves it; return the mapping."""
    found = schema.convert(imports, dict[str, str], "imports") if isinstance(imports, Mapping) else {}
    names = list(found) or schema.convert(imports or [], list[str], "imports")
    import_modules(names, [*found.values(), *folders])
    return {name: imported_modules()[name] for name in names}


def _completed_by_start(
    given: Mapping[Any, Any], start: str, describe: Callable[[Path], Mapping[str, Any]]
) -> dict[str, Any]:
    """The ranker, with the options of the start under those that the config gives, and the imports of both."""
    description = describe(Path(start))
    usual, ranker = description["ranker"], given.get("ranker") or {}
    ranker = {"name": ranker} if isinstance(ranker, str) else ranker
    if not isinstance(ranker, Mapping):
        raise ConfigError("ranker", f"expected a name or options, got {shown(ranker)}.")
    if ranker.get("name", usual["name"]) != usual["name"]:
        problem = f"is {ranker['name']}, but {start}, which training starts from, is a {usual['name']}."
        raise ConfigError("ranker.name", problem, cure=f"leave it out, or start from a {ranker['name']}")
    return {"ranker": merge(usual, ranker), "imports": {**description["imports"], **given["imports"]}}


def _add_misspelt(error: ConfigError, into: type, resolved: dict[Any, Any]) -> None:
    """Add a misspelt name in the config to the error of a taken name, because the two often are one mistake."""
    try:
        schema.bind(into, resolved, "")
    except ConfigError as other:
        if other.meant:
            error.cure = f"{error.cure}\n  Also:         {other.path}: {other.problem} Did you mean {other.meant[0]}?"


def _parse_override(override: str) -> dict[str, Any]:
    key, equals, value = override.partition("=")
    if not equals or not all(key.split(".")):
        raise ConfigError(override, "expected key=value, such as trainer.max_epochs=3.")
    if len(value.splitlines()) > 1:
        raise ConfigError(key, f"a value is one line, got {shown(value)}.", cure='key="a\\nb", with \\n for a new line')
    try:
        parsed = deepcopy(_parse_yaml(f"value: {value}" if value else "value: ''", key))
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(key, f"not a yaml value: {value!r}.", cure="quote it: 'key=\"...\"'") from error
    assert isinstance(parsed, dict)
    nested = parsed["value"]
    for part in reversed(key.split(".")):
        nested = {part: nested}
    return nested


@lru_cache(maxsize=512)
def _parse_yaml(text: str, key: str = "") -> Any:
    """The content of a file, or of the value of a key; kept, since the cells of a table share most of theirs."""
    _check_numbers(text, key)
    return OmegaConf.to_container(OmegaConf.create(text), resolve=False)


def _check_numbers(text: str, key: str = "") -> None:
    """Refuse numbers that YAML 1.1 reads in an unexpected way: 1:30 as 90, 1_0 as 10, 010 as 8, 0b1 as 1."""
    stack, seen = [(yaml.compose(text, yaml.SafeLoader), "")], set()
    while stack:
        node, path = stack.pop()
        if id(node) in seen:  # an alias, which may refer to a node that contains it
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            stack += [(each, f"{path}.{name.value}") for name, each in reversed(node.value)]
        elif isinstance(node, yaml.SequenceNode):
            stack += [(each, f"{path}[{place}]") for place, each in reversed([*enumerate(node.value)])]
        elif isinstance(node, yaml.ScalarNode) and node.style is None and _MISREAD.fullmatch(node.value):
            where = key + path.removeprefix(".value") if key else path.removeprefix(".")
            if len(node.value) >= _HASH:
                quoted = f"'{key}=\"{node.value}\"'" if key and not path.removeprefix(".value") else f'"{node.value}"'
                raise ConfigError(where, "these digits are read as a number.", cure=f"quote a text: {quoted}")
            problem = f"{node.value} could be read as another number."
            raise ConfigError(where, problem, cure="write the number with digits alone, or a text in quotes")


def _in_file(error: ConfigError, file: Path) -> ConfigError:
    error.file = file.name
    return error
