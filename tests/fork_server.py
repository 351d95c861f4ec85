"""Forks commands from a process that has already imported what they need: importing takes seconds, a fork milliseconds.

Each line of stdin is a command or the question how one has ended; the answer is a line of stdout.
"""

import gc
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]


def _run(code: str, arguments: list[str]) -> int:
    sys.argv = arguments
    main = sys.modules["__main__"].__dict__
    main["__name__"], main["__file__"] = "__main__", arguments[0]
    if arguments[0] == "-c":
        del main["__file__"]
    try:
        exec(compile(code, arguments[0], "exec"), main)
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _fork(command: dict[str, Any]) -> int:
    child = os.fork()
    if child:
        return child
    for number, name in ((0, os.devnull), (1, command["out"]), (2, command["err"])):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), number)
    sys.stdin = open(0)  # noqa: SIM115
    sys.stdout, sys.stderr = open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(command["environment"])
    os.chdir(command["folder"])
    sys.path[:0] = [*command["paths"]]
    status = _run(command["code"], command["arguments"])
    sys.stdout.flush()
    sys.stderr.flush()
    # What the process that it was forked from would do at its end is not for the fork to do.
    os._exit(status)


def _status(child: int, options: int) -> int | None:
    found, status = os.waitpid(child, options)
    return os.waitstatus_to_exitcode(status) if found else None


def _serve() -> None:
    # Torch starts no thread here, so that the process can be forked.
    sys.path.insert(0, str(REPOSITORY))
    gc.disable()
    import peft  # noqa: F401
    import transformers  # noqa: F401

    import train  # noqa: F401
    import training.run  # noqa: F401
    from training.pages import result_figures, run_page

    # Pictures of run pages take longer than tiny runs; tests that are about them fork nothing.
    run_page.as_svg = result_figures.as_svg = lambda figure, name: "<svg/>"
    # Forks share what has been imported, as long as no garbage collection looks through it.
    gc.freeze()
    gc.enable()
    answers, sys.stdout = sys.stdout, sys.stderr
    running: set[int] = set()
    for line in sys.stdin:
        asked = json.loads(line)
        if "code" in asked:
            answer: int | None = _fork(asked)
            running.add(answer)
        else:
            answer = _status(asked["child"], 0 if asked["wait"] else os.WNOHANG)
            if answer is not None:
                running.discard(asked["child"])
        print(json.dumps(answer), file=answers, flush=True)
    for child in running:
        os.kill(child, signal.SIGKILL)


if __name__ == "__main__":
    _serve()
