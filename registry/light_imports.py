"""Light imports: imports lightning without what it loads in case, so that short commands start fast.

Lightning needs two classes of torchmetrics, but `import torchmetrics` loads hundreds, with transformers, scipy and
matplotlib; and one class of torch's compiler, which a command that computes nothing never calls. Together these are
half of the time that `--check` and `python -m registry` would take.
"""

import importlib
import importlib.util
import logging
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

_METRICS = {"Metric": "torchmetrics.metric", "MetricCollection": "torchmetrics.collections"}


class _LightPackage(ModuleType):
    """A package whose `__init__` runs when any attribute other than some known ones is used."""

    def __init__(self, spec: ModuleSpec, known: Callable[[str], Any], **given: Any) -> None:
        super().__init__(spec.name)
        self.__spec__, self.__file__, self.__path__ = spec, spec.origin, list(spec.submodule_search_locations or ())
        self._known = known
        vars(self).update(given)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if (found := self._known(name)) is not None:
            return found
        self.__class__ = ModuleType  # type: ignore[assignment]
        assert self.__spec__ is not None and self.__spec__.loader is not None
        self.__spec__.loader.exec_module(self)
        return getattr(self, name)


class _NeverCompiled:
    """Stands for the class of compiled modules, of which there are none."""


def lighten_imports() -> None:
    """Delay the imports of torchmetrics and of torch's compiler until one of their other attributes is used.

    Only for commands that compute nothing: modules of the compiler can be imported afterwards, but compile nothing.
    """
    spec = importlib.util.find_spec("torchmetrics")
    if spec is not None and "torchmetrics" not in sys.modules:
        logger = logging.getLogger("torchmetrics")
        package = _LightPackage(spec, _metric_class, __version__=version("torchmetrics"), _logger=logger)
        sys.modules["torchmetrics"] = package
    torch = importlib.util.find_spec("torch")
    compiler = torch and PathFinder.find_spec("torch._dynamo", torch.submodule_search_locations)
    if compiler and compiler.name not in sys.modules:
        sys.modules[compiler.name] = _LightPackage(compiler, _of_compiler)


def _metric_class(name: str) -> Any:
    if name not in _METRICS:
        return None
    _leave_out_plots(Path(sys.modules["torchmetrics"].__path__[0]) / "utilities" / "imports.py")
    # `utilities` first: it and `metric` import each other.
    importlib.import_module("torchmetrics.utilities")
    return getattr(importlib.import_module(_METRICS[name]), name)


def _leave_out_plots(file: Path) -> None:
    """Run the module that says what is installed before its package, which would load matplotlib."""
    name = "torchmetrics.utilities.imports"
    spec = importlib.util.spec_from_file_location(name, file)
    if name in sys.modules or not file.is_file() or spec is None or spec.loader is None:
        return
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module._MATPLOTLIB_AVAILABLE = False  # type: ignore[attr-defined]


def _of_compiler(name: str) -> Any:
    """What torch and lightning use of the compiler without compiling."""
    return {"OptimizedModule": _NeverCompiled, "disable": _as_it_is}.get(name)


def _as_it_is(function: Any, *_: Any, **__: Any) -> Any:
    """The function, or without one its decorator: where nothing is compiled, nothing has to be kept from it."""
    return _as_it_is if function is None else function
