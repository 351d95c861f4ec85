"""A module of the user is the one that was meant, and what goes wrong in it is one error with file and line."""

import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import registry.__main__ as show
import train
from registry import LOSSES, ConfigError, imports, load_config
from registry.imports import import_modules

REPOSITORY = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.usefixtures("outside")


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Write a file of the user; the working directory is another one, and empty."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    def to(file: str, text: str) -> Path:
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return to


def refusal(name: str, *folders: Path) -> str:
    with pytest.raises(ConfigError) as error:
        import_modules([name], folders)
    assert str(error.value).startswith("imports[0]: ")
    return str(error.value).removeprefix("imports[0]: ")


def hidden(name: str) -> str:
    place = Path(importlib.import_module(name).__file__ or "").resolve()
    cure = "\n  What to do:   give {} another name, and use that name here"
    return f"{name!r} is {place} to Python, so {{}} would not be read.{cure}"


def test_the_repository_has_the_names_that_no_module_may_have() -> None:
    packages = {path.parent.name for path in REPOSITORY.glob("*/__init__.py")} - {"tests"}
    assert packages | {"train"} == imports.OURS


@pytest.mark.parametrize(("name", "owner"), [
    ("features", "this repository"), ("train", "this repository"), ("registry", "this repository"),
    ("random", "Python itself"), ("sys", "Python itself"), ("os.path", "Python itself"), ("__main__", "Python itself"),
])  # fmt: skip
def test_a_name_of_the_repository_or_of_python_is_refused_with_or_without_a_file(
    write: Callable[[str, str], Path], tmp_path: Path, name: str, owner: str
) -> None:
    assert refusal(name).startswith(f"{name!r} is a part of {owner}, not a file of yours.\n  What to do:   give your ")
    file = write(f"{name.replace('.', '/')}.py", "raise RuntimeError('never run')")
    assert refusal(name, tmp_path).startswith(f"{name!r} is a part of {owner}, not {file}.\n")


def test_a_file_that_an_installed_package_hides_is_refused_with_both_places(
    write: Callable[[str, str], Path], tmp_path: Path
) -> None:
    problem, never_run = hidden("yaml"), "raise RuntimeError('never run')"
    file = write("yaml.py", never_run)
    assert refusal("yaml", tmp_path) == problem.format(file, file)
    file = write("beside/yaml/__init__.py", never_run)
    assert refusal("yaml", tmp_path / "beside") == problem.format(file, file.parent)


@pytest.mark.parametrize(("name", "hidden_by"), [
    ("yaml.nodes", "yaml.nodes"), ("yaml.mine", "yaml"), ("rankers.mine", "rankers"), ("rankers.base", "rankers.base"),
])  # fmt: skip
def test_a_file_in_a_folder_that_a_package_hides_is_refused_likewise(
    write: Callable[[str, str], Path], tmp_path: Path, name: str, hidden_by: str
) -> None:
    file = write(f"{name.replace('.', '/')}.py", "raise RuntimeError('never run')")
    assert refusal(name, tmp_path) == hidden(hidden_by).format(file, file.parent)


def test_the_file_beside_the_yaml_is_meant_rather_than_that_of_the_working_directory(
    write: Callable[[str, str], Path], tmp_path: Path
) -> None:
    write("elsewhere/which_one.py", "place = 'working directory'")
    write("beside/which_one.py", "place = 'beside the yaml'")
    import_modules(["which_one"], [tmp_path / "beside"])
    assert sys.modules["which_one"].place == "beside the yaml"
    assert imports.imported_modules()["which_one"] == str(tmp_path / "beside")


def test_another_file_of_a_name_that_is_imported_already_is_refused(
    write: Callable[[str, str], Path], tmp_path: Path
) -> None:
    first, other = write("a/same_name.py", "x = 1"), write("b/same_name.py", "x = 2")
    import_modules(["same_name"], [first.parent])
    import_modules(["same_name"], [first.parent])
    problem = refusal("same_name", other.parent)
    assert problem.startswith(f"'same_name' is {first} in this process already, so {other} cannot be read.")
    other.write_text("x = 1")
    import_modules(["same_name"], [other.parent])


def test_a_folder_is_no_module_that_a_checkpoint_could_find(write: Callable[[str, str], Path], tmp_path: Path) -> None:
    write("only_a_folder/block.py", "")
    assert "'only_a_folder' is not a file" in refusal("only_a_folder", tmp_path)
    import_modules(["only_a_folder.block"], [tmp_path])
    assert imports.imported_modules()["only_a_folder.block"] == str(tmp_path)


WRONG = {
    "raises": ("x = 1\n1 / 0", "line 2: ZeroDivisionError: division by zero."),
    "raises without words": ("raise RuntimeError", "line 1: RuntimeError."),
    "raises many words": ("raise ValueError('one.\\ntwo')", "line 1: ValueError: one."),
    "misspells": ("\n\nprin('a')", "line 3: NameError: name 'prin' is not defined."),
    "is no Python": ("x = 1\ndef f(:\n", "line 2: SyntaxError: invalid syntax."),
    "is not indented": ("def f():\nx = 1\n", "line 2: IndentationError: expected an indented block"),
    "exits": ("import sys\nsys.exit(0)", "line 2: it ends Python: sys.exit(0)."),
    "exits with words": ("raise SystemExit('no GPU')", "line 1: it ends Python: sys.exit('no GPU')."),
    "raises what Ctrl-C raises": ("x = 1\nraise KeyboardInterrupt", "line 2: KeyboardInterrupt."),
    "raises what has no text": (
        "class Bad(Exception):\n    def __str__(self): return 1\nraise Bad",
        "line 3: Bad.",
    ),
    "raises its own": ("class Stop(BaseException): ...\nraise Stop('no')", "line 2: Stop: no."),
    "lacks a package": (
        "\nimport a_package_nobody_has.inner",
        "line 2: needs the package a_package_nobody_has, which is not installed.\n"
        "  What to do:   pip install a-package-nobody-has, or put a_package_nobody_has.py in ",
    ),
    "lacks a name": ("from registry import no_such", "line 1: ImportError: cannot import name 'no_such'"),
    "lacks a module of a package": ("import registry.none", "line 1: ModuleNotFoundError: No module named 'regis"),
    "goes wrong in other code": ("import json\njson.loads('[')", "line 2: JSONDecodeError: Expecting value"),
    "recurses": ("def f():\n    f()\nf()", "line 2: RecursionError: maximum recursion depth exceeded."),
    "registers wrongly": (
        "from registry import BLOCKS\n@BLOCKS.register\nclass Mine: ...",
        'line 2: ValueError: write @BLOCKS.register("my_name"); Mine is not a name for yaml.',
    ),
}


