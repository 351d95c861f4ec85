"""A command that only answers does not load what lightning imports in case; what is asked for is there all the same."""

import subprocess
import sys

import pytest


@pytest.mark.slow
def test_lightning_comes_without_all_of_torchmetrics_until_something_of_it_is_asked_for() -> None:
    code = """
import sys
from registry.light_imports import lighten_imports
lighten_imports()
import lightning
import torchmetrics
assert "torchmetrics.functional" not in sys.modules and "transformers" not in sys.modules
assert issubclass(torchmetrics.MeanMetric, torchmetrics.Metric)
assert torchmetrics.functional.accuracy and type(torchmetrics) is type(sys)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_the_list_of_all_components_loads_nothing_that_only_their_use_needs() -> None:
    code = """
import sys
from registry.light_imports import lighten_imports
lighten_imports()
from registry.__main__ import main
assert main([]) == 0
slow = {"transformers", "sympy", "sklearn", "scipy", "matplotlib", "torch._dynamo.symbolic_convert", "wandb"}
assert not slow & sys.modules.keys(), slow & sys.modules.keys()
from transformers import BertConfig, BertModel
assert BertModel(BertConfig(hidden_size=12, num_hidden_layers=1, vocab_size=9)).config.hidden_size == 12
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
