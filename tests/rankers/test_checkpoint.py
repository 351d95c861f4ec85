"""A trained ranker on disk: readable, nothing pickled, and one clear error where it is damaged."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rankers.base import Ranker, Training
from rankers.checkpoint import load_ranker, save_pretrained
from rankers.language_ranker.list_ranker import ListRanker
from ranking.batch import FeatureBatch
from registry import RANKERS, ConfigError

pytestmark = pytest.mark.usefixtures("outside")

NODE = {"name": "point_ranker", "projection": {"name": "linear", "dim": 4}, "temperature": 0.5, "loss": "listnet"}


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (3,)


@pytest.fixture
def ranker() -> Ranker[Any]:
    torch.manual_seed(0)
    made = RANKERS.build(NODE, feature_dim=6)
    made.encoder = {"model": "encodeur-généreux", "max_length": 8}
    return made


@pytest.fixture
def folder(ranker: Ranker[Any], tmp_path: Path) -> Path:
    return save_pretrained(ranker, tmp_path / "saved")


@pytest.fixture
def checkpoint(ranker: Ranker[Any], tmp_path: Path) -> Path:
    """Write what Lightning leaves in a run."""
    content: dict[str, Any] = {"state_dict": ranker.state_dict(), "epoch": 3, "global_step": 7}
    ranker.on_save_checkpoint(content)
    (tmp_path / "run").mkdir()
    torch.save(content, tmp_path / "run" / "best.ckpt")
    return tmp_path / "run" / "best.ckpt"


def refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as error:
        load_ranker(path)
    message = str(error.value)
    assert "\n" not in message.split("\n  ")[0]
    return message


def same_weights(one: Ranker[Any], other: Ranker[Any]) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_saved_ranker_can_be_read_by_a_person_and_by_any_safetensors_reader(
    folder: Path, ranker: Ranker[Any]
) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    text = (folder / "config.json").read_text(encoding="utf-8")
    description = json.loads(text)
    assert "encodeur-généreux" in text and text.startswith('{\n  "ranker": {\n    "name": "point_ranker",\n')
    assert description["ranker"].items() >= {"temperature": 0.5, "feature_dim": 6, "num_blocks": 1}.items()
    assert description["encoder"] == ranker.encoder
    weights = load_file(folder / "model.safetensors")
    assert weights.keys() == ranker.state_dict().keys()
    assert all(torch.equal(weights[name], weight) for name, weight in ranker.state_dict().items())


def test_a_ranker_loads_from_a_folder_a_run_and_a_checkpoint(
    folder: Path, checkpoint: Path, ranker: Ranker[Any]
) -> None:
    for path in (folder, checkpoint, checkpoint.parent):
        loaded = load_ranker(str(path))
        assert same_weights(loaded, ranker) and loaded.encoder == ranker.encoder
        assert loaded.description() == ranker.description()


def test_saving_again_replaces_what_was_there(folder: Path, ranker: Ranker[Any]) -> None:
    with torch.no_grad():
        next(ranker.parameters()).add_(1)
    (folder / "README.md").write_text("mine")
    save_pretrained(ranker, folder)
    assert same_weights(load_ranker(folder), ranker)
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]


def test_a_ranker_without_a_name_is_not_saved(tmp_path: Path) -> None:
    class Nameless(Ranker[FeatureBatch]):
        pass

    with pytest.raises(ValueError, match=r"Nameless has no name: decorate it with @RANKERS\.register"):
        save_pretrained(Nameless(), tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def write(content: str | bytes) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(content if isinstance(content, bytes) else content.encode())


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def config(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Any]:
    def apply(path: Path) -> None:
        content = json.loads(path.read_text(encoding="utf-8"))
        del content["sha256"]  # as if it had been written so, by an older version
        change(content)
        path.write_text(json.dumps(content))

    return apply


def weights(change: Callable[[dict[str, Tensor]], Any]) -> Callable[[Path], Any]:
    def apply(path: Path) -> None:
        content = {name: weight.clone() for name, weight in load_file(path).items()}
        change(content)
        save_file(content, path)
        config(lambda c: c.pop("weights_sha256"))(path.with_name("config.json"))

    return apply


def pickled(content: Any) -> Callable[[Path], Any]:
    return lambda path: torch.save(content, path)


PROJECTION = "layers.projection.linear.weight"
FOREIGN = "this was not written by a ranker of this project."
CHANGED = "damaged: its sha256 is not the one it was saved with.\n  What to do:   copy the folder again from an"
FOLDERS: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "config: empty": ("config.json", write(""), "config.json: not valid json: "),
    "config: cut off": ("config.json", cut, "config.json: not valid json: "),
    "config: no text": ("config.json", write(b"\xff\xfe\x00"), "config.json: not valid json: "),
    "config: a list": ("config.json", write("[1]"), f"config.json: {FOREIGN}"),
    "config: another project's": ("config.json", write('{"model_type": "bert"}'), f"config.json: {FOREIGN}"),
    "config: no encoder": ("config.json", config(lambda c: c.pop("encoder")), f"config.json: {FOREIGN}"),
    "config: imports that are no mapping": (
        "config.json",
        config(lambda c: c.update(imports=["os"])),
        "config.json: imports should be modules and their folders, not ['os']",
    ),
    "config: an option that was changed": (
        "config.json",
        lambda path: path.write_text(path.read_text().replace('"temperature": 0.5', '"temperature": 0.7')),
        "config.json: damaged: its content has changed: it does not match the sha256 in it.\n"
        "  What to do:   copy the folder again from an undamaged copy; if you changed it on purpose, remove its line",
    ),
    "config: a hash nobody knows": ("config.json", config(lambda c: c.update(sha25v="")), f"config.json: {FOREIGN}"),
    "config: a folder of imports that is no text": (
        "config.json",
        config(lambda c: c.update(imports={"my_module": 3})),
        "config.json: imports should be modules and their folders, not {'my_module': 3}",
    ),
    "config: no ranker": (
        "config.json",
        config(lambda c: c.update(ranker=None)),
        ": ranker: expected a name or a mapping",
    ),
    "config: a ranker nobody knows": (
        "config.json",
        config(lambda c: c["ranker"].update(name="pont_ranker")),
        ": ranker: 'pont_ranker' is not among the rankers.\n  Did you mean: point_ranker\n",
    ),
    "config: an option nobody knows": (
        "config.json",
        config(lambda c: c["ranker"].update(heat=1)),
        ": ranker.heat: no such option of PointRanker.",
    ),
    "config: a module that is gone": (
        "config.json",
        config(lambda c: c.update(imports={"my_lost_module": "/nowhere"})),
        ": imports[0]: no module named 'my_lost_module'.\n  What to do:   put my_lost_module.py in one of ",
    ),
    "config: a module of another name": (
        "config.json",
        config(lambda c: c.update(imports={"random": "/nowhere"})),
        ": imports[0]: 'random' is a part of Python itself, not a file of yours.\n  What to do:   give your ",
    ),
    "weights: missing": ("model.safetensors", Path.unlink, "model.safetensors: not a whole safetensors file: "),
    "weights: empty": ("model.safetensors", write(""), f"model.safetensors: {CHANGED}"),
    "weights: cut off": ("model.safetensors", cut, f"model.safetensors: {CHANGED}"),
    "weights: text": (
        "model.safetensors",
        write("git-lfs pointer"),
        f"model.safetensors: {CHANGED}",
    ),
    "weights: another ranker's": (
        "model.safetensors",
        lambda path: save_file({PROJECTION: torch.zeros(4, 6)}, path),
        f"model.safetensors: {CHANGED}",
    ),
    "weights: of another shape": (
        "model.safetensors",
        weights(lambda w: w.update({PROJECTION: torch.zeros(9, 6)})),
        f": its weights do not fit point_ranker: size mismatch for {PROJECTION}",
    ),
    "weights: one too few": (
        "model.safetensors",
        weights(lambda w: w.pop(PROJECTION)),
        f": its weights do not fit point_ranker: weights of PointRanker: 1 missing: {PROJECTION}",
    ),
    "weights: one too many": (
        "model.safetensors",
        weights(lambda w: w.update(extra=torch.zeros(1))),
        ": its weights do not fit point_ranker: weights of PointRanker: 1 unknown: extra",
    ),
}
CHECKPOINTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (Path.unlink, "no ranker here.\n  What to do:   give a run's folder after its first validation"),
    "empty": (write(""), "not a whole checkpoint: "),
    "cut off": (cut, "not a whole checkpoint: "),
    "text": (write("hello"), "not a whole checkpoint: "),
    "bytes": (write(bytes(range(256))), "not a whole checkpoint: "),
    "a pickle that runs code": (pickled({"state_dict": Malicious()}), "not a whole checkpoint: "),
    "a tensor": (pickled(torch.zeros(3)), "holds no weights of a ranker."),
    "another project's": (pickled({"state_dict": {}}), FOREIGN),
    "no weights": (pickled({"ranker": {}, "state_dict": 3}), "holds no weights of a ranker."),
}


@pytest.mark.parametrize(("file", "damage", "message"), FOLDERS.values(), ids=FOLDERS)
def test_a_damaged_folder_is_one_error_that_names_the_file(
    folder: Path, file: str, damage: Callable[[Path], Any], message: str
) -> None:
    damage(folder / file)
    problem = refusal(folder)
    assert problem.startswith(str(folder)) and message in problem


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_folder_with_any_byte_changed_is_refused_or_says_the_same(
    folder: Path, file: str, ranker: Ranker[Any]
) -> None:
    content = (folder / file).read_bytes()
    for place, byte in enumerate(content):
        (folder / file).write_bytes(content[:place] + bytes([byte ^ 1 << place % 8]) + content[place + 1 :])
        try:
            loaded = load_ranker(folder)
        except ConfigError as error:
            assert str(error).startswith(f"{folder / file}: ")
        else:
            assert same_weights(loaded, ranker) and loaded.description() == ranker.description()


def test_a_checkpoint_with_a_byte_changed_is_refused_or_says_the_same(checkpoint: Path, ranker: Ranker[Any]) -> None:
    content = checkpoint.read_bytes()
    for place in range(0, len(content), 29):
        changed = bytes([content[place] ^ 1 << place % 8])
        checkpoint.write_bytes(content[:place] + changed + content[place + 1 :])
        try:
            loaded = load_ranker(checkpoint)
        except ConfigError as error:
            assert str(error).startswith(f"{checkpoint}: ")
        else:
            assert same_weights(loaded, ranker) and loaded.description() == ranker.description()


def test_a_part_of_a_checkpoint_that_is_marked_as_a_folder_is_not_read_as_zeros(checkpoint: Path) -> None:
    content = bytearray(checkpoint.read_bytes())
    content[content.index(b"best/data/0", content.index(b"PK\x01\x02")) - 8] |= 0x10
    checkpoint.write_bytes(content)
    assert refusal(checkpoint).startswith(f"{checkpoint}: damaged: its part best/data/0 is marked as a folder.\n")


def test_a_folder_of_an_older_version_has_no_hashes_and_is_loaded(folder: Path, ranker: Ranker[Any]) -> None:
    config(lambda c: c.pop("weights_sha256"))(folder / "config.json")
    assert same_weights(load_ranker(folder), ranker)


def test_a_folder_that_was_changed_on_purpose_is_loaded_once_its_hash_is_removed(folder: Path) -> None:
    config(lambda c: c["ranker"].update(temperature=0.7))(folder / "config.json")
    assert load_ranker(folder).description()["ranker"]["temperature"] == 0.7


@pytest.mark.parametrize(("damage", "message"), CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_a_damaged_checkpoint_is_one_error_that_names_the_file(
    checkpoint: Path, damage: Callable[[Path], Any], message: str
) -> None:
    damage(checkpoint)
    for path in (checkpoint, checkpoint.parent):
        assert refusal(path).startswith(f"{checkpoint}: {message}")


def test_where_there_is_no_ranker_it_is_said_what_would_be_one(tmp_path: Path) -> None:
    cure = (
        "\n  What to do:   give a run's folder after its first validation, a .ckpt file, or a folder of save_pretrained"
    )
    assert refusal(tmp_path / "nowhere") == f"{tmp_path}/nowhere: no ranker here.{cure}"
    assert refusal(tmp_path) == f"{tmp_path}/best.ckpt: no ranker here.{cure}"


def test_weights_that_are_shared_are_saved_too(tmp_path: Path) -> None:
    @RANKERS.register("tied_for_a_test")
    class Tied(Ranker[FeatureBatch]):
        def __init__(self, feature_dim: int, **training: Unpack[Training]) -> None:
            super().__init__(**training)
            self.query = nn.Linear(feature_dim, 2)
            self.candidate = nn.Linear(feature_dim, 2)
            self.candidate.weight = self.query.weight

    ranker = Tied(feature_dim=6)
    assert same_weights(load_ranker(save_pretrained(ranker, tmp_path)), ranker)


def test_a_ranker_that_settles_options_of_another_is_saved_too(tmp_path: Path) -> None:
    @RANKERS.register("settled_for_a_test")
    class Settled(ListRanker):
        def __init__(self, feature_dim: int, depth: int = 1, **training: Unpack[Training]) -> None:
            super().__init__(feature_dim, block="gated", num_blocks=depth, **training)

    ranker = RANKERS.build({"name": "settled_for_a_test", "depth": 2, "loss": "bce"}, feature_dim=6)
    loaded = load_ranker(save_pretrained(ranker, tmp_path))
    assert isinstance(loaded, Settled) and same_weights(loaded, ranker)


def test_an_option_that_is_a_dataclass_is_saved_too(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Shape:
        dim: int = 3

    @RANKERS.register("shaped_for_a_test")
    class Shaped(Ranker[FeatureBatch]):
        def __init__(self, feature_dim: int, shape: Shape = Shape(), **training: Unpack[Training]) -> None:
            super().__init__(**training)
            self.project = nn.Linear(feature_dim, shape.dim)

    ranker = RANKERS.build({"name": "shaped_for_a_test", "shape": {"dim": 5}}, feature_dim=6)
    loaded = load_ranker(save_pretrained(ranker, tmp_path))
    assert isinstance(loaded, Shaped) and same_weights(loaded, ranker)
    content: dict[str, Any] = {"state_dict": ranker.state_dict()}
    ranker.on_save_checkpoint(content)
    torch.save(content, tmp_path / "a.ckpt")
    assert same_weights(load_ranker(tmp_path / "a.ckpt"), ranker)
