"""Computes how far each entry of a port may be off, and the size that its error is a share of."""

import numpy as np

from torch_ref.common.trace import FREE, NOISE, PHASES, Trace

from .measures import largest

GATE_A = 1e-12  # float64: an honest port sits at 1e-15, the weakest of the planted faults at 1e-10
GATE_B = 3.0  # float32: times the reference's own distance to float64
ADDED_UP = 1e-7  # float64, free-running: what may add up, where Adam divides a gradient that cancels to nothing by 1e-8
# A gradient that cancels to nothing has no size of its own; it is measured by this share of the largest in its phase.
_CANCELLED = 1e-3
# Of a step in float32: optax takes 1 - beta ** step in float32, which leaves 3e-5 of the first step of Adam.
_SCALARS = 1e-4
_HANGING = 1e-8


class Bounds:
    """The bounds of a reference's entries, from its dtype and its own rounding.

    Args:
        reference: the trace that a port is compared with.
    """

    def __init__(self, reference: Trace) -> None:
        self.reference = reference
        self._noise = self._shares_of_noise("")
        self._drift = self._shares_of_noise(f"{FREE}/")
        self._most = np.inf if reference.metadata.get("tables") else _HANGING

    def of(self, step: int, phase: str, name: str) -> float:
        """Returns how far an entry may be off, as a share of its size."""
        own = self._noise.get((phase, name), 0.0)
        if self.reference.dtype == "float64":
            # The noise where an entry hangs on the last digits, as g / (|g| + 1e-8) does; but no more than it explains.
            # Tables in float32 explain what they explain.
            return max(GATE_A, min(GATE_B * own, self._most))
        if phase in ("input", "param"):
            return 0.0  # taken over, not computed
        bound = GATE_B * (own + float(np.finfo(np.float32).eps))
        if phase == "state":
            bound += _SCALARS
        if phase == "update":
            before, after = self.reference.params(step)[name], self.reference.phase(step, phase)[name]
            bound += _SCALARS * largest(after - before) / (max(largest(before), largest(after)) or 1.0)
        return bound

    def free(self, step: int, phase: str, name: str) -> float:
        """Returns the same for a training that goes its own way; in float32 nothing is out of it."""
        if self.reference.dtype != "float64":
            return np.inf
        return max(ADDED_UP, GATE_B * self._drift.get((phase, name), 0.0))

    def sizes(self, step: int, phase: str) -> dict[str, float]:
        """Returns the size of the numbers that each entry was made from, or 0 where that is the entry's own.

        State and parameters are made from what they were before; a gradient that cancels to nothing, and the moments
        that it leaves, are measured by the others of their phase.
        """
        expected = self.reference.phase(step, phase)
        before = {}
        if phase in ("cotangent", "grad"):
            return dict.fromkeys(expected, _CANCELLED * max(map(largest, expected.values()), default=0.0))
        if phase in ("buffer", "state", "update"):
            before = self.reference.state(step) if phase == "state" else self.reference.params(step)
        sizes = {name: largest(before[name]) if name in before else 0.0 for name in expected}
        if phase == "update":  # what a gradient that cancels to nothing moves, next to what the others do
            moved = (largest(expected[name] - before[name]) for name in expected if name in before)
            floor = _CANCELLED * max(moved, default=0.0)
            sizes = {name: max(size, floor) for name, size in sizes.items()}
        if phase == "state":  # a gradient that cancels to nothing leaves moments of no size, which XLA takes for 0
            for moment in {_moment(name) for name in expected}:
                same = [name for name in expected if _moment(name) == moment]
                share = _CANCELLED**2 if moment.endswith("_sq") else _CANCELLED
                floor = share * max(largest(expected[name]) for name in same)
                sizes |= {name: max(sizes[name], floor) for name in same}
        return sizes

    def _shares_of_noise(self, of: str) -> dict[tuple[str, str], float]:
        """Returns how far rounding moves the reference itself, as a share, for each entry: the largest over the steps.

        A few orders of the rows are a small sample: the reference rounds a row alike wherever it stands, and a bias of
        one number can be lucky in all of them. So an entry gets at least what three quarters of its phase keep to.
        """
        found: dict[tuple[str, str], float] = {}
        for step in range(self.reference.steps):
            for phase in PHASES:
                sizes = self.sizes(step, phase)
                for name, array in self.reference.phase(step, phase).items():
                    noise = self.reference.arrays.get(f"{step}/{NOISE}/{of}{phase}/{name}")
                    if noise is not None:
                        size = max(largest(array), sizes[name]) or 1.0
                        found[phase, name] = max(found.get((phase, name), 0.0), float(noise) / size)
        usual = {phase: [noise for (other, _), noise in found.items() if other == phase] for phase in PHASES}
        usual["loss"] += usual["output"]  # a loss is one number, made of all of them, and lucky in a few orders
        return {key: max(noise, float(np.quantile(usual[key[0]], 0.75))) for key, noise in found.items()}


def _moment(name: str) -> str:
    return name.rpartition(".")[2]
