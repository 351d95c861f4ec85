"""Starting: training from the weights of a trained ranker, with a pull towards them, and what the ranker forgot.

A run keeps a copy of its start, so that it can be resumed where the start no longer exists.
"""

import dataclasses
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from rich.table import Table
from torch import Tensor, nn
from torch.optim import Optimizer

from console.decimals import decimal, interval
from console.tables import new_table
from datamodules.base import RankingData
from datamodules.group_data import GroupData, differing
from features.building.extractor import Extractor
from language_models.language_model import LanguageModel
from rankers.base import Ranker
from rankers.checkpoint import CONFIG_FILE, describe, hash_of, load_ranker
from rankers.judging.groups import GroupJudging
from ranking.significance import Interval, paired_difference
from ranking.stores.group_store import GroupStore
from registry import ConfigError, RunConfig
from registry.errors import shown
from training.results.report import mean_of

START = "start"
"""The folder in a run's folder that holds its start."""


def load_start(config: RunConfig, folder: Path | None = None) -> Ranker[Any] | None:
    """The ranker that training starts from; None if it starts from random weights.

    Args:
        config: A config.
        folder: The folder of a run to resume; its own copy of the start is loaded.

    Raises:
        ConfigError: If there is no ranker, or its weights are not those that the config names.
    """
    if config.init_from is None:
        return None
    copy = folder / START if folder else None
    path = copy if copy and (copy / CONFIG_FILE).is_file() else Path(config.init_from.name)
    start = load_ranker(path)
    if config.init_from.sha256 not in (None, found := hash_of(start)):
        problem = f"is {config.init_from.sha256}, and that of {path} is {found}."
        raise ConfigError("init_from.sha256", problem, cure="start from the same ranker, or init_from.sha256=null")
    return start


def check_vectors(config: RunConfig, extractor: Extractor) -> None:
    """Refuse features that differ from those of the start or of the replayed store, before they are built.

    Raises:
        ConfigError: If the model that makes them has other settings; the error gives the overrides to use.
    """
    if extractor.makes_vectors is None:
        return
    option, model = extractor.makes_vectors
    # Of a generator, only what states depend on.
    ours = LanguageModel.settings(model) if isinstance(model, LanguageModel) else model.settings()
    made: dict[str, tuple[str, Any]] = {}
    if config.init_from is not None:
        made["init_from"] = config.init_from.name, describe(config.init_from.name)["encoder"]
    if replay := config.datamodule.get("replay"):
        made["datamodule.replay.path"] = replay["path"], GroupStore.open(Path(replay["path"]), verify=False).encoder
    for path, (name, encoder) in made.items():
        theirs = encoder or {}
        differ = [
            each
            for each, value in ours.items()
            if each in theirs and each != "depths" and value is not None and _whole(each, value) != theirs[each]
        ]
        if differ:
            values = ", ".join(f"{each} {shown(theirs[each])}" for each in differ)
            problem = f"{name} has vectors that were made with {values}; this config would make others."
            cure = " ".join(shlex.quote(f"features.{option}.{each}={_as_yaml(theirs[each])}") for each in differ)
            raise ConfigError(path, problem, cure=cure)


def _as_yaml(value: Any) -> str:
    return value if isinstance(value, str) else shown(value)


def _whole(option: str, value: Any) -> Any:
    """The value as a store keeps it: a folder with its whole path."""
    return str(Path(value).resolve()) if option == "model" and Path(value).is_dir() else value


def check_start(start: Ranker[Any], config: RunConfig, datamodule: RankingData) -> None:
    """Refuse a start that reads other vectors than those of the data.

    Raises:
        ConfigError: If their size or the model that made them differs.
    """
    assert config.init_from is not None
    options = start.description()["ranker"]
    wanted = {name: fact for name, fact in datamodule.facts.items() if name in options}
    had = {name: options[name] for name in wanted}
    path = config.datamodule.get("path") or "the data"
    for old, new in ((had, wanted), (start.encoder, datamodule.encoder)):
        if old is not None and new is not None and old != new:
            problem = f"{config.init_from.name} was trained on other vectors than {path} holds: {differing(old, new)}."
            raise ConfigError("init_from", problem, cure="build the features with the encoder of the start")


def check_weights(ranker: Ranker[Any], start: Ranker[Any], config: RunConfig) -> None:
    """Refuse a start whose weights do not fit the ranker.

    Raises:
        ConfigError: If the ranker's options make weights of other names or shapes.
    """
    assert config.init_from is not None
    ours, theirs = (
        {name: tuple(weight.shape) for name, weight in each.state_dict().items()} for each in (ranker, start)
    )
    if ours != theirs:
        name = min(name for name, _ in set(ours.items()) ^ set(theirs.items()))
        problem = f"its weight {name} is {theirs.get(name)}, and that of the ranker of this config {ours.get(name)}."
        cure = "leave out the options under `ranker:` that change the shape of weights"
        raise ConfigError("init_from", f"{config.init_from.name}: {problem}", cure=cure)


