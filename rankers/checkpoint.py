"""Checkpoint: a trained ranker on disk, as a folder of safetensors and json, or as Lightning left it in a run."""

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

from rankers.base import Ranker
from ranking.stores.files import as_signed_json, make_folder, sha256_of, signed, write_file
from registry import RANKERS, ConfigError
from registry.imports import import_modules

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
# In a zip file's list of parts; torch reads such a part as zeros, whatever its bytes and its checksum are.
_IS_FOLDER = 0x10
_HASHES = {"weights_sha256", "sha256"}


def save_pretrained(ranker: Ranker[Any], folder: str | Path) -> Path:
    """Write a ranker as `config.json` and `model.safetensors`: readable, nothing pickled, with hashes of both.

    Args:
        ranker: Any registered ranker.
        folder: Made if need be; files of the same names are replaced, each in one step.

    Raises:
        ValueError: If the ranker's class is not registered, so that no one could load it again.
        StoreError: If the disk refuses, for one because it is full.
    """
    description = ranker.description()
    if description["ranker"]["name"] is None:
        raise ValueError(f"{type(ranker).__name__} has no name: decorate it with @RANKERS.register(...)")
    folder = Path(folder)
    make_folder(folder, "give a folder that you may write to")
    # Copies, since safetensors refuses weights that share memory.
    weights = {name: weight.detach().to("cpu", copy=True).contiguous() for name, weight in ranker.state_dict().items()}
    content = save(weights, metadata={"format": "pt"})
    description |= {"weights_sha256": hashlib.sha256(content).hexdigest()}
    for name, each in ((WEIGHTS_FILE, content), (CONFIG_FILE, as_signed_json(description))):
        write_file(folder / name, each, cure="make room or choose another folder, then save it again")
    return folder


def load_ranker(path: str | Path) -> Ranker[Any]:
    """A trained ranker, ready to score, on the CPU.

    Args:
        path: A folder written by `save_pretrained`, a run's folder (its best checkpoint is taken), or a `.ckpt` file.

    Raises:
        ConfigError: If there is no ranker there, it is damaged, or the module that defines it or the backbone that it
            was trained on cannot be found.
    """
    path = Path(path)
    if (path / CONFIG_FILE).is_file():
        description, weights = _read_folder(path)
    else:
        path = path / "best.ckpt" if path.is_dir() else path
        checkpoint = read_checkpoint(path)
        description, weights = checkpoint["ranker"], checkpoint["state_dict"]
    try:
        import_modules(description["imports"], description["imports"].values())
        ranker = RANKERS.build(_without_references(description["ranker"]), path="ranker")
        ranker.configure_model()
    except ConfigError as error:
        error.file = str(path)
        raise
    try:
        ranker.load_state_dict(weights)
    except RuntimeError as error:
        problem = f"its weights do not fit {description['ranker']['name']}: {str(error).splitlines()[-1].strip()}"
        raise ConfigError(str(path), problem, cure="load it with the code that trained it") from error
    ranker.encoder = description["encoder"]
    return ranker.eval()


def describe_anew(path: Path, ranker: Ranker[Any]) -> None:
    """Put into a Lightning checkpoint how to make this ranker as it is now, with what validation has decided."""
    checkpoint = read_checkpoint(path)
    checkpoint["ranker"] = ranker.description()
    write_checkpoint(path, checkpoint)


def write_checkpoint(path: Path, checkpoint: Mapping[str, Any]) -> None:
    """Write a checkpoint of a run, all of it or nothing.

    Raises:
        StoreError: If the disk refuses, for one because it is full; the one before it stays.
    """
    content = io.BytesIO()
    torch.save(checkpoint, content)
    write_file(path, content.getbuffer(), cure=f"make room, then: python train.py --resume {path.parent}")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of a run, after a look at the checksums of its parts.

    Raises:
        ConfigError: If it is missing, damaged, or no ranker's.
    """
    if not path.is_file():
        cure = "give a run's folder after its first validation, a .ckpt file, or a folder of save_pretrained"
        raise ConfigError(str(path), "no ranker here.", cure=cure)
    try:
        with zipfile.ZipFile(path) as parts:
            if (broken := parts.testzip()) is not None:
                raise ConfigError(str(path), f"damaged: the checksum of its part {broken} is wrong.")
            if folders := [part.filename for part in parts.infolist() if part.external_attr & _IS_FOLDER]:
                raise ConfigError(str(path), f"damaged: its part {folders[0]} is marked as a folder.")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except ConfigError:
        raise
    except Exception as error:  # damaged bytes can make an unpickler raise anything
        reason = (str(error).splitlines() or [""])[0]
        problem, cure = f"not a whole checkpoint: {type(error).__name__}: {reason}", "copy it back, or train again"
        raise ConfigError(str(path), problem, cure=cure) from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise ConfigError(str(path), "holds no weights of a ranker.")
    _check(checkpoint.get("ranker"), path)
    return checkpoint


def _read_folder(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    try:
        description = json.loads((path / CONFIG_FILE).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(str(path / CONFIG_FILE), f"not valid json: {error}.") from error
    if isinstance(description, dict) and not signed(description):
        cure = "copy the folder again from where it is whole; if you changed it on purpose, remove its line sha256"
        problem = "damaged: its own sha256 is not that of its content, which has changed."
        raise ConfigError(str(path / CONFIG_FILE), problem, cure=cure)
    _check(description, path / CONFIG_FILE)
    file = path / WEIGHTS_FILE
    try:
        if "weights_sha256" in description and sha256_of(file) != description["weights_sha256"]:
            cure = f"copy the folder again from where it is whole, or save the ranker again; {CONFIG_FILE} has the hash"
            raise ConfigError(str(file), "damaged: its sha256 is not the one it was saved with.", cure=cure)
        return description, load_file(file)
    except (SafetensorError, OSError) as error:
        raise ConfigError(str(file), f"not a whole safetensors file: {error}.") from error


def _without_references(node: Any) -> Any:
    """The same node; rankers saved before references stood in the config have them as the option `baselines`."""
    return {key: value for key, value in node.items() if key != "baselines"} if isinstance(node, dict) else node


def _check(description: Any, file: Path) -> None:
    """Raise unless this is what `Ranker.description` gives, and perhaps hashes."""
    given = {"ranker", "imports", "encoder"}
    if not isinstance(description, dict) or not given <= description.keys() <= given | _HASHES:
        raise ConfigError(str(file), "this was not written by a ranker of this project.")
    imports = description["imports"]
    if not isinstance(imports, dict) or not all(isinstance(folder, str) for folder in imports.values()):
        raise ConfigError(str(file), f"imports should be modules and their folders, not {imports!r}.")