@pytest.mark.parametrize(("text", "problem"), WRONG.values(), ids=WRONG)
def test_what_goes_wrong_in_a_module_is_one_error_with_file_and_line(
    write: Callable[[str, str], Path], tmp_path: Path, text: str, problem: str
) -> None:
    file = write("goes_wrong.py", text)
    found = refusal("goes_wrong", tmp_path)
    assert found.startswith(f"{file}, {problem}")
    assert "\n  What to do:   " in found
    file.write_text("x = 1  # mended")
    os.utime(file, (1, 1))  # not the time of the file whose bytecode is kept
    import_modules(["goes_wrong"], [tmp_path])


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C counts, also where a shell runs the tests in the background and so has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(
    ("main", "arguments"), [(train.main, ["--config", "run.yaml"]), (show.main, ["losses", "--imports", "waits"])]
)
def test_ctrl_c_while_a_module_is_imported_stops_the_command(
    main: Callable[..., int],
    arguments: list[str],
    write: Callable[[str, str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write("waits.py", "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(9)")
    write("run.yaml", "imports: [waits]")
    assert main(arguments) == 130
    assert capsys.readouterr().err.startswith("stopped")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_error_in_another_file_of_the_user_is_told_with_that_file(
    write: Callable[[str, str], Path], tmp_path: Path
) -> None:
    write("leads_on.py", "import leads_astray")
    other = write("leads_astray.py", "x = 1\nx.y")
    assert refusal("leads_on", tmp_path).startswith(f"{other}, line 2: AttributeError: 'int' object has no attribute")
    sys.modules.pop("leads_astray", None)


# In a process of its own, where no component has been imported.
CLASHES = """
import sys
from registry import KINDS, ConfigError
from registry.imports import import_modules

for kind, name in [("blocks", "transformer"), ("similarities", "cosine"), ("losses", "bce"), ("sources", "jsonl")]:
    with open("mine.py", "w") as file:
        file.write(f"from registry import {kind.upper()}\\n\\n@{kind.upper()}.register({name!r})\\ndef mine(): ...\\n")
    try:
        import_modules(["mine"])
    except ConfigError as error:
        print(str(error).partition("\\n")[0])
"""


def test_a_builtin_name_is_refused_even_where_its_file_was_never_imported(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", CLASHES]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    mine, expected = (
        tmp_path / "mine.py",
        {
            "blocks: the name 'transformer'": "rankers/language_ranker/blocks/transformer.py: Transformer",
            "similarities: the name 'cosine'": "rankers/language_ranker/similarities.py: Cosine",
            "losses: the name 'bce'": "ranking/losses.py: bce",
            "sources: the name 'jsonl'": "features/sources/own/jsonl.py: JsonLines",
        },
    )
    assert done.stdout.splitlines() == [
        f"imports[0]: {mine}, line 3: TakenNameError: {name} is taken by {REPOSITORY}/{place};"
        f" give {mine}: mine another."
        for name, place in expected.items()
    ]


def test_two_modules_that_register_one_name_are_refused_with_both_places(
    write: Callable[[str, str], Path], tmp_path: Path
) -> None:
    text = "from registry import LOSSES\n@LOSSES.register('twice_for_a_test')\ndef loss(): ..."
    first, other = write("one_of_two.py", text), write("two_of_two.py", text)
    import_modules(["one_of_two"], [tmp_path])
    problem = refusal("two_of_two", tmp_path)
    assert f"{other}, line 2: TakenNameError: losses: the name 'twice_for_a_test' is taken by {first}: loss" in problem
    assert LOSSES.get("twice_for_a_test").__module__ == "one_of_two"


def test_a_misspelt_name_is_told_with_the_taken_name_of_an_imported_module(
    write: Callable[[str, str], Path], tmp_path: Path
) -> None:
    text = "from registry import SIMILARITIES\n@SIMILARITIES.register('cosine')\ndef mine(): ..."
    write("clashes_with_cosine.py", text)
    config = tmp_path / "run.yaml"
    node = "{name: list_ranker, similarity: cosinee}"
    config.write_text(f"ranker: {node}\ndatamodule: grouped_features\nimports: [clashes_with_cosine]\n")
    with pytest.raises(ConfigError) as caught:
        load_config(config)
    assert "line 2: TakenNameError: similarities: the name 'cosine' is taken by" in str(caught.value)
    assert str(caught.value).endswith(
        "\n  Also:         ranker.similarity: 'cosinee' is not among the similarities. Did you mean cosine?"
    )
    with pytest.raises(ConfigError) as caught:
        load_config(config, ["ranker.similarity=cosine"])
    assert "Also:" not in str(caught.value)
