"""Pushing: writes a trained ranker as the folder of a repository, and commits it to the Hugging Face hub."""

import copy
import json
import shlex
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import huggingface_hub
import yaml

from language_models.hub import Repository, hub_errors
from rankers.checkpoint import CONFIG_FILE, WEIGHTS_FILE, read_pretrained, write_pretrained
from ranking.stores.files import as_json, make_folder, write_file
from registry import ConfigError
from registry.imports import import_modules
from serving.hub.card import Card
from serving.hub.query_side import FILES, FOLDERS, query_side_files
from serving.hub.results import Benchmark, benchmark_entry

CARD, METRICS, RESULTS = "README.md", "metrics.json", ".eval_results"
# What some rankers have and others have not, so that a later push may have to remove it.
_OPTIONAL_FILES, _OPTIONAL_FOLDERS = (METRICS, *FILES), (RESULTS, *FOLDERS)
# Older versions keep results in the card's metadata.
HAS_ENTRIES = hasattr(huggingface_hub, "EvalResultEntry")


def push_to_hub(
    path: str | Path, name: str, folder: str | Path | None = None, *, private: bool = False, **options: Any
) -> str:
    """Write the folder of a repository, then commit it; returns the address of the commit.

    Args:
        path: A run's folder, a `.ckpt` file, or a folder written by `save_pretrained`.
        name: The repository, as `user/name`; created if it does not exist.
        folder: For the repository's files; `hub` in the ranker's folder by default.
        private: Whether a new repository is private.
        options: Those of `write_repository`.

    Raises:
        ConfigError: For the reasons of `write_repository`, or if the hub cannot be reached or refuses; the folder is
            then complete.
    """
    return commit(write_repository(path, name, folder, **options), name, private=private)


def write_repository(
    path: str | Path,
    name: str,
    folder: str | Path | None = None,
    *,
    licence: str | None = None,
    benchmark: str | None = None,
    backbone: str | None = None,
    encoder: str | None = None,
) -> Path:
    """Write what a repository of the hub holds: settings, weights, card, metrics and evaluation results.

    Of a ranker with a backbone these are its adapter and head; with `train: all` everything was trained, and so all of
    it is the ranker's. No backbone is loaded.

    Args:
        path: As for `push_to_hub`.
        name: The repository, as `user/name`.
        folder: As for `push_to_hub`.
        licence: The licence of the weights, as the hub names it, such as `apache-2.0`.
        benchmark: The benchmark of the hub that the test queries are of, as `user/data` or `user/data:task`.
        backbone: The name on the hub of a backbone that was trained from a local folder.
        encoder: The same for the encoder of the features.

    Raises:
        ConfigError: If the path holds no ranker or one without weights, if a model that it needs is in a folder of
            this machine only, or if the name is none of the hub.
    """
    _check_name("the repository", name)
    path = Path(path)
    _, description, weights = read_pretrained(path)
    if not weights:
        problem = f"{description['ranker']['name']} has no weights of its own, so there is nothing to push."
        raise ConfigError(str(path), problem, cure="build it by name: RANKERS.build(...)")
    import_modules(description["imports"], description["imports"].values())
    described = _portable(description, {"backbone": backbone, "encoder": encoder})
    home = path if path.is_dir() else path.parent
    metrics, config = _metrics_in(home), _config_in(home)
    query_side = query_side_files(description, weights, described)
    into = Path(folder) if folder is not None else home / "hub"
    make_folder(into, "give a folder that you may write to")
    write_pretrained(described, weights, into)
    count = sum(weight.numel() for weight in weights.values())
    chosen = Benchmark.named(benchmark) if benchmark else None
    for stale in _optional_files(into):
        (into / stale).unlink()
    for file, content in query_side.items():
        make_folder((into / file).parent, "give a folder that you may write to")
        write_file(into / file, content)
    card = Card(name, described, count, _relation(weights), metrics, config, licence, chosen, bool(query_side))
    write_file(into / CARD, card.text(with_results=not HAS_ENTRIES).encode())
    if metrics is not None:
        write_file(into / METRICS, as_json(metrics))
        if chosen and HAS_ENTRIES:
            _write_results(into, benchmark_entry(metrics, described["ranker"]["name"], chosen))
    return into


