"""A training over two processes, one of which is killed."""

import random
import signal
import socket
import time
from contextlib import suppress

from attacks.lab import Lab
from attacks.processes import Running
from attacks.record import Record

_PROMISED = 60.0  # seconds within which a process ends whose peer is gone
_AT_START = 330.0  # the same before they have found one another: they wait for five minutes
_LINE = (
    "train --backend {0} --data table.csv --ignore row --representation-features 16 --head-features 8 --batch-size 20 "
    "--members 1 --no-intervals --steps 2000000000 --patience 1000000000 --out out{2} "
    "--distributed --coordinator 127.0.0.1:{1} --processes 2 --process-id {2}"
)
# Where the coordinator is gone, JAX may end the process itself, before the training hears of it.
_CODES = {"torch": (2,), "flax": (2, -signal.SIGABRT)}


def peer_killed(lab: Lab) -> Record:
    """Kills one of two processes that share a training: the other ends in time, with one error."""
    record = Record()
    backend, victim = lab.random.choice(["torch", "flax"] if not lab.short else ["torch"]), lab.random.randrange(2)
    what, port = f"{backend}, process {victim} of 2 killed", _free_port(lab.random)
    with lab.new() as folder:
        lines = [_LINE.format(backend, port, number) for number in range(2)]
        running = [Running(line.split(), folder, fresh=True, number=number) for number, line in enumerate(lines)]
        early = not lab.short and lab.random.random() < 0.2  # falls into the start
        until = time.monotonic() + (3 if early else _PROMISED)
        while "step " not in running[0].told() and time.monotonic() < until:
            time.sleep(0.1)
        time.sleep(lab.random.uniform(0, 2))
        record.tried += 1
        running[victim].send(signal.SIGKILL)
        ended = running[1 - victim].wait(_AT_START if early else _PROMISED)
        running[victim].wait()
        record.judge(ended, what, _CODES[backend])
    return record


def _free_port(generator: random.Random) -> int:
    """Returns a port below those that the system gives away, which might be gone before process 0 has started."""
    while True:
        port = generator.randrange(20_000, 32_000)
        with socket.socket() as found, suppress(OSError):
            found.bind(("127.0.0.1", port))
            return port
