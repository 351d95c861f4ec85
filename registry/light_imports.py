"""Light imports: imports lightning without most of torchmetrics, so that short commands start fast.

Lightning needs only two classes of torchmetrics, but `import torchmetrics` loads hundreds, with transformers and scipy:
a third of the time that `--check` and `python -m registry` take.
"""

import importlib
import importlib.util
import logging
import sys
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from types import ModuleType
from typing import Any

_MODULES = {"Metric": "torchmetrics.metric", "MetricCollection": "torchmetrics.collections"}


class _LightPackage(ModuleType):
    """A package whose `__init__` runs when any attribute other than the two classes is used."""

    def __init__(self, name: str, spec: ModuleSpec) -> None:
        super().__init__(name)
        self.__spec__, self.__file__, self.__path__ = spec, spec.origin, list(spec.submodule_search_locations or ())
        self.__version__, self._logger = version(name), logging.getLogger(name)

    def __getattr__(self, name: str) -> Any:
        if name in _MODULES:
            # `utilities` first: it and `metric` import each other.
            importlib.import_module("torchmetrics.utilities")
            return getattr(importlib.import_module(_MODULES[name]), name)
        if name.startswith("__"):
            raise AttributeError(name)
        self.__class__ = ModuleType  # type: ignore[assignment]
        assert self.__spec__ is not None and self.__spec__.loader is not None
        self.__spec__.loader.exec_module(self)
        return getattr(self, name)


def lighten_imports() -> None:
    """Delay the import of torchmetrics until one of its other attributes is used."""
    spec = importlib.util.find_spec("torchmetrics")
    if spec is not None and "torchmetrics" not in sys.modules:
        sys.modules["torchmetrics"] = _LightPackage("torchmetrics", spec)
