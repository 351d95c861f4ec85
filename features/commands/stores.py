"""Commands on stores: build the group store or candidate pool of a config, show what is in one, merge and split."""

import argparse
from dataclasses import fields
from pathlib import Path

from rich.console import Console

from features.building.extractor import Extractor
from features.building.launch import Launch
from features.commands.inspect_groups import show
from features.commands.inspect_pool import show_pool
from features.commands.merge import merge, split
from features.commands.verify import verify
from ranking.response_analysis import Analysis
from ranking.stores.candidate_pool import POOL, CandidatePool
from ranking.stores.files import as_json, make_folder, write_file
from ranking.stores.format import format_of
from ranking.stores.group_store import GroupStore
from ranking.stores.group_tables import GROUP_STORE
from registry import EXTRACTORS, ConfigError
from registry.config import FeaturesConfig, RunConfig, load_config

_MORE = """commands, each with its own --help:
  judge    verdicts on the recorded responses of a file, without a language model
  inspect  show what is in a store or a pool
  analyse  pass@k, lengths and repetitions of a store's responses, as JSON and PNG
  merge    combine stores; the groups of a query become one group
  split    divide a store by query

examples:
  python -m features --config quickstart
  python -m features --config quickstart features.encoder.dtype=bfloat16
  python -m features --config features/arithmetic_smollm2.yaml features.generator.num_responses=32
  python -m features features.name=embedding features.source.name=jsonl features.source.path=groups.jsonl
  python -m features features.name=candidate_pool features.source.name=pool_files \\
      features.source.candidates=collection.tsv features.source.queries=queries.tsv features.source.qrels=qrels.txt
  torchrun --nproc_per_node=8 -m features --config lranker_msmarco.yaml   # a pool, also on several hosts

To continue a build that was stopped, run the same command. All names and their options: python -m registry
"""

_INSPECT = "example: python -m features inspect data/my_store --queries 10 --verify"
_ANALYSE = "example: python -m features analyse data/my_store --into figures --wandb my_project"
_MERGE = "example: python -m features merge data/first data/second --into data/both"
_SPLIT = "example: python -m features split data/both --into data/train data/test --shares 0.8 0.2"

# The config of a run is accepted too; its other keys are ignored.
_OF_A_RUN = {field.name for field in fields(RunConfig)} - {field.name for field in fields(FeaturesConfig)}


def execute(arguments: list[str]) -> int:
    """Execute a command; return the exit status."""
    command = _COMMANDS.get(arguments[0]) if arguments else None
    return command(arguments[1:]) if command else _build(arguments)


def _build(arguments: list[str]) -> int:
    description = "Build the group store or candidate pool that `features:` in a config describes."
    parser = _parser("python -m features", description, _MORE)
    parser.add_argument("--config", metavar="X", help="a path, or a name in configs/; also the config of a run")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="replace options of the config")
    chosen = parser.parse_args(arguments)
    if chosen.config is None and not chosen.overrides:
        parser.print_help()
        return 0
    config = load_config(chosen.config, chosen.overrides, into=FeaturesConfig, ignore=_OF_A_RUN)
    extractor: Extractor = EXTRACTORS.build(config.features, path="features")
    launch = Launch.of_torchrun()
    if launch is not None and not extractor.can_be_launched:
        cure = "run it without torchrun; features.devices=N is for the GPUs of one host"
        raise ConfigError("features.name", "only a candidate_pool is built by the processes of torchrun.", cure=cure)
    if launch is not None and not launch.is_first:
        launch.help(extractor.settings)
        return 0
    extractor.launch, there = launch, extractor.path.exists()
    path = extractor.run()
    if launch is not None:
        launch.end()
    print(f"{path} {'already exists' if there else 'is ready'}: {_open(path)}")
    return 0


