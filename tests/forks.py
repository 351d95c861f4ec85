"""Forks: commands run one after another, each in a fork of one process that has already imported the packages."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]

# Importing takes seconds and a fork milliseconds. Torch has not started any thread when the process forks.
_DRIVER = """
import json, os, sys
{imports}
for arguments in json.loads(sys.argv[1]):
    child = os.fork()
    if child == 0:
        os._exit(run(arguments) or 0)
    print("exit", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def run_in_forks(folder: Path, imports: str, commands: Sequence[Sequence[str]]) -> tuple[list[int], str, str]:
    """Run commands; their exit statuses, negative for signals, and what they wrote to stdout and stderr.

    Args:
        folder: Where they run, and whose modules they can import.
        imports: Code that imports all that a command needs, and defines `run(arguments)`, whose result is its status.
        commands: The arguments of each.
    """
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}:{folder}"}
    command = [sys.executable, "-c", _DRIVER.format(imports=imports), json.dumps([list(each) for each in commands])]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    statuses = [int(line.removeprefix("exit ")) for line in lines if line.startswith("exit ")]
    assert len(statuses) == len(commands), done.stdout + done.stderr
    return statuses, "\n".join(line for line in lines if not line.startswith("exit ")), done.stderr
