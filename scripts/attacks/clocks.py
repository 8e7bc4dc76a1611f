"""Clocks that stand still, run backwards and jump."""

import random
import time
from collections.abc import Callable

from attacks.commands import CONVERSIONS, TRAININGS
from attacks.kills import finish
from attacks.lab import Lab, digests_of
from attacks.record import Record

_CLOCKS = ("time", "monotonic", "perf_counter")
# From the true seconds and a generator to what the clock shows.
_WAYS: dict[str, Callable[[float, random.Random], float]] = {
    "stands still": lambda now, draw: 1000.0,
    "runs backwards": lambda now, draw: 2e9 - now,
    "jumps": lambda now, draw: now + draw.choice([0, 0, 0, 1e3, -1e3, 1e6, -1e6]),
    "stands at 1970": lambda now, draw: 0.0,
    "stands before 1970": lambda now, draw: -1e9,
    "runs in 2100": lambda now, draw: now + 2.4e9,
    "runs a thousand times too fast": lambda now, draw: now * 1000 % 4e9,
}


def jumping_clocks(lab: Lab) -> Record:
    """Time, monotonic and perf_counter that stand still, run backwards, jump, or are of another century."""
    record, command = Record(), lab.next_of("clocks", (*TRAININGS, *CONVERSIONS))
    for way in lab.random.sample(list(_WAYS), len(lab.blows(4, 2))):
        what = f"{command.name}, a clock that {way}"
        with lab.new() as folder:
            record.tried += 1
            good = record.judge(lab.run(command, folder, _wrong(way, lab.random.randrange(10**6))), what, (0,))
            if good and digests_of(command, folder) != lab.whole(command).digests:
                record.bad("wrong", f"{what}: other files than by a true clock")
            if command.checkpoints:
                finish(record, lab, command, folder, what)
    return record


def _wrong(way: str, seed: int) -> Callable[[], None]:
    """Returns a function that sets the clocks of a fork."""
    draw = random.Random(seed)

    def set_clocks() -> None:
        for name in _CLOCKS:
            true: Callable[[], float] = getattr(time, name)
            setattr(time, name, lambda true=true: _WAYS[way](true(), draw))

    return set_clocks
