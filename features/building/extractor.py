"""Extractor: what every way from a source to a store has in common: its settings, its path, a store that exists."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from features.texts.own_files import files_of
from language_models.backbone import Backbone
from language_models.encoder import Encoder
from ranking.stores.candidate_pool import CandidatePool
from ranking.stores.group_store import GroupStore
from ranking.stores.writer import check_settings
from registry import SOURCES, ConfigError, Node


@runtime_checkable
class Fingerprinted(Protocol):
    """Any source: of groups, of a pool or of problems."""

    def fingerprint(self) -> dict[str, Any]:
        """What its content depends on."""
        ...


class Extractor(ABC):
    """Builds a store from a source, goes on with an unfinished one, or finds it finished.

    Args:
        source: Where texts come from.
        path: The folder of the store; by default `data/<source>-<model>-<hash of all settings>`.

    Attributes:
        source: As given.
        encoder: The model that embeds the texts; None where there is none.
        opens: What opens the store.
        unit: What the source yields, in a word.
        assumed: Settings that older stores lack, and the values they were made with.
    """

    encoder: Encoder | None = None
    opens: ClassVar[type[GroupStore | CandidatePool]] = GroupStore
    unit: ClassVar[str] = "groups"
    assumed: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, source: Fingerprinted, path: str | None) -> None:
        self.source, self._path = source, path

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """All that the store's content depends on."""

    @abstractmethod
    def items(self) -> Iterable[object]:
        """What the source yields, in its order."""

    def parts(self) -> dict[str, Iterable[object]]:
        """What the source must not lack, by what it is called."""
        return {self.unit: self.items()}

    @abstractmethod
    def build(self, settings: dict[str, Any], *, to_train: bool) -> Path:
        """Build the store, or go on with it.

        Args:
            settings: As `settings` gives them, as JSON reads them.
            to_train: As in `run`.
        """

    @property
    def made_with(self) -> str:
        """What the usual path calls the model."""
        return Path(self.encoder.model).name.lower() if self.encoder else "given"

    @property
    def models(self) -> Mapping[str, Backbone]:
        """Models by the names of their settings, for which `dtype: auto` accepts a store of any dtype."""
        return {"encoder": self.encoder} if self.encoder else {}

    @cached_property
    def path(self) -> Path:
        """The folder of the store, finished or not."""
        if self._path:
            return Path(self._path)
        settings = self.settings()
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        return Path("data") / f"{settings['source']['name']}-{self.made_with}-{digest[:8]}"

    def run(self, *, to_train: bool = False) -> Path:
        """Build the store, unless it exists.

        Args:
            to_train: Whether a ranker will be trained on it: then a source without anything to learn is refused.

        Raises:
            ConfigError: If the source's data is not as it should be; then nothing is embedded or written.
            StoreError: If the store that exists was made with other settings, or cannot be written.
        """
        if not self.path.exists():
            return self.build(self._plain_settings(), to_train=to_train)
        self.check_store()
        return self.path

    def check_source(self) -> None:
        """Read the first of each part of a source of the user's own files; its reader says what is wrong with it.

        Raises:
            ConfigError: If it cannot be read, or there is none.
        """
        files = files_of(self.source)
        for unit, items in self.parts().items() if files else ():
            if next(iter(items), None) is None:
                cure = "name another file in features.source"
                raise ConfigError(", ".join(str(file.path) for file in files), f"has no {unit}.", cure=cure)

    def read_source(self) -> None:
        """Read all of the source, as a run does before it builds.

        Raises:
            ConfigError: If its data is not as it should be, or there is nothing to learn from.
        """
        if not sum(1 for _ in self.items()):
            raise ConfigError("features.source", f"has no {self.unit}.")

    def check_store(self) -> None:
        """Compare the finished store at `path` with what is asked for now.

        Raises:
            StoreError: If it was made with other settings, or is of another kind.
        """
        path, settings = self.path, self._plain_settings()
        store = self.opens.open(path)
        found, wanted = {**self.assumed, **store.manifest["settings"]}, {**self.assumed, **settings}
        for name, model in self.models.items():
            if "dtype" in wanted[name]:
                wanted[name] = model.settled(wanted[name], found.get(name))
        check_settings(path, found, wanted)
        if self.encoder and store.encoder and Path(self.encoder.model).is_dir():
            # A folder's weights change under the same name, such as after more training.
            now = {"encoder": {"sha256": self.encoder.identity()["sha256"]}}
            check_settings(path, {"encoder": {"sha256": store.encoder["sha256"]}}, now)

    def _plain_settings(self) -> dict[str, Any]:
        """The settings as JSON reads them."""
        return json.loads(json.dumps(self.settings()))


def build_source(node: Node, *methods: str) -> Any:
    """The source that a yaml names.

    Args:
        node: As the yaml has it.
        methods: What it may yield, such as `groups`; one of them is enough.

    Raises:
        ConfigError: If it yields something else.
    """
    source = SOURCES.build(node, path="features.source")
    if not any(callable(getattr(source, method, None)) for method in methods):
        known = [name for name in SOURCES.names() if any(hasattr(SOURCES.get(name), method) for method in methods)]
        raise ConfigError("features.source", f"gives no {' or '.join(methods)}.", known=known)
    return source