def start_from(ranker: Ranker[Any], start: Ranker[Any], config: RunConfig) -> RunConfig:
    """Give a ranker the weights of the start; returns the config with the hash of these weights.

    Raises:
        ConfigError: For the reasons of `check_weights`.
    """
    check_weights(ranker, start, config)
    ranker.load_state_dict(start.state_dict())
    assert config.init_from is not None
    return dataclasses.replace(config, init_from=dataclasses.replace(config.init_from, sha256=hash_of(start)))


class Pull(Callback):
    """Adds w / 2 * |weights - start's weights|^2 to the loss (L2-SP, Li et al. 2018), by its gradient.

    Args:
        start: The ranker that training started from.
        weight: w.
    """

    def __init__(self, start: nn.Module, weight: float) -> None:
        self._start = {name: parameter.detach().clone() for name, parameter in start.named_parameters()}
        self._weight = weight

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Add w * (weight - start's weight) to the gradient of each weight, once a step and before clipping."""
        squares = []
        for name, parameter in pl_module.named_parameters():
            if parameter.grad is not None:
                away = parameter.detach() - self._start[name].to(parameter.device)
                parameter.grad.add_(away, alpha=self._weight)
                squares.append(away.square().sum())
        if squares and (trainer.global_step + 1) % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            pl_module.log("train/pull", self._weight / 2 * torch.stack(squares).sum())


@dataclasses.dataclass(frozen=True)
class Forgetting:
    """The metrics before and after training, on the new data and on the old data if the run has them.

    Args:
        per_query: Data, `new` or `old` -> split -> `before` or `after` -> metric -> one value per query.
    """

    per_query: Mapping[str, Mapping[str, Mapping[str, Mapping[str, Tensor]]]]

    @classmethod
    @torch.no_grad()
    def of(cls, ranker: Ranker[Any], start: Ranker[Any], datamodule: GroupData) -> "Forgetting":
        """Judge the start and the trained ranker on validation and test.

        Args:
            ranker: The trained ranker.
            start: The ranker that training started from.
            datamodule: The new data, with the old ones if the run has them.
        """
        stores = {"new": datamodule, **({"old": datamodule.replayed} if datamodule.replayed else {})}
        rankers = {"before": start.to(ranker.device).eval(), "after": ranker.eval()}
        return cls(
            {
                store: {
                    split: {when: _judged(each, data, split, ranker.metrics) for when, each in rankers.items()}
                    for split in ("val", "test")
                }
                for store, data in stores.items()
            }
        )

    def results(self) -> dict[str, Any]:
        """The means, and the change with its 95 % paired bootstrap interval, as plain values for a json file."""
        return {
            store: {
                split: {
                    **{when: {name: float(values.mean()) for name, values in found[when].items()} for when in found},
                    "change": {name: dataclasses.asdict(_change(found, name)) for name in found["after"]},
                }
                for split, found in splits.items()
            }
            for store, splits in self.per_query.items()
        }

    def table(self) -> Table:
        """The metrics on test, before and after."""
        metrics = list(self.per_query["new"]["test"]["after"])
        table = new_table("", *metrics, title="before and after, on test; the change with its 95 % bootstrap interval")
        for store, splits in self.per_query.items():
            found = splits["test"]
            for when, values in found.items():
                table.add_row(f"{store} data {when}", *(decimal(float(values[name].mean())) for name in metrics))
            changes = [_change(found, name) for name in metrics]
            cells = [
                f"{decimal(each.mean, signed=True)}\n[dim]{interval(each.low, each.high, signed=True)}[/]"
                for each in changes
            ]
            table.add_row("change", *cells, end_section=True)
        return table


def _judged(ranker: Ranker[Any], data: GroupData, split: str, metrics: Any) -> Mapping[str, Tensor]:
    judging = GroupJudging(ranker, {}, distributed=False)
    for batch in data.evaluation_batches(split):
        judging.update(batch.to(ranker.device))
    return judging.judge().per_query(metrics)


def _change(found: Mapping[str, Mapping[str, Tensor]], metric: str) -> Interval:
    before, after = (found[when][metric] for when in ("before", "after"))
    if len(after) < 2:
        return mean_of(after - before)
    return paired_difference(after.numpy(), before.numpy())