def commit(folder: Path, name: str, *, private: bool = False) -> str:
    """Commit the files of a folder to a repository, all in one commit; returns its address.

    Args:
        folder: What `write_repository` returned.
        name: The repository, as `user/name`; created if it does not exist.
        private: Whether a new repository is private.

    Raises:
        ConfigError: If the hub cannot be reached, or refuses.
    """
    hub = huggingface_hub.HfApi()
    files = [CONFIG_FILE, WEIGHTS_FILE, CARD, *_optional_files(folder)]
    # upload_folder would make several commits of large folders.
    operations: list[Any] = [huggingface_hub.CommitOperationAdd(file, folder / file) for file in files]
    try:
        hub.create_repo(name, private=private, exist_ok=True)
        operations += [
            huggingface_hub.CommitOperationDelete(file)
            for file in hub.list_repo_files(name)
            if file not in files and (file in _OPTIONAL_FILES or file.partition("/")[0] in _OPTIONAL_FOLDERS)
        ]
        return hub.create_commit(name, operations, commit_message="A trained ranker with its card").commit_url
    except hub_errors() as error:
        reason = textwrap.shorten(str(error) or type(error).__name__, 200, placeholder=" ...")
        problem = f"complete, but not pushed to {name}: {reason}"
        cure = f"log in (hf auth login) and run the same again, or: hf upload {name} {shlex.quote(str(folder))} ."
        raise ConfigError(str(folder), problem, cure=cure) from error


def _optional_files(folder: Path) -> list[str]:
    """The files of a repository's folder that not every ranker has."""
    files = [folder / file for file in _OPTIONAL_FILES]
    files += [file for name in _OPTIONAL_FOLDERS for file in sorted((folder / name).glob("*"))]
    return [file.relative_to(folder).as_posix() for file in files if file.is_file()]


def _relation(weights: Iterable[str]) -> Literal["adapter", "finetune"] | None:
    """What weights with these names are to a backbone, in the hub's words."""
    of_backbone = [name for name in weights if name.startswith("backbone.")]
    if not of_backbone:
        return None
    return "adapter" if all("lora_" in name for name in of_backbone) else "finetune"


def _check_name(what: str, name: str) -> None:
    found = Repository.named(name)
    if found is None or found.revision is not None:
        raise ConfigError(what, "not a name of the Hugging Face hub.", given=name, cure="user/name")


def _portable(description: Mapping[str, Any], names: Mapping[str, str | None]) -> dict[str, Any]:
    """A description without folders of this machine."""
    found = copy.deepcopy(dict(description))
    found.pop("sha256", None)
    found["imports"] = dict.fromkeys(found["imports"], ".")
    models = {"backbone": found["ranker"].get("backbone"), "encoder": found["encoder"]}
    for role, name in names.items():
        if name is not None:
            _check_name(f"the {role}", name)
        if not (model := models[role]):
            continue
        if name is not None:
            model["model"] = name
        elif Path(model["model"]).is_absolute() and not model.get("package"):
            problem = f"its {role} is in the folder {model['model']}, which others do not have."
            cure = f"--{role} user/name, where the hub has the same weights"
            raise ConfigError(found["ranker"]["name"], problem, cure=cure)
    return found


def _metrics_in(folder: Path) -> dict[str, Any] | None:
    if not (folder / METRICS).is_file():
        return None
    metrics = json.loads((folder / METRICS).read_text(encoding="utf-8"))
    if "made_with" in metrics:
        metrics["made_with"].pop("folder", None)
    return metrics


def _config_in(folder: Path) -> dict[str, Any] | None:
    file = folder / "config.yaml"
    return yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else None


def _write_results(folder: Path, entry: dict[str, Any]) -> None:
    entries = huggingface_hub.eval_result_entries_to_yaml([huggingface_hub.EvalResultEntry(**entry)])
    make_folder(folder / RESULTS, "give a folder that you may write to")
    file = folder / RESULTS / f"{entry['dataset_id'].rpartition('/')[2]}.yaml"
    write_file(file, yaml.safe_dump(entries, sort_keys=False, allow_unicode=True).encode())
