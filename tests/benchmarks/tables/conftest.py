"""The yaml of a small table, and cells that run in this process."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.tables import table as running
from registry.config import to_yaml


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    """A ranker of ours, a rival, and two references."""
    return [
        {"name": "ours_1", "ours": True},
        {"name": "blocks", "overrides": ["ranker.num_blocks=2"]},
        {"name": "random", "of": "ours_1", "scorer": "random"},
        {"name": "oracle", "of": "ours_1", "scorer": "oracle", "bound": True},
    ]


@pytest.fixture
def write(run_config: Callable[..., Path], rows: list[dict[str, Any]], tmp_path: Path) -> Callable[..., str]:
    """Write the yaml of a table of short runs."""

    def written(**changes: Any) -> str:
        config = run_config("short.yaml", logger=None)
        content = {"question": "Which?", "config": str(config), "rows": rows, "columns": [{"name": "mrr"}], **changes}
        (tmp_path / "small.yaml").write_text(to_yaml(content))
        return str(tmp_path / "small.yaml")

    return written


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Run cells in this process; the list gets the name of the run of each."""
    done: list[str] = []

    class Here:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        def __enter__(self) -> "Here":
            return self

        def __exit__(self, *_: Any) -> None: ...

        def submit(self, function: Callable[..., Any], work: Any) -> Any:
            future: Any = running.Future()
            done.append(work.run)
            os.environ.pop("RANKERS_RUN_DIR", None)
            try:
                future.set_result(function(work))
            except Exception as error:
                future.set_exception(error)
            return future

    monkeypatch.setattr(running, "ProcessPoolExecutor", Here)
    return done
