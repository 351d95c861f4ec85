"""What the README promises is there, and its code runs."""

import re
from pathlib import Path

import pytest
import torch

from language_models.encoder import Encoder
from rankers.checkpoint import save_pretrained
from rankers.language_ranker.point_ranker import PointRanker
from registry import load_config
from registry.config import find_config

REPOSITORY = Path(__file__).resolve().parent.parent
README = (REPOSITORY / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)


def test_it_is_short_and_starts_with_exactly_two_commands() -> None:
    assert len(README.splitlines()) < 200
    first_screen = README.split("\n## ")[0]
    commands = re.findall(r"```bash\n(.*?)```", first_screen, re.DOTALL)
    assert len(commands) == 2 and all(command.count("\n") == 1 for command in commands)
    assert commands[0].rstrip().endswith("python train.py --config quickstart.yaml")
    assert commands[1].rstrip().endswith("pytest")
    assert re.search(r"^pytest( --durations \d+)?$", (REPOSITORY / ".ci" / "run").read_text(), re.MULTILINE)


def test_every_config_and_override_it_shows_is_valid() -> None:
    shown = re.findall(r"python train\.py --config (\S+)((?: +[\w.]+=\S+)*)", README)
    assert len(shown) >= 4
    for config, overrides in shown:
        load_config(config, overrides.split())


def test_every_file_of_its_tree_exists() -> None:
    (tree,) = [code for language, code in BLOCKS if code.startswith("train.py ")]
    for line in tree.splitlines():
        assert (REPOSITORY / line.split()[0]).exists(), line
    for name in re.findall(r"\w+\.yaml", tree):
        assert find_config(name)


def test_its_reranker_ranks(tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = [code for language, code in BLOCKS if "Reranker.from_pretrained" in code]
    torch.manual_seed(0)
    ranker = PointRanker(feature_dim=32)
    ranker.encoder = Encoder(model=str(tiny_bert), max_length=64).identity()
    save_pretrained(ranker, tmp_path / "run")
    code, count = re.subn(r'Reranker\.from_pretrained\("[^"]+"\)', f'Reranker.from_pretrained("{tmp_path}/run")', code)
    assert count == 1
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "my-reranker" / "model.safetensors").is_file()


@pytest.mark.parametrize("name", [".ci/run", "Makefile", "README.md", "CONTRIBUTING.md"])
def test_every_file_of_the_repository_that_it_names_exists(name: str) -> None:
    folders = "registry|console|ranking|language_models|rankers|datamodules|features|training|serving|tests|configs"
    text = (REPOSITORY / name).read_text()
    for path in re.findall(rf"\b((?:{folders})/[a-z_0-9/]+\.(?:py|yaml))", text):
        assert (REPOSITORY / path).is_file(), path
