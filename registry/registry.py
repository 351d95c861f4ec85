"""Registry: the components of one kind, found by name and built from yaml."""

import functools
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from registry import schema
from registry.errors import ConfigError, TakenNameError, shown
from registry.schema import Node

F = TypeVar("F", bound=Callable[..., Any])


class Registry:
    """All components of one kind.

    Args:
        kind: The name of the kind in plural, such as `blocks`.
        home: The package that has a file for each component, in any subfolder, with the component's name; or the module
            that defines all of them.
        provided: Options that the building code supplies, such as a block's `dim`; a yaml need not set them.
    """

    def __init__(self, kind: str, home: str, *, provided: Sequence[str] = ()) -> None:
        self.kind, self.home, self.provided = kind, home, tuple(provided)
        self._factories: dict[str, Callable[..., Any]] = {}
        self._unavailable: dict[str, ImportError] = {}

    def register(self, name: str) -> Callable[[F], F]:
        """Decorator that registers a class or function under a name for yaml.

        Raises:
            ValueError: If the name is not possible in yaml.
            TakenNameError: If another component has the name; shows both places. Names in the home package have
                priority, even if their file is not imported yet.
        """
        if not isinstance(name, str) or not name or "@" in name or name == "none":
            shown_name = repr(name) if isinstance(name, str) else getattr(name, "__name__", name)
            raise ValueError(f'write @{self.kind.upper()}.register("my_name"); {shown_name} is not a name for yaml')

        def add(factory: F) -> F:
            if not f"{factory.__module__}.".startswith(f"{self.home}."):
                try:
                    self._import_home_of(name)
                except ImportError as error:
                    where = f"{self._files()[name][0]}, which cannot be imported here ({error})"
                    raise self._taken(name, where, factory) from error
            taken = self._factories.get(name)
            if taken is not None and _place(taken) != _place(factory):
                raise self._taken(name, _place(taken), factory)
            self._factories[name] = factory
            return factory

        return add

    def get(self, name: str, path: str = "") -> Any:
        """The factory with this name. Imports the file with this name first, and all others only if that fails.

        Raises:
            ConfigError: If the name is unknown, with the most similar name, or if a package that it needs is not
                installed.
            ImportError: If the file with this name cannot be imported for another reason; passed on unchanged.
        """
        if name not in self._factories:
            try:
                self._import_home_of(name)
            except ModuleNotFoundError as error:
                if importlib.util.find_spec(str(error.name).partition(".")[0]):
                    raise  # the package is there, the module in it is not
                problem = f"{name!r} needs the package {error.name}, which is not installed."
                cure = f"pip install {str(error.name).partition('.')[0].replace('_', '-')}"
                raise ConfigError(path or self.kind, problem, cure=cure) from error
        if name not in self._factories:
            cure = f"for your own component: @{self.kind.upper()}.register({name!r}), and add its module to `imports:`"
            problem = f"{name!r} is not among the {self.kind}."
            names = self.names()
            for module, error in self._unavailable.items():
                problem += f" ({module} cannot be imported: {error}.)"
            raise ConfigError(path, problem, given=name, known=names, cure=cure)
        return self._factories[name]

    def names(self) -> list[str]:
        """All names, except those in files that lack an optional dependency."""
        importlib.import_module(self.home)
        for modules in self._files().values():
            for module in modules:
                try:
                    importlib.import_module(module)
                except ImportError as error:
                    self._unavailable[module] = error
        return sorted(self._factories)

    def _files(self) -> dict[str, list[str]]:
        """The modules in the home package that register something, by file name; empty if the home is a module."""
        home = importlib.import_module(self.home)
        found: dict[str, list[str]] = {}
        for folder in getattr(home, "__path__", ()):
            for file in sorted(Path(folder).rglob("*.py")):
                parts = file.relative_to(folder).with_suffix("").parts
                named = all(part.isidentifier() for part in parts) and not file.stem.startswith("_")
                if named and b".register(" in file.read_bytes():
                    found.setdefault(file.stem, []).append(".".join((self.home, *parts)))
        return found

    def _import_home_of(self, name: str) -> None:
        """Import the files in the home package that have this name."""
        for module in self._files().get(name, ()):
            importlib.import_module(module)

    def _taken(self, name: str, by: str, factory: Callable[..., Any]) -> TakenNameError:
        return TakenNameError(f"{self.kind}: the name {name!r} is taken by {by}; give {_place(factory)} another.")

    def name_of(self, factory: Callable[..., Any]) -> str | None:
        """The name that a class or function is registered under."""
        return next((name for name, known in self._factories.items() if known is factory), None)

    def check(self, node: Node, path: str = "") -> dict[str, Any]:
        """The complete node: its name and all options, converted, with defaults filled in.

        Raises:
            ConfigError: If the name or an option is unknown, a value does not fit, or one is missing.
        """
        name, given = _split(node, path or self.kind, self)
        factory = self.get(name, path or self.kind)
        return {"name": name, **schema.bind(factory, given, path or self.kind, provided=self.provided)}

    def complete(self, node: Node, facts: Mapping[str, Any], path: str = "") -> dict[str, Any]:
        """The complete node, with the facts about the data that its signature has options for.

        Raises:
            ConfigError: For the reasons of `check`, or if the node contradicts a fact.
        """
        name, given = _split(node, path or self.kind, self)
        asked = {key: facts[key] for key in schema.options(self.get(name, path or self.kind)) if key in facts}
        for key, fact in asked.items():
            if given.get(key) not in (None, fact):
                problem = f"{given[key]!r} contradicts the data, which has {fact!r}."
                raise ConfigError(f"{path or self.kind}.{key}", problem, cure="leave it out: it is read from the data")
        return self.check({"name": name, **given, **asked}, path)

    def bind(self, node: Node, path: str = "") -> Callable[..., Any]:
        """The function that a node names, with the node's options bound; the caller passes the other arguments."""
        name, bound = _pop_name(self.check(node, path))
        return functools.partial(self.get(name), **bound)

    def build(self, node: Node, /, *arguments: Any, path: str = "", **provided: Any) -> Any:
        """Build the component that a node describes.

        Args:
            node: Name and options.
            arguments: Positional-only arguments of the factory.
            path: The yaml path of the node, for error messages.
            provided: Options that the calling code supplies; those that are not in the signature are ignored.

        Raises:
            ConfigError: If the node is wrong, or the component refuses its options with a ValueError.
        """
        return self.assemble(self.complete(node, provided, path), *arguments, path=path)

    def assemble(self, complete: Mapping[str, Any], /, *arguments: Any, path: str = "") -> Any:
        """Build the component of a node that is complete already, without binding it again.

        Args:
            complete: What `check` or `complete` has returned.
            arguments: Positional-only arguments of the factory.
            path: The yaml path of the node, for error messages.

        Raises:
            ConfigError: If the component refuses its options with a ValueError.
        """
        name, bound = _pop_name(dict(complete))
        factory = self.get(name)
        try:
            return factory(*arguments, **schema.instantiate(factory, bound))
        except ValueError as error:
            raise ConfigError(path or self.kind, f"{name}: {error}") from error


def _split(node: Node, path: str, registry: Registry) -> tuple[str, dict[str, Any]]:
    """The name and options of a node in any of its forms."""
    if isinstance(node, str):
        name, at, cutoff = node.partition("@")
        if not at:
            return name, {}
        if not re.fullmatch("[0-9]{1,18}", cutoff):
            raise ConfigError(path, f"{node!r}: expected a whole number after @, as in ndcg@10.")
        return name, {"k": int(cutoff)}
    if not isinstance(node, Mapping):
        raise ConfigError(path, f"expected a name or a mapping with one, got {shown(node)}.")
    given = dict(node)
    if not isinstance(given.get("name"), str):
        raise ConfigError(f"{path}.name", f"missing: which of the {registry.kind}?", known=registry.names())
    return given.pop("name"), given


def _pop_name(node: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    return node.pop("name"), node


def _place(factory: Callable[..., Any]) -> str:
    module = sys.modules.get(factory.__module__)
    return f"{getattr(module, '__file__', None) or factory.__module__}: {factory.__qualname__}"
