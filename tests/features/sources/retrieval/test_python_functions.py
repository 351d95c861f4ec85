"""python_functions: documented functions of the standard library, each once, without the words that describe them."""

import ast
import platform
import shutil
import sysconfig
from pathlib import Path

import pytest

from features.sources.retrieval.python_functions import PythonFunctions, first_sentence, strip_docstrings
from features.texts.groups import TextGroup, checked


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory) -> list[TextGroup]:
    """The functions of a few packages of the standard library, and not those of folders to leave out."""
    library, part = Path(sysconfig.get_path("stdlib")), tmp_path_factory.mktemp("library")
    for name in ("json", "asyncio", "email"):
        shutil.copytree(library / name, part / name)
    for name in ("test", "idlelib", "site-packages/numpy", "email/tests"):
        (part / name).mkdir(parents=True, exist_ok=True)
        (part / name / "left_out.py").write_text(
            'def f():\n    """Return what nobody shall ever see."""\n    return 1\n'
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sysconfig, "get_path", lambda name: str(part))
        return list(checked(PythonFunctions().groups()))


@pytest.mark.slow
def test_there_are_thousands() -> None:
    assert 4000 < len(list(checked(PythonFunctions().groups()))) < 7000


def test_a_method_that_everyone_knows_is_among_them(groups: list[TextGroup]) -> None:
    group = next(group for group in groups if group.query_id == "json.decoder.JSONDecoder.decode")
    assert group.query.startswith("Return the Python representation of ``s``")
    [candidate] = group.candidates
    assert (candidate.id, candidate.label) == (group.query_id, 1.0)
    assert candidate.text.startswith("def decode(self, s, _w=WHITESPACE.match):\n    obj, end = self.raw_decode(")


def test_nothing_occurs_twice(groups: list[TextGroup]) -> None:
    for values in zip(*((each.query_id, each.query, each.candidates[0].text) for each in groups), strict=True):
        assert len(set(values)) == len(groups)


def test_no_code_holds_a_docstring_or_is_empty(groups: list[TextGroup]) -> None:
    for group in groups:
        function = ast.parse(group.candidates[0].text).body[0]
        for node in ast.walk(function):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                assert ast.get_docstring(node) is None, group.query_id
        assert not all(isinstance(statement, ast.Pass) for statement in function.body), group.query_id  # type: ignore[attr-defined]


def test_no_query_is_trivial_or_more_than_a_paragraph(groups: list[TextGroup]) -> None:
    assert all(len(group.query.split()) >= 4 and "\n" not in group.query for group in groups)


def test_tests_and_installed_packages_are_left_out(groups: list[TextGroup]) -> None:
    assert {group.query_id.split(".")[0] for group in groups} == {"json", "asyncio", "email"}
    assert not any("left_out" in group.query_id for group in groups)


def test_the_order_is_that_of_names(groups: list[TextGroup]) -> None:
    names = [group.query_id for group in groups]
    assert names == sorted(names)


def test_the_fingerprint_depends_on_the_python_version() -> None:
    fingerprint = PythonFunctions().fingerprint()
    assert fingerprint["python"] == platform.python_version()
    assert fingerprint == PythonFunctions().fingerprint()
    assert fingerprint != PythonFunctions(min_words=5).fingerprint()


@pytest.mark.parametrize(
    ("docstring", "sentence"),
    [
        ("Return a.", "Return a."),
        ("Return a. Then b.", "Return a."),
        ("Return a\nand b.  Then c.\n\nMore.", "Return a and b."),
        ("Return a.b for e.g. Paths. More", "Return a.b for e.g. Paths."),
        ("Is it? Yes.", "Is it?"),
        ("No end\n\nThen more.", "No end"),
        ("  \n  ", ""),
    ],
)
def test_the_first_sentence_ends_where_the_next_one_begins(docstring: str, sentence: str) -> None:
    assert first_sentence(docstring) == sentence


def test_docstrings_are_stripped_at_every_level() -> None:
    source = (
        'def f():\n    "a"\n    class C:\n        "b"\n        def g(self):\n            "c"\n            return "d"\n'
    )
    function = ast.parse(source).body[0]
    assert isinstance(function, ast.FunctionDef)
    strip_docstrings(function)
    assert ast.unparse(function) == "def f():\n\n    class C:\n\n        def g(self):\n            return 'd'"
