"""Components are found by name, imported when they are needed, and made from what a yaml says."""

import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from registry import ConfigError, Registry

REPOSITORY = Path(__file__).resolve().parents[2]

SQUARE = """
from registry.testing_shapes import SHAPES
print("square was imported")

@SHAPES.register("square")
class Square:
    '''A square.'''
    def __init__(self, side: float = 1.0) -> None:
        if side <= 0:
            raise ValueError(f"side has to be positive, got {side:g}")
        self.side = side
"""


@pytest.fixture
def shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Make a registry whose home is a package with one file, square.py."""
    home = tmp_path / "shapes_of_a_test"
    home.mkdir()
    (home / "__init__.py").touch()
    (home / "square.py").write_text(SQUARE)
    made: Registry = Registry("shapes", home.name, provided=("colour",))
    module = types.ModuleType("registry.testing_shapes")
    module.SHAPES = made  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.syspath_prepend(tmp_path)
    yield made
    for name in [name for name in sys.modules if name.startswith(home.name)]:
        del sys.modules[name]


@pytest.fixture
def add(shapes: Registry, tmp_path: Path) -> Callable[[str, str], None]:
    """Write another file of the home package."""

    def write(name: str, text: str) -> None:
        (tmp_path / shapes.home / f"{name}.py").write_text(text)

    return write


def test_a_component_is_imported_when_it_is_first_asked_for(
    shapes: Registry, add: Callable[[str, str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    add("broken", "raise RuntimeError('nobody asked for this file')")
    assert capsys.readouterr().out == ""
    assert shapes.get("square").__name__ == "Square"
    shapes.get("square")
    assert capsys.readouterr().out == "square was imported\n"


def test_the_registry_is_imported_without_anything_heavy() -> None:
    code = "import sys, registry; print([name for name in ('torch', 'lightning', 'numpy') if name in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_all_names_are_known_once_all_files_are_imported(shapes: Registry, add: Callable[[str, str], None]) -> None:
    add("circle", SQUARE.replace("square", "circle").replace("Square", "Circle"))
    add("_private", "raise RuntimeError('not a component')")
    assert shapes.names() == ["circle", "square"]


def test_an_unknown_name_is_told_what_was_meant_what_exists_and_how_to_add_it(shapes: Registry) -> None:
    with pytest.raises(ConfigError) as error:
        shapes.get("sqare", "ranker.shape")
    assert str(error.value) == (
        "ranker.shape: 'sqare' is not among the shapes.\n"
        "  Did you mean: square\n"
        "  Known:        square\n"
        "  What to do:   for your own component: @SHAPES.register('sqare'), and add its module to `imports:`"
    )


def test_a_name_that_is_no_identifier_is_unknown_like_any_other(shapes: Registry) -> None:
    for name in ("../square", "square.py", "", "os.path", "__init__"):
        with pytest.raises(ConfigError, match="is not among the shapes"):
            shapes.get(name)


def test_a_taken_name_shows_both_places(shapes: Registry, tmp_path: Path) -> None:
    shapes.get("square")
    with pytest.raises(ValueError) as error:

        @shapes.register("square")
        def other() -> None:
            pass

    assert "the name 'square' is taken" in str(error.value)
    assert str(tmp_path / shapes.home / "square.py") in str(error.value)
    assert __file__ in str(error.value)
    assert shapes.get("square").__name__ == "Square"


@pytest.mark.parametrize("package", ["", "import a_package_nobody_has\n"])
def test_the_name_of_a_file_of_the_home_is_taken_before_that_file_is_imported(
    shapes: Registry, add: Callable[[str, str], None], tmp_path: Path, package: str
) -> None:
    add("square", package + SQUARE)
    with pytest.raises(ValueError, match=r"shapes: the name 'square' is taken by .*square.*; give .*other another"):

        @shapes.register("square")
        def other() -> None: ...


def test_a_file_of_the_home_that_is_no_component_leaves_its_name_free(
    shapes: Registry, add: Callable[[str, str], None]
) -> None:
    add("corners", "NUMBER = 4")

    @shapes.register("corners")
    def corners() -> None: ...

    assert shapes.get("corners") is corners


def test_the_names_of_a_home_that_is_one_module_are_taken_before_it_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: Registry = Registry("noises", "noises_of_a_test")
    module = types.ModuleType("registry.testing_noises")
    module.NOISES = made  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.syspath_prepend(tmp_path)
    text = "from registry.testing_noises import NOISES\n@NOISES.register('hum')\ndef hum(): ...\n"
    (tmp_path / "noises_of_a_test.py").write_text(text)
    with pytest.raises(ValueError, match=f"'hum' is taken by {tmp_path}/noises_of_a_test.py: hum"):
        made.register("hum")(print)


@pytest.mark.parametrize("name", ["", "ndcg@10", "none", None, 3, print])
def test_a_name_that_no_yaml_could_hold_is_not_registered(shapes: Registry, name: Any) -> None:
    with pytest.raises(ValueError, match=r'write @SHAPES\.register\("my_name"\); .* is not a name for yaml'):
        shapes.register(name)


def test_the_same_definition_may_register_twice_as_a_notebook_cell_does(shapes: Registry) -> None:
    def cell() -> type:
        @shapes.register("dot")
        class Dot:
            pass

        return Dot

    cell()
    assert cell() is shapes.get("dot")


def test_a_named_file_that_cannot_be_imported_says_why_itself(
    shapes: Registry, add: Callable[[str, str], None]
) -> None:
    add("fractal", "import a_package_nobody_has.inner\nSHAPES.register('fractal')")
    with pytest.raises(
        ConfigError, match=r"(?s)needs the package a_package_nobody_has.*pip install a-package-nobody-has"
    ):
        shapes.get("fractal")
    add("spiral", "from registry import nothing_like_it\nSHAPES.register('spiral')")
    with pytest.raises(ImportError, match="nothing_like_it"):
        shapes.get("spiral")


def test_a_file_that_lacks_its_dependency_is_no_obstacle_to_others_but_is_named(
    shapes: Registry, add: Callable[[str, str], None]
) -> None:
    add("fractal", "import a_package_nobody_has\nSHAPES.register('fractal')")
    assert shapes.names() == ["square"]
    with pytest.raises(ConfigError, match=r"fractal cannot be imported: No module named 'a_package_nobody_has'"):
        shapes.get("fractl")


def test_a_home_that_is_one_module_is_imported_on_first_lookup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: Registry = Registry("sounds", "sounds_of_a_test")
    module = types.ModuleType("registry.testing_sounds")
    module.SOUNDS = made  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.syspath_prepend(tmp_path)
    text = "from registry.testing_sounds import SOUNDS\n@SOUNDS.register('beep')\ndef beep(k: int = 1): return k\n"
    (tmp_path / "sounds_of_a_test.py").write_text(text)
    assert made.get("beep")() == 1
    assert made.names() == ["beep"]


def test_a_component_knows_the_name_it_was_registered_under(shapes: Registry) -> None:
    assert shapes.name_of(shapes.get("square")) == "square"
    assert shapes.name_of(int) is None


def test_a_node_is_a_name_or_a_mapping_or_a_name_with_a_cutoff(shapes: Registry) -> None:
    @shapes.register("best")
    def best(scores: list[float], /, *, k: int = 1) -> list[float]:
        return sorted(scores)[-k:]

    assert shapes.check("best") == {"name": "best", "k": 1}
    assert shapes.check({"name": "best", "k": "3"}) == {"name": "best", "k": 3}
    assert shapes.check("best@10") == {"name": "best", "k": 10}
    assert shapes.bind("best@2")([1.0, 3.0, 2.0]) == [2.0, 3.0]


@pytest.mark.parametrize(("node", "message"), [
    ("best@ten", "metrics: 'best@ten': expected a whole number after @, as in ndcg@10."),
    ("best@-1", "metrics: 'best@-1': expected a whole number after @, as in ndcg@10."),
    ("best@\u00b2", "metrics: 'best@\u00b2': expected a whole number after @, as in ndcg@10."),
    ("best@\u0661\u0660", "metrics: 'best@\u0661\u0660': expected a whole number after @, as in ndcg@10."),
    ("best@", "metrics: 'best@': expected a whole number after @, as in ndcg@10."),
    ("best@1_0", "metrics: 'best@1_0': expected a whole number after @, as in ndcg@10."),
    ("best@ 10", "metrics: 'best@ 10': expected a whole number after @, as in ndcg@10."),
    ("square@10", "metrics.k: no such option of Square."),
    (None, "metrics: expected a name or a mapping with one, got null."),
    (["square"], "metrics: expected a name or a mapping with one, got ['square']."),
    ({"side": 2}, "metrics.name: missing: which of the shapes?"),
    ({"name": 7}, "metrics.name: missing: which of the shapes?"),
    ({"name": "square", "sid": 2}, "metrics.sid: no such option of Square."),
    ({"name": "square", "side": "long"}, "metrics.side: expected float, got 'long'"),
])  # fmt: skip
def test_a_node_that_makes_no_sense_is_refused_by_its_path(shapes: Registry, node: Any, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        shapes.check(node, "metrics")
    assert str(error.value).startswith(message)


def test_build_makes_a_component_from_its_options(shapes: Registry) -> None:
    assert shapes.build("square").side == 1.0
    assert shapes.build({"name": "square", "side": 3}).side == 3.0


def test_build_passes_on_what_the_signature_asks_for_and_nothing_else(shapes: Registry) -> None:
    @shapes.register("painted")
    def painted(corners: list[int], /, colour: str, size: int = 1) -> tuple[Any, ...]:
        return corners, colour, size

    assert shapes.build({"name": "painted", "size": 2}, [1, 2], colour="red", weather="fine") == ([1, 2], "red", 2)
    assert shapes.build("square", colour="red").side == 1.0


def test_what_a_component_refuses_is_an_error_in_the_yaml(shapes: Registry) -> None:
    with pytest.raises(ConfigError) as error:
        shapes.build({"name": "square", "side": -1}, path="ranker.shape")
    assert str(error.value) == "ranker.shape: square: side has to be positive, got -1"


def test_an_option_that_code_provides_may_be_missing_from_the_yaml_but_others_may_not(shapes: Registry) -> None:
    @shapes.register("poster")
    def poster(colour: str, text: str) -> None:
        """A poster.

        Args:
            colour: Of the paper.
            text: What it says.
        """

    assert shapes.check({"name": "poster", "text": "hello"}) == {"name": "poster", "text": "hello"}
    with pytest.raises(ConfigError) as error:
        shapes.check("poster", "wall")
    assert str(error.value) == "wall.text: poster needs this option.\n  What to do:   What it says."


def test_complete_adds_the_facts_that_the_signature_asks_for(shapes: Registry) -> None:
    @shapes.register("scaled")
    def scaled(feature_dim: int, bias: bool = False) -> None: ...

    facts = {"feature_dim": 32, "num_items": 9}
    expected = {"name": "scaled", "feature_dim": 32, "bias": False}
    assert shapes.complete("scaled", facts) == expected
    assert shapes.complete({"name": "scaled", "feature_dim": 32}, facts) == expected
    assert shapes.complete({"name": "scaled", "feature_dim": None}, facts) == expected
    with pytest.raises(ConfigError) as error:
        shapes.complete({"name": "scaled", "feature_dim": 64}, facts, "ranker")
    assert str(error.value).startswith("ranker.feature_dim: 64 contradicts the data, which has 32.")
