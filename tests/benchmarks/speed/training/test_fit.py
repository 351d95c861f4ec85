from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.comparison import Comparison
from benchmarks.speed.training import fit
from benchmarks.speed.training.epochs import Epoch
from benchmarks.speed.training.workload import TINY


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes")
def test_fit_gives_the_losses_of_plain_loops(data: Path, complete: Callable[[Comparison, int], dict[str, Any]]) -> None:
    results = complete(fit.measure(data, TINY, repeats=1, apart=False), 1)
    assert len(results["losses"]) == 4
    assert results["floor"]["seconds"] > 0


def test_fit_refuses_to_compare_what_is_not_the_same(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others = {name: (what, lambda *_: Epoch(1.0, [0.5, 0.5])) for name, (what, _) in fit.WAYS.items()}
    monkeypatch.setattr(fit, "WAYS", {**others, "fit": ("ours", lambda *_: Epoch(1.0, [0.5, 0.6]))})
    with pytest.raises(AssertionError):
        fit.measure(data, TINY, repeats=1, apart=False)
