"""Sweep: a grid of options as a W&B sweep, checked against the config that it varies."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from registry import ConfigError, load_config
from registry.config import CONFIGS

_ARGUMENTS = "${args_no_hyphens}"


@dataclass(frozen=True)
class Sweep:
    """A grid, as `wandb sweep` reads it.

    Args:
        name: The name of its yaml.
        content: The content of its yaml, with the config and the overrides of its command.
    """

    name: str
    content: dict[str, Any]

    @classmethod
    def load(cls, name: str, config: str | None = None, overrides: Sequence[str] = ()) -> "Sweep":
        """Read and check a grid.

        Args:
            name: A yaml of `configs/sweeps`, or a path.
            config: The config of the runs; None for the one that the yaml names.
            overrides: Options that all runs have.

        Raises:
            ConfigError: If there is no such yaml, it is no grid, or an option or a value of it does not fit the config.
        """
        file = next((each for each in (Path(name), CONFIGS / "sweeps" / name) if each.is_file()), None)
        if file is None:
            known = sorted(each.name for each in (CONFIGS / "sweeps").glob("*.yaml"))
            raise ConfigError("sweep", "no such yaml.", given=name, known=known)
        content = _read(file)
        command = content["command"]
        if config is not None:
            command[command.index("--config") + 1] = config
        place = command.index(_ARGUMENTS)
        command[place:place] = overrides
        sweep = cls(file.stem, content)
        for option, values in sweep.grid.items():
            for value in values:
                load_config(sweep.config, [*overrides, f"{option}={value}", "logger=wandb"])
        return sweep

    @property
    def config(self) -> str:
        """The config that the runs start from."""
        command = self.content["command"]
        return command[command.index("--config") + 1]

    @property
    def grid(self) -> dict[str, list[Any]]:
        """The values of each option."""
        return {option: choice["values"] for option, choice in self.content["parameters"].items()}

    @property
    def num_runs(self) -> int:
        """How many runs the grid has."""
        return math.prod(map(len, self.grid.values()))


def _read(file: Path) -> dict[str, Any]:
    """The content of a yaml that has what `Sweep` reads."""
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(str(file), f"not valid yaml: {str(error).splitlines()[0]}.") from error
    match content:
        case {"command": list(command), "parameters": dict(parameters)} if (
            "--config" in command[:-1]
            and _ARGUMENTS in command
            and all(
                isinstance(choice, dict) and isinstance(choice.get("values"), list) for choice in parameters.values()
            )
        ):
            return content
    problem = f"is no grid: it needs `values` of each parameter, and a command with --config FILE and {_ARGUMENTS}."
    raise ConfigError(str(file), problem, cure="write it like configs/sweeps/table8.yaml")