def _inspect(arguments: list[str]) -> int:
    parser = _parser("python -m features inspect", "Show what is in a group store or a candidate pool.", _INSPECT)
    parser.add_argument("path", help="its folder")
    parser.add_argument("--queries", "--groups", type=int, default=3, metavar="N", help="how many queries to show (3)")
    parser.add_argument("--verify", action="store_true", help="read all files and compare them with their hashes")
    chosen = parser.parse_args(arguments)
    if chosen.verify:
        verify(chosen.path, POOL if format_of(chosen.path) == POOL.name else GROUP_STORE)
    opened = _open(chosen.path)
    if isinstance(opened, CandidatePool):
        show_pool(opened, Console(), chosen.queries)
    else:
        show(opened, Console(), chosen.queries)
    return 0


def _analyse(arguments: list[str]) -> int:
    parser = _parser(
        "python -m features analyse", "Pass@k, lengths and repetitions of a group store's responses.", _ANALYSE
    )
    parser.add_argument("path", help="its folder")
    parser.add_argument("--into", metavar="PATH", default=".", help="a folder for analysis.json and analysis.png (.)")
    parser.add_argument("--wandb", metavar="PROJECT", help="log the tables and the picture to a W&B project as well")
    chosen = parser.parse_args(arguments)
    verify(chosen.path, GROUP_STORE)
    found, folder = Analysis.of(GroupStore.open(chosen.path)), Path(chosen.into)
    make_folder(folder, "give --into a folder that you may write to")
    found.draw(folder / "analysis.png")
    write_file(folder / "analysis.json", as_json(found.results()))
    print(f"{folder / 'analysis.json'} and {folder / 'analysis.png'} are ready.")
    if chosen.wandb:
        _log(found, folder / "analysis.png", chosen.wandb, Path(chosen.path).name)
    return 0


def _log(found: Analysis, picture: Path, project: str, name: str) -> None:
    import wandb
    from wandb.errors import UsageError

    try:
        with wandb.init(project=project, name=name, job_type="analysis") as run:
            tables = {table: wandb.Table(columns, rows) for table, (columns, rows) in found.tables().items()}
            run.log({**tables, "responses": wandb.Image(str(picture))})
    except UsageError as error:
        raise ConfigError("--wandb", str(error), cure="`wandb login`, or WANDB_MODE=offline") from error


def _merge(arguments: list[str]) -> int:
    parser = _parser("python -m features merge", "Combine group stores, query by query.", _MERGE)
    parser.add_argument("paths", nargs="+", help="their folders")
    parser.add_argument("--into", required=True, metavar="PATH", help="the folder of the new store")
    chosen = parser.parse_args(arguments)
    print(f"{merge(chosen.paths, chosen.into)} is ready: {_open(chosen.into)}")
    return 0


def _split(arguments: list[str]) -> int:
    parser = _parser("python -m features split", "Divide a group store by query.", _SPLIT)
    parser.add_argument("path", help="its folder")
    parser.add_argument("--into", required=True, nargs="+", metavar="PATH", help="the folders of the new stores")
    parser.add_argument("--shares", required=True, nargs="+", type=float, metavar="S", help="shares with sum 1")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random division (0)")
    chosen = parser.parse_args(arguments)
    if len(chosen.into) != len(chosen.shares) or len(set(chosen.into)) < len(chosen.into):
        parser.error(f"--into names {len(set(chosen.into))} folders, and there are {len(chosen.shares)} --shares")
    if not all(0 < share <= 1 for share in chosen.shares):
        parser.error(f"--shares must be above 0 and at most 1, got {' '.join(map(str, chosen.shares))}")
    for path in split(chosen.path, dict(zip(chosen.into, chosen.shares, strict=True)), chosen.seed):
        print(f"{path} is ready: {_open(path)}")
    return 0


_COMMANDS = {"inspect": _inspect, "analyse": _analyse, "merge": _merge, "split": _split}


def _open(path: str | Path) -> GroupStore | CandidatePool:
    kind = CandidatePool if format_of(path) == POOL.name else GroupStore
    return kind.open(path)


def _parser(command: str, description: str, more: str) -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(prog=command, description=description, epilog=more, formatter_class=raw)
