"""The versions that are installed, by constraints.txt, are among those that pyproject.toml promises to work."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
INSTALLED = [Requirement(each) for each in [*PROJECT["dependencies"], *EXTRAS["dev"], *EXTRAS["quickstart"]]]
LINES = [line for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
EXACT = dict(line.split("==") for line in LINES)


@pytest.mark.parametrize("requirement", INSTALLED, ids=lambda requirement: requirement.name)
def test_each_dependency_has_an_exact_version_within_its_range(requirement: Requirement) -> None:
    exact = {canonicalize_name(name): version for name, version in EXACT.items()}
    assert requirement.specifier.contains(exact[canonicalize_name(requirement.name)])


@pytest.mark.parametrize("requirement", INSTALLED, ids=lambda requirement: requirement.name)
def test_each_range_has_two_ends(requirement: Requirement) -> None:
    operators = {each.operator for each in requirement.specifier}
    assert operators >= {">=", "<"} or operators == {"=="}


def test_builds_for_processors_and_for_gpus_both_fit() -> None:
    assert "+" not in EXACT["torch"]
    assert not [name for name in EXACT if name.startswith(("nvidia", "cuda", "triton"))]


def test_every_command_of_the_documentation_installs_with_them() -> None:
    files = [
        *REPOSITORY.glob("*.md"),
        *REPOSITORY.glob("docs/*.md"),
        REPOSITORY / "Makefile",
        REPOSITORY / ".ci" / "run",
    ]
    lines = [line for file in files for line in file.read_text().splitlines() if '-e ".[' in line]
    lines = [line for line in lines if ".venv-l" not in line]  # those are to install other versions
    assert len(lines) >= 4
    for line in lines:
        assert "-c constraints.txt" in line, line
