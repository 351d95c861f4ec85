"""Checkpoint: a trained ranker on disk, as a folder of safetensors and json, or as a Lightning checkpoint in a run."""

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from language_models.hub import Repository
from rankers.base import Ranker
from ranking.stores.files import as_signed_json, make_folder, sha256_of, signed, write_file
from registry import RANKERS, ConfigError
from registry.config import drop_training
from registry.imports import import_modules

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
# A flag of an entry of a zip file. torch reads such an entry as zeros and ignores its bytes and checksum.
_IS_FOLDER = 0x10
_HASHES = {"weights_sha256", "sha256"}
_CURE = "copy it back from an undamaged copy, or train again"


def save_pretrained(ranker: Ranker[Any], folder: str | Path) -> Path:
    """Write a ranker as `config.json` and `model.safetensors`, with hashes of both; nothing is pickled.

    Args:
        ranker: Any registered ranker.
        folder: Created if it does not exist. Existing files of these names are replaced, each in one step.

    Raises:
        ValueError: If the ranker's class is not registered, so the ranker could not be loaded again.
        StoreError: If a file cannot be written, for example because the disk is full.
    """
    description = ranker.description()
    if description["ranker"]["name"] is None:
        raise ValueError(f"{type(ranker).__name__} has no name: decorate it with @RANKERS.register(...)")
    return write_pretrained(description, ranker.state_dict(), folder)


def write_pretrained(description: Mapping[str, Any], weights: Mapping[str, torch.Tensor], folder: str | Path) -> Path:
    """Write a description and weights as `save_pretrained` does."""
    folder = Path(folder)
    make_folder(folder, "give a folder that you may write to")
    content = _as_safetensors(weights)
    description = {**description, "weights_sha256": hashlib.sha256(content).hexdigest()}
    for name, each in ((WEIGHTS_FILE, content), (CONFIG_FILE, as_signed_json(description))):
        write_file(folder / name, each, cure="make room or choose another folder, then save it again")
    return folder


def load_ranker(path: str | Path) -> Ranker[Any]:
    """Load a trained ranker on the CPU, ready to score.

    Args:
        path: A folder written by `save_pretrained`, a run's folder (loads its best checkpoint), a `.ckpt` file, or a
            repository of the Hugging Face hub, as `user/name` or `user/name@revision`, unless `user` is a folder.

    Raises:
        ConfigError: If the path holds no ranker, the ranker is damaged, or the module that defines it or the backbone
            it was trained on cannot be found.
    """
    path, description, weights = read_pretrained(path)
    try:
        import_modules(description["imports"], description["imports"].values())
        ranker = RANKERS.build(description["ranker"], path="ranker")
        ranker.configure_model()
    except ConfigError as error:
        error.file = str(path)
        raise
    try:
        ranker.load_state_dict(weights)
    except RuntimeError as error:
        problem = f"its weights do not fit {description['ranker']['name']}: {str(error).splitlines()[-1].strip()}"
        cure = "load it with the code that trained it"
        if any(name.startswith("head.") for name in ranker.state_dict().keys() - weights.keys()):
            cure = "it was saved without its head: save it again with save_pretrained, or load best.ckpt of its run"
        raise ConfigError(str(path), problem, cure=cure) from error
    ranker.encoder = description["encoder"]
    return ranker.eval()


def describe(path: str | Path) -> dict[str, Any]:
    """The name, options, imported modules and encoder of a trained ranker, after importing these modules.

    Args:
        path: As for `load_ranker`.

    Raises:
        ConfigError: If the path holds no ranker, it is damaged, or a module cannot be found.
    """
    path, description, _ = read_pretrained(path)
    try:
        import_modules(description["imports"], description["imports"].values())
    except ConfigError as error:
        error.file = str(path)
        raise
    return description


def hash_of(ranker: Ranker[Any]) -> str:
    """The sha256 of the weights: that of the `model.safetensors` which `save_pretrained` writes."""
    return hashlib.sha256(_as_safetensors(ranker.state_dict())).hexdigest()


def describe_anew(path: Path, ranker: Ranker[Any]) -> None:
    """Update the ranker description stored in a checkpoint."""
    checkpoint = read_checkpoint(path)
    checkpoint["ranker"] = ranker.description()
    write_checkpoint(path, checkpoint)


def write_checkpoint(path: Path, checkpoint: Mapping[str, Any]) -> None:
    """Write a checkpoint of a run completely or not at all.

    Raises:
        StoreError: If the file cannot be written, for example because the disk is full; the previous one is kept.
    """
    content = io.BytesIO()
    torch.save(checkpoint, content)
    write_file(path, content.getbuffer(), cure=with_room(path.parent))


