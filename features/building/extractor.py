"""Extractor: the base of all builders of stores: handles settings, paths, and stores that already exist."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from features.building.launch import Launch
from features.texts.groups import Source
from features.texts.own_files import files_of
from features.texts.pools import PoolSource
from features.texts.tasks import TaskSource
from language_models.backbone import Backbone
from language_models.encoder import Encoder
from language_models.language_model import LanguageModel
from ranking.stores.candidate_pool import CandidatePool
from ranking.stores.group_store import GroupStore
from ranking.stores.writer import check_settings
from registry import SOURCES, ConfigError, Node

AnySource = Source | PoolSource | TaskSource
_YIELDS: dict[type, str] = {Source: "groups", PoolSource: "candidates", TaskSource: "problems"}


class Extractor(ABC):
    """Builds a store from a source, continues an unfinished store, or uses a finished one.

    Args:
        source: The source of the texts.
        path: The folder of the store; by default `data/<source>-<model>-<hash of all settings>`.

    Attributes:
        source: The source of the texts.
        encoder: The model that embeds the texts; None if no model does.
        opens: The class that opens the store.
        unit: The word for an item of the source, such as group.
        assumed: Settings that older stores lack, with the values that they were made with.
        can_be_launched: Whether the processes that torchrun has started can build together.
        launch: These processes; None if this one builds alone.
    """

    encoder: Encoder | None = None
    launch: Launch | None = None
    can_be_launched: ClassVar[bool] = False
    opens: ClassVar[type[GroupStore | CandidatePool]] = GroupStore
    unit: ClassVar[str] = "groups"
    assumed: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, source: AnySource, path: str | None) -> None:
        self.source, self._path = source, path

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """All settings that the content of the store depends on."""

    @abstractmethod
    def items(self) -> Iterable[object]:
        """The items of the source, in its order."""

    def parts(self) -> dict[str, Iterable[object]]:
        """The parts that the source must have, by name."""
        return {self.unit: self.items()}

    def judgements(self) -> Iterable[tuple[str, Mapping[str, float]]] | None:
        """The graded candidates of each query as the source gives them, by the store's ids.

        Returns:
            None if only the store has them under its ids.
        """
        return None

    @abstractmethod
    def build(self, settings: dict[str, Any], *, to_train: bool) -> Path:
        """Build the store, or continue an unfinished one.

        Args:
            settings: The result of `settings`, as JSON reads it.
            to_train: Whether a ranker will be trained on the store, as in `run`.
        """

    @property
    def made_with(self) -> str:
        """The name of the model in the default path."""
        return Path(self.encoder.model).name.lower() if self.encoder else "given"

    @property
    def models(self) -> Mapping[str, Backbone]:
        """Models by the names of their settings; with `dtype: auto` they accept a store made with any dtype."""
        return {"encoder": self.encoder} if self.encoder else {}

    @property
    def makes_vectors(self) -> tuple[str, Encoder | LanguageModel] | None:
        """The option that names the model whose vectors the store holds, and this model; None if there is none."""
        return ("encoder", self.encoder) if self.encoder else None

    @cached_property
    def path(self) -> Path:
        """The folder of the store, finished or not."""
        if self._path:
            return Path(self._path)
        settings = self.settings()
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        return Path("data") / f"{settings['source']['name']}-{self.made_with}-{digest[:8]}"

    def run(self, *, to_train: bool = False) -> Path:
        """Build the store unless it exists.

        Args:
            to_train: Whether a ranker will be trained on the store: then a source without labels is refused.

        Raises:
            ConfigError: If the data of the source is wrong; then nothing is embedded or written.
            StoreError: If an existing store was made with other settings, or the store cannot be written.
        """
        if not self.path.exists():
            return self.build(self._plain_settings(), to_train=to_train)
        self.check_store()
        return self.path

    def check_source(self) -> None:
        """Read the first item of each part, if the source reads the user's own files, to find mistakes early.

        Raises:
            ConfigError: If an item cannot be read, or a part is empty.
        """
        files = files_of(self.source)
        for unit, items in self.parts().items() if files else ():
            if next(iter(items), None) is None:
                cure = "set another file in features.source"
                raise ConfigError(", ".join(str(file.path) for file in files), f"has no {unit}.", cure=cure)

    def read_source(self) -> None:
        """Read and check the whole source, as a run does before it builds.

        Raises:
            ConfigError: If the data is wrong, or has no labels to learn from.
        """
        if not sum(1 for _ in self.items()):
            raise ConfigError("features.source", f"has no {self.unit}.")

    def check_store(self) -> None:
        """Compare the finished store at `path` with the present settings.

        Raises:
            StoreError: If the store was made with other settings, or is of another kind.
        """
        path, settings = self.path, self._plain_settings()
        store = self.opens.open(path)
        found, wanted = {**self.assumed, **store.manifest["settings"]}, {**self.assumed, **settings}
        for name, model in self.models.items():
            if "dtype" in wanted[name]:
                wanted[name] = model.settled(wanted[name], found.get(name))
        check_settings(path, found, wanted)
        if self.encoder and store.encoder and Path(self.encoder.model).is_dir():
            # Weights in a folder can change under the same name, for example after more training.
            now = {"encoder": {"sha256": self.encoder.identity()["sha256"]}}
            check_settings(path, {"encoder": {"sha256": store.encoder["sha256"]}}, now)

    def _plain_settings(self) -> dict[str, Any]:
        """The settings, as JSON reads them."""
        return json.loads(json.dumps(self.settings()))


def build_source(node: Node, *kinds: type) -> Any:
    """Build the source that a yaml names.

    Args:
        node: The node of the source in the yaml.
        kinds: The kinds of source that will do; the source must be of one of them.

    Raises:
        ConfigError: If it is of none of them.
    """
    source = SOURCES.build(node, path="features.source")
    if not isinstance(source, kinds):
        factories = {name: SOURCES.get(name) for name in SOURCES.names()}
        known = [name for name, each in factories.items() if isinstance(each, type) and issubclass(each, kinds)]
        raise ConfigError("features.source", f"gives no {' or '.join(_YIELDS[kind] for kind in kinds)}.", known=known)
    return source
