"""Verifier functions that do what a bad one may do, in a module of their own so that worker processes find them."""

import importlib
import os
import time
from decimal import Decimal
from typing import Any

import numpy as np

from features.texts.tasks import Task
from features.verification.verdict import Verdict
from registry import VERIFIERS


class Speechless(Exception):
    """Cannot say what is wrong."""

    def __str__(self) -> str:
        raise RuntimeError


GIVEN: dict[str, Any] = {
    "nan": float("nan"),
    "inf": float("inf"),
    "too large for fp32": 1e39,
    "too large for a float": 10**400,
    "text": "right",
    "none": None,
    "true": True,
    "numpy": np.bool_(True),
    "decimal": Decimal("0.25"),
    "many words": Verdict(1.0, "x " * 1000, "5"),
    "half a character": Verdict(1.0, "\ud83d", "\ud83d"),
}


@VERIFIERS.register("moody")
def moody(response: str, task: Task, /, *, factor: float = 1.0) -> Any:
    """The length of a response, unless the response says what else to do."""
    match response.partition(" "):
        case "sleep", _, _:
            time.sleep(60)
        case "spin", _, _:
            while True:
                pass
        case "die", _, _:
            os._exit(3)
        case "raise", _, message:
            raise ValueError(message)
        case "speechless", _, _:
            raise Speechless
        case "exit", _, _:
            raise SystemExit(0)
        case "fill", _, _:
            return len([bytearray(10**8) for _ in range(1000)])
        case "give", _, "torch":
            import torch  # not above: every worker would wait for it

            return torch.tensor(0.5)
        case "give", _, what:
            return GIVEN[what]
        case "pid", _, _:
            return os.getpid()
        case "touch", _, path:
            with open(path, "w") as file:  # noqa: PTH123
                file.write(str(os.getpid()))
            time.sleep(60)
        case "load", _, name:
            return float(importlib.import_module(name) is not None)
        case "crowd", _, _:
            return len(task.responses)
    return factor * len(response)