def with_room(folder: Path) -> str:
    """What the user can do if a file of a run cannot be written.

    Args:
        folder: The run's folder.
    """
    # A run without any checkpoint is removed when it fails, so there would be nothing to go on with.
    going_on = f": python train.py --resume {folder}" if any(folder.glob("*.ckpt")) else " start it again"
    return f"make room, then{going_on}"


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of a run, after checking the checksums of its parts.

    Raises:
        ConfigError: If the checkpoint is missing or damaged, or does not hold a ranker.
    """
    if not path.is_file():
        if _had_no_weights(path.parent):
            problem = "this run has no checkpoint: its ranker has no weights."
            raise ConfigError(str(path.parent), problem, cure="build it by name: RANKERS.build(...)")
        cure = "give a run's folder after its first validation, a .ckpt file, or a folder of save_pretrained"
        raise ConfigError(str(path), "no ranker here.", cure=cure)
    try:
        with zipfile.ZipFile(path) as parts:
            if (broken := parts.testzip()) is not None:
                raise ConfigError(str(path), f"damaged: the checksum of its part {broken} is wrong.", cure=_CURE)
            if folders := [part.filename for part in parts.infolist() if part.external_attr & _IS_FOLDER]:
                raise ConfigError(str(path), f"damaged: its part {folders[0]} is marked as a folder.", cure=_CURE)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except ConfigError:
        raise
    except Exception as error:  # damaged bytes can raise any exception in the unpickler
        reason = (str(error).splitlines() or [""])[0]
        raise ConfigError(str(path), f"not a whole checkpoint: {type(error).__name__}: {reason}", cure=_CURE) from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise ConfigError(str(path), "holds no weights of a ranker.", cure=_CURE)
    _check(checkpoint.get("ranker"), path)
    return checkpoint


def read_pretrained(path: str | Path) -> tuple[Path, dict[str, Any], dict[str, torch.Tensor]]:
    """The path that holds the ranker, its description and its weights, without its backbone.

    Args:
        path: As for `load_ranker`.

    Raises:
        ConfigError: If the path holds no ranker, or it is damaged.
    """
    path = Path(path)
    repository = None if path.exists() or Path(path.parts[0]).exists() else Repository.named(path)
    if repository is not None:
        folder = repository.download([CONFIG_FILE, WEIGHTS_FILE])
        if not (folder / CONFIG_FILE).is_file():
            cure = "name one to which `push_to_hub` has written a ranker"
            raise ConfigError(str(path), "this repository of the Hugging Face hub holds no ranker.", cure=cure)
        description, weights = _read_folder(folder)
        # A module of the ranker has to be here already: a repository of others must not say where to read code.
        description["imports"] = dict.fromkeys(description["imports"], ".")
    elif (path / CONFIG_FILE).is_file():
        description, weights = _read_folder(path)
    else:
        path = path / "best.ckpt" if path.is_dir() else path
        checkpoint = read_checkpoint(path)
        description, weights = checkpoint["ranker"], checkpoint["state_dict"]
    return path, {**description, "ranker": _without_old_options(description["ranker"])}, weights


def _as_safetensors(weights: Mapping[str, torch.Tensor]) -> bytes:
    # Copy the weights, because safetensors refuses weights that share memory.
    copies = {name: weight.detach().to("cpu", copy=True).contiguous() for name, weight in weights.items()}
    return save(copies, metadata={"format": "pt"})


def _read_folder(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    try:
        description = json.loads((path / CONFIG_FILE).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(str(path / CONFIG_FILE), f"not valid json: {error}.", cure=_CURE) from error
    if isinstance(description, dict) and not signed(description):
        cure = "copy the folder again from an undamaged copy; if you changed it on purpose, remove its line sha256"
        problem = "damaged: its content has changed: it does not match the sha256 in it."
        raise ConfigError(str(path / CONFIG_FILE), problem, cure=cure)
    _check(description, path / CONFIG_FILE)
    file = path / WEIGHTS_FILE
    try:
        if "weights_sha256" in description and sha256_of(file) != description["weights_sha256"]:
            cure = f"copy the folder again from an undamaged copy, or save the ranker again; {CONFIG_FILE} has the hash"
            raise ConfigError(str(file), "damaged: its sha256 is not the one it was saved with.", cure=cure)
        return description, load_file(file)
    except (SafetensorError, OSError) as error:
        raise ConfigError(str(file), f"not a whole safetensors file: {error}.", cure=_CURE) from error


def _had_no_weights(folder: Path) -> bool:
    """Whether a finished run says that its ranker has none."""
    try:
        return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["num_parameters"] == 0
    except (OSError, ValueError, LookupError, TypeError):  # not a finished run, or not whole
        return False


def _without_old_options(node: Any) -> Any:
    """Drop `baselines`, in which older versions saved the references, and options of training without effect."""
    if isinstance(node, dict):
        node = {key: value for key, value in node.items() if key != "baselines"}
        drop_training(node)
    return node


def _check(description: Any, file: Path) -> None:
    """Raise unless this has the form that `Ranker.description` returns, with or without hashes."""
    given = {"ranker", "imports", "encoder"}
    if not isinstance(description, dict) or not given <= description.keys() <= given | _HASHES:
        raise ConfigError(str(file), "this was not written by a ranker of this project.", cure=_CURE)
    imports = description["imports"]
    if not isinstance(imports, dict) or not all(isinstance(folder, str) for folder in imports.values()):
        raise ConfigError(str(file), f"imports should be modules and their folders, not {imports!r}.", cure=_CURE)
