"""Verifier functions that do what a bad one may do, in a module of their own so that worker processes find them."""

import os
import time
from typing import Any

from features.problems import Problem
from registry import VERIFIERS


@VERIFIERS.register("moody")
def moody(response: str, problem: Problem, /, *, factor: float = 1.0) -> Any:
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
        case "exit", _, _:
            raise SystemExit(0)
        case "fill", _, _:
            return len([bytearray(10**8) for _ in range(1000)])
        case "give", _, what:
            return {"nan": float("nan"), "text": "right", "none": None, "true": True}[what]
        case "pid", _, _:
            return os.getpid()
        case "touch", _, path:
            with open(path, "w") as file:  # noqa: PTH123
                file.write(str(os.getpid()))
            time.sleep(60)
        case "crowd", _, _:
            return len(problem.responses)
    return factor * len(response)
