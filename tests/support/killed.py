"""Kills processes at random moments until they may end, whatever the speed of the machine."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Timer

ROOT = Path(__file__).parents[2]
_WAIT = "wait"


def end(said: str) -> None:
    """Prints what a process ends with; one that is to be killed says nothing, and waits at its end for the kill."""
    if sys.argv[-1] == _WAIT:
        while True:
            time.sleep(60)
    print(said, flush=True)


def run_killed(command: list[str], kills: int, longest: float = 0.0) -> str:
    """Returns what a process prints that is killed at random moments until it may end by itself.

    Args:
        command: what follows `python -m`; it prints "ready" when it begins, and calls `end`.
        kills: how often.
        longest: seconds from "ready" to the kill, at most.
    """
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'scripts'}"}
    generator, output = random.Random(0), ""
    for left in range(kills, -1, -1):
        started = [sys.executable, "-W", "error", "-m", *command, *([_WAIT] if left else [])]
        with subprocess.Popen(started, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert "ready\n" in iter(process.stdout.readline, "")
            if left:
                time.sleep(generator.uniform(0, longest))
                process.send_signal(signal.SIGKILL)
            # Not by `communicate`: it reads past what came in one piece with "ready" and is still in the buffer.
            last = Timer(600, process.kill)
            last.start()
            lines = process.stdout.read().splitlines()
            last.cancel()
        output = "".join(line for line in lines if not line.startswith("[Gloo] "))  # which says that it is there
        assert process.returncode == (-signal.SIGKILL if left else 0)
        assert not (left and output)
    return output
