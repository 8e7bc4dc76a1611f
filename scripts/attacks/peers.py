"""A training over two processes, of which one or both are killed."""

import random
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path

from attacks.lab import Lab, digest, last_good
from attacks.processes import Running
from attacks.record import Record

_PROMISED = 60.0  # seconds within which a process ends whose peer is gone
_AT_START = 660.0  # the same before they have found one another: torch's five minutes can be twice as long, see docs
_LINE = (
    "train --backend {0} --data table.csv --ignore row --representation-features 16 --head-features 8 --batch-size 20 "
    "--members 1 --no-intervals --out out{2} --distributed --coordinator 127.0.0.1:{1} --processes 2 --process-id {2} "
)
_MODEL = "out0/model.safetensors"
_ENDLESS = "--steps 2000000000 --patience 1000000000"
_KEPT = {"torch": "--steps 400 --checkpoint kept --every 5", "flax": "--steps 2000 --checkpoint kept --every 20"}
# Where the coordinator is gone, JAX may end the process itself, before the training hears of it.
_CODES = {"torch": (2,), "flax": (2, -signal.SIGABRT)}


def peer_killed(lab: Lab) -> Record:
    """Kills one of two processes that share a training: the other ends in time, with one error."""
    record = Record()
    backend, victim = lab.random.choice(["torch", "flax"] if not lab.short else ["torch"]), lab.random.randrange(2)
    what, port = f"{backend}, process {victim} of 2 killed", _free_port(lab.random)
    with lab.new() as folder:
        running = _start(folder, backend, port, _ENDLESS)
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


def pair_killed(lab: Lab) -> Record:
    """Kills two processes that share a training with checkpoints, or one of them: together they go on to its end."""
    record = Record()
    backend = lab.random.choice(["torch", "flax"] if not lab.short else ["torch"])
    with lab.new() as folder:
        expected, seconds = _whole(lab, backend)
        for i in lab.blows(4, 1):
            running = _start(folder, backend, _free_port(lab.random), _KEPT[backend])
            time.sleep(lab.random.uniform(0, seconds))
            victims = lab.random.choice([(0,), (1,), (0, 1), (1, 0)])
            before = last_good(folder / "kept")
            for number in victims:
                running[number].send(signal.SIGKILL)
            record.tried += 1
            for number, process in enumerate(running):
                right = (0, 2, -signal.SIGKILL, *_CODES[backend])
                record.judge(process.wait(_AT_START), f"{backend}, {victims} killed {i + 1}, process {number}", right)
            if (after := last_good(folder / "kept")) < before:
                record.bad("lost", f"{backend}: the last good checkpoint was of step {before}, and is of {after}")
        for number, process in enumerate(_start(folder, backend, _free_port(lab.random), _KEPT[backend])):
            record.judge(process.wait(), f"{backend}, going on, process {number}", (0,))
        if (folder / _MODEL).is_file() and digest(folder / _MODEL) != expected:
            record.bad("wrong", f"{backend}: another model than that of two processes that nobody killed")
    return record


def _whole(lab: Lab, backend: str) -> tuple[str, float]:
    """Returns the sha256 of the model that nobody interrupts, and how long it takes."""
    if backend not in lab.pairs:
        with lab.new() as folder:
            running = _start(folder, backend, _free_port(lab.random), _KEPT[backend])
            ended = [process.wait() for process in running]
            if any(one.code for one in ended):
                raise RuntimeError(f"expected two processes to train, got {[one.last for one in ended]}")
            lab.pairs[backend] = digest(folder / _MODEL), max(one.seconds for one in ended)
    return lab.pairs[backend]


def _start(folder: Path, backend: str, port: int, more: str) -> list[Running]:
    lines = [_LINE.format(backend, port, number) + more for number in range(2)]
    return [Running(line.split(), folder, fresh=True, number=number) for number, line in enumerate(lines)]


def _free_port(generator: random.Random) -> int:
    """Returns a port below those that the system gives away, which might be gone before process 0 has started."""
    while True:
        port = generator.randrange(20_000, 32_000)
        with socket.socket() as found, suppress(OSError):
            found.bind(("127.0.0.1", port))
            return port
