"""Plan: what tests ask of a program, read from their source before they run."""

import ast
import builtins
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from typing import Any

from sandbox.messages import message_of
from sandbox.runner import ANYTHING

_LOOKUPS = {"eval", "exec", "globals", "locals", "vars", "getattr", "__import__", "importlib"}
_PLAIN_MODULES = {
    "array", "bisect", "cmath", "collections", "datetime", "decimal", "fractions", "functools", "heapq", "itertools",
    "json", "math", "operator", "pytest", "random", "re", "statistics", "string", "typing", "unittest",
}  # fmt: skip
_CHECKING = re.compile(r"assert|check|test|verify|expect|raises|fail|exit", re.IGNORECASE)
_TOUCHING = {"input", "mock", "open", "patch", "print"}
_DEFINITIONS = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
_INERT = (
    ast.Name, ast.Attribute, ast.Constant, ast.List, ast.Tuple, ast.Set, ast.Dict, ast.Lambda, ast.arguments, ast.Load,
    ast.Store, ast.expr_context, ast.UnaryOp, ast.unaryop, ast.JoinedStr, ast.Starred,
)  # fmt: skip


@dataclass(frozen=True)
class Piece:
    """One text of tests.

    Args:
        source: The text.
        asks: Whether running it does more than to define and import.
        defined: Names of its test functions and classes, which nobody calls yet.
    """

    source: str
    asks: bool
    defined: Sequence[str] = ()


@dataclass(frozen=True)
class Plan:
    """What tests ask of a program.

    Args:
        pieces: The tests, and the calls that their authors leave to others, such as `check(candidate)`.
        used: All names in the tests and their setup.
        reached: Those that the tests use when they run.
        wanted: Those of them that neither the tests nor Python define, so that the program has to.
        imports: The names that they use of each module they import.
        checking: Whether they can find anything wrong but exceptions.
        plain: Whether they only compare values, so that it does not matter in which process they do.
        problem: Why the tests cannot be read; empty if they can.
    """

    pieces: Sequence[Piece] = ()
    used: Sequence[str] = ()
    reached: Sequence[str] = ()
    wanted: Sequence[str] = ()
    imports: tuple[tuple[str, Sequence[str]], ...] = ()
    checking: bool = True
    plain: bool = True
    problem: str = ""

    @cached_property
    def fields(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self)


