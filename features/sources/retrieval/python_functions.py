"""python_functions: find the function that a sentence describes, among all functions of Python's standard library."""

import ast
import hashlib
import inspect
import os
import platform
import re
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from features.texts.groups import Candidate, TextGroup
from registry import SOURCES
from registry.ranges import Few

Function = ast.FunctionDef | ast.AsyncFunctionDef

# Skipped besides tests and third-party code: IDLE and the turtle demos, which many installations lack.
_SKIPPED = {"site-packages", "dist-packages", "test", "tests", "_bundled", "_vendor", "idlelib", "turtledemo"}
_SENTENCE_END = re.compile(r"(?<=[.!?])(?<!e\.g\.)(?<!i\.e\.)\s+(?=[A-Z`'\"(])")


@SOURCES.register("python_functions")
class PythonFunctions:
    """Each query is the first sentence of a docstring; its one relevant candidate is the function's code without it.

    The data is the installed Python itself, so no download is necessary; another Python version is another data set. Of
    functions with the same name, query or code, only the first is kept; stubs without code are left out.

    Args:
        min_words: Minimum number of words in a query; shorter sentences, such as `Return True.`, describe no function.
    """

    def __init__(self, min_words: Few = 4) -> None:
        self.min_words = min_words

    def fingerprint(self) -> dict[str, Any]:
        """Python's version, and a hash of the library's file names and sizes."""
        listing = "\n".join(f"{name} {file.stat().st_size}" for name, file in _library_files())
        digest = hashlib.sha256(listing.encode()).hexdigest()
        python = platform.python_version()
        return {"name": "python_functions", "python": python, "files": digest[:16], "min_words": self.min_words}

    def groups(self) -> Iterator[TextGroup]:
        """Yield one group for each documented function or method, in the order of their names."""
        seen: set[str] = set()
        for name, function in sorted(_library_functions(), key=lambda found: found[0]):
            query = first_sentence(ast.get_docstring(function) or "")
            strip_docstrings(function)
            code = ast.unparse(function)
            keys = {f"name {name}", f"query {query}", f"code {code}"}
            stub = all(isinstance(statement, ast.Pass) for statement in function.body)
            if stub or len(query.split()) < self.min_words or seen & keys:
                continue
            seen |= keys
            yield TextGroup(name, query, [Candidate(name, code, label=1.0)], origin=name)


def first_sentence(docstring: str) -> str:
    """The first sentence of the first paragraph, on one line.

    >>> first_sentence("Return the larger one.  Ties go\\nto a.\\n\\nMore.")
    'Return the larger one.'
    """
    paragraph = " ".join(inspect.cleandoc(docstring).split("\n\n")[0].split())
    return _SENTENCE_END.split(paragraph, maxsplit=1)[0]


def strip_docstrings(function: Function) -> None:
    """Remove the docstrings of a function and of all definitions inside it."""
    for node in ast.walk(function):
        if isinstance(node, Function | ast.ClassDef) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]


def _library_files() -> Iterator[tuple[str, Path]]:
    """Yield the modules of the standard library, with their names."""
    library = Path(sysconfig.get_path("stdlib"))
    for folder, subfolders, files in os.walk(library):
        subfolders[:] = sorted(name for name in subfolders if name not in _SKIPPED and not name.startswith("config-"))
        for file in sorted(Path(folder, name) for name in files if name.endswith(".py")):
            parts = file.relative_to(library).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), file


def _library_functions() -> Iterator[tuple[str, Function]]:
    """Yield every function and method of the standard library with a docstring, and its full name."""
    for name, file in _library_files():
        try:
            with warnings.catch_warnings(action="ignore"):
                tree = ast.parse(file.read_bytes())
        except (SyntaxError, ValueError):
            continue
        yield from _documented(tree, name)


def _documented(node: ast.AST, prefix: str) -> Iterator[tuple[str, Function]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function):
            if ast.get_docstring(child):
                yield f"{prefix}.{child.name}", child
        elif isinstance(child, ast.ClassDef):
            yield from _documented(child, f"{prefix}.{child.name}")
        elif isinstance(child, ast.stmt | ast.ExceptHandler):
            yield from _documented(child, prefix)