@lru_cache(maxsize=256)
def plan_of(setup: str, tests: tuple[str, ...], entry_point: str | None) -> Plan:
    """Read tests.

    Args:
        setup: Code that runs before the tests.
        tests: Pieces of code.
        entry_point: The function under test, if it is known.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for source in (setup, *tests):
                compile(source, "<test>", "exec", dont_inherit=True)
            trees = [ast.parse(source) for source in (setup, *tests)]
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return Plan(problem=f"a test cannot be read: {message_of(error)}")
    uses: dict[str, set[str]] = {}
    for tree in trees:
        for node in tree.body:
            for name in _bound(node):
                uses.setdefault(name, set()).update(_names(node))
    asking = [[node for node in tree.body if _asks(node)] for tree in trees[1:]]
    called = {name for nodes in asking for node in nodes for name in _called(node)}
    reached = {name for nodes in asking for node in nodes for name in _names(node)}
    pieces = []
    for source, tree, nodes in zip(tests, trees[1:], asking, strict=True):
        left = [node for node in tree.body if isinstance(node, _DEFINITIONS) and node.name not in called]
        wanting = [node.name for node in left if entry_point and _wants_candidate(node)]
        own = [node.name for node in left if node.name not in wanting and _may_be_test(node)]
        pieces.append(Piece(source, bool(nodes), own))
        pieces += [Piece(f"{name}({entry_point})", True) for name in wanting]
        reached.update(own, *([name, entry_point or ""] for name in wanting))
    left_to_follow = list(reached)
    while left_to_follow:
        new = uses.get(left_to_follow.pop(), set()) - reached
        reached |= new
        left_to_follow += new
    if reached & _LOOKUPS:
        reached.add(ANYTHING)
    imports: dict[str, set[str]] = {}
    for tree in trees:
        for module, names in _imports(tree):
            imports.setdefault(module, set()).update(names)
    listed = tuple((module, sorted(names)) for module, names in sorted(imports.items()))
    used = {entry_point or "", *(name for tree in trees for name in _names(tree))}.union(*imports.values())
    plain = imports.keys() <= _PLAIN_MODULES and not used & _TOUCHING and not any(map(_is_of_identity, trees))
    own = {name for tree in trees for name in _defined(tree)}
    wanted = sorted(name for name in reached - own if name.isidentifier() and not hasattr(builtins, name))
    checking = any(_checks(tree, entry_point) for tree in trees)
    return Plan(pieces, sorted(used), sorted(reached), wanted, listed, checking, plain)


def _names(node: ast.AST) -> set[str]:
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}


def _bound(node: ast.stmt) -> Iterator[str]:
    """The names that a statement of a module gives a meaning."""
    if isinstance(node, _DEFINITIONS):
        yield node.name
    else:
        yield from (
            each.id for each in ast.walk(node) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)
        )


def _defined(tree: ast.Module) -> Iterator[str]:
    """The names that code gives a meaning anywhere, `__name__` among them."""
    yield from ("__name__", "__file__")
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                yield name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.alias(name=name, asname=other):
                yield other or name.partition(".")[0]
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                yield name
            case _:
                pass


def _is_of_identity(tree: ast.Module) -> bool:
    """Whether tests ask if two objects are the same, other than None, True and False."""
    return any(
        isinstance(operator, ast.Is | ast.IsNot) and not isinstance(right, ast.Constant)
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare)
        for operator, right in zip(node.ops, node.comparators, strict=True)
    )


def _asks(node: ast.stmt) -> bool:
    """Whether a statement does more than to define, import, or name values."""
    if isinstance(node, _DEFINITIONS | ast.Import | ast.ImportFrom | ast.Pass):
        return False
    if isinstance(node, ast.Assign | ast.AnnAssign | ast.Expr):
        value = node.value
        return not (value is None or _runs_all(value) or all(isinstance(each, _INERT) for each in ast.walk(value)))
    if isinstance(node, ast.If) and "__name__" in _names(node.test):
        return any(map(_asks, node.body))
    return True


def _checks(tree: ast.Module, entry_point: str | None) -> bool:
    """Whether tests may find something wrong, rather than only call, print or compare without a consequence."""
    known = {entry_point, *dir(builtins)} - {"exec", "eval", "exit", "quit", "__import__"}
    modules = set(_imported(tree))
    for node in ast.walk(tree):
        match node:
            case ast.Assert() | ast.Raise():
                return True
            case ast.Call(func=ast.Name(id=name)) if name in modules or (name not in known and _CHECKING.search(name)):
                return True
            case ast.Call(func=ast.Attribute() as function):
                root = ast.unparse(function).partition(".")[0]
                if root in modules or _CHECKING.search(function.attr):
                    return True
            case ast.FunctionDef() if entry_point and _wants_candidate(node):
                return True
    return False


def _imported(tree: ast.Module) -> Iterator[str]:
    """The names of imported modules, and of what is imported from them, that may do more than to compute."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                module = (node.module or "") if isinstance(node, ast.ImportFrom) else alias.name
                if module.partition(".")[0] not in _PLAIN_MODULES - {"pytest", "unittest"}:
                    yield alias.asname or alias.name.partition(".")[0]


def _runs_all(node: ast.expr | None) -> bool:
    """Whether it is a call of `unittest.main` or `pytest.main`; all tests run in any case."""
    return isinstance(node, ast.Call) and ast.unparse(node.func) in ("unittest.main", "pytest.main")


def _called(node: ast.AST) -> Iterator[str]:
    """The functions that a statement calls by their names."""
    for each in ast.walk(node):
        if isinstance(each, ast.Call) and isinstance(each.func, ast.Name):
            yield each.func.id


def _wants_candidate(node: ast.stmt) -> bool:
    """Whether it is a function of tests that takes the function under test, as HumanEval's `check(candidate)` does."""
    if not isinstance(node, ast.FunctionDef) or node.decorator_list:
        return False
    given = [each.arg for each in (*node.args.posonlyargs, *node.args.args)]
    return len(given) - len(node.args.defaults) == 1 and (node.name == "check" or given[0] == "candidate")


def _may_be_test(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> bool:
    """Whether it may be a test; of a class with bases, only its value can tell."""
    if isinstance(node, ast.ClassDef):
        return node.name.startswith("Test") or bool(node.bases)
    return node.name.startswith("test")


def _imports(tree: ast.Module) -> Iterator[tuple[str, set[str]]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            for alias in node.names:
                name = alias.asname or alias.name
                owned = [each for each in ast.walk(tree) if isinstance(each, ast.Attribute)]
                yield (
                    alias.name,
                    {each.attr for each in owned if isinstance(each.value, ast.Name) and each.value.id == name},
                )
