"""Reads an optimiser's steps from two traces: what each started from, and how far it may be off."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from torch_ref.common.checks.arguments import listed
from torch_ref.common.trace import Trace

from .simulated import Parts, Rule, State, Step, simulate

# How far a step may be off, as a share of the parameter's largest. Float32: 1 - 0.999 alone is off by 1e-5 there.
TOLERANCE = {"float64": 1e-11, "float32": 1e-4}
EPS = {"float64": 2.0**-52, "float32": 2.0**-23, "bfloat16": 2.0**-7}


@dataclass(frozen=True)
class Misfit:
    """How far a rule is from the port, as a share of what is allowed."""

    update: float
    state: float


@dataclass(frozen=True)
class Case:
    """The port's steps, as vectors, with what they started from and how far they may be off."""

    parts: Parts
    steps: list[Step]
    updates: list[np.ndarray]
    states: list[State]
    kinds: list[set[str]]  # of the reference's state
    dtype: str

    @cached_property
    def bounds(self) -> list[np.ndarray]:
        """How far each parameter may be off, by step: a share of the move, and the rounding of the parameter."""
        tolerance, eps = TOLERANCE[self.dtype], 4 * EPS[self.dtype]
        return [
            tolerance * self.parts.largest(np.nan_to_num(update - step.params)) + eps * np.abs(step.params) + 1e-300
            for step, update in zip(self.steps, self.updates, strict=True)
        ]

    @cached_property
    def state_bounds(self) -> list[State]:
        """How far each number of the state may be off, by step and kind."""
        largest, tolerance = self.parts.largest, TOLERANCE[self.dtype]
        return [{k: tolerance * largest(np.nan_to_num(v)) + 1e-300 for k, v in kept.items()} for kept in self.states]

    def shares(self, rule: Rule) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields how far each number of the parameters and of the state is off, as a share of what is allowed."""
        exempt = self.parts.mask(rule.frozen)
        for k, (update, state) in enumerate(simulate(rule, self.steps, self.parts)):
            kept, actual = self.states[k], self.updates[k]
            lacks = bool(kept) and not self.kinds[k] & state.keys() <= kept.keys()  # the port has no such state
            apart = [np.array([np.inf if lacks else 0.0])]
            for kind, after in kept.items():
                share = (state[kind] - after) / self.state_bounds[k][kind] if kind in state else np.inf
                apart.append(np.where(exempt | np.isnan(after), 0.0, share))
            same = np.isnan(update) & np.isnan(actual)
            yield np.where(same, 0.0, (update - actual) / self.bounds[k]), np.concatenate(apart)

    def misfit(self, rule: Rule, patience: float = np.inf) -> Misfit:
        """Returns how far the rule is off at most; it stops where that is beyond `patience`."""
        worst = Misfit(0.0, 0.0)
        for update, state in self.shares(rule):
            worst = Misfit(max(worst.update, _largest(update)), max(worst.state, _largest(state)))
            if worst.update > patience:
                break
        return worst

    def fitting(self, rule: Rule) -> set[str]:
        """Returns the parameters that move as the rule has them."""
        worst = np.max([np.nan_to_num(np.abs(update), nan=np.inf) for update, _ in self.shares(rule)], axis=0)
        largest = self.parts.largest(worst)[np.cumsum(self.parts.sizes) - 1]
        return {name for name, share in zip(self.parts.shapes, largest, strict=True) if share <= 1}

    def called(self, names: Collection[str], among: Collection[str]) -> str:
        """Returns what to call some of the parameters."""
        vectors = {name for name in among if len(self.parts.shapes[name]) <= 1}
        if set(names) == set(among):
            return "every parameter"
        if set(names) == vectors:
            return "every bias (the parameters of one dimension)"
        if set(names) == set(among) - vectors:
            return "every weight matrix"
        module = next(iter(sorted(names))).partition(".")[0]
        if set(names) == {name for name in among if name.partition(".")[0] == module}:
            return f"all of `{module}`"
        return listed(f"`{name}`" for name in sorted(names))


def read_case(ported: Trace, reference: Trace) -> Case | None:
    """Returns the port's steps as vectors; None where they lack a parameter or have another shape."""
    count = min(ported.steps, reference.steps)
    held = (*reference.metadata["buffers"], *reference.metadata["frozen"])
    trained = {name: array for name, array in reference.params(0).items() if name not in held}
    parts = Parts({name: array.shape for name, array in trained.items()})
    steps, updates, states, kinds = [], [], [], []
    age = np.zeros(parts.sizes.sum())
    for k in range(count):
        update = ported.phase(k, "update")
        if not trained or any(
            name not in update or update[name].shape != shape for name, shape in parts.shapes.items()
        ):
            return None
        grads = {name: array.astype(reference.dtype) for name, array in reference.phase(k, "grad").items()}
        after = _by_kind(reference.phase(k, "state"), parts)
        idle = parts.mask(frozenset(name for name in trained if _idle(reference, k, name, after)))
        age = age + ~idle
        before = {kind: parts.flat(arrays, 0.0) for kind, arrays in _by_kind(reference.state(k), parts).items()}
        steps.append(Step(k, parts.flat(reference.params(k)), parts.flat(grads, 0.0), before, idle, np.maximum(age, 1)))
        updates.append(parts.flat(update))
        kinds.append(set(after))
        kept = _by_kind(ported.phase(k, "state"), parts)
        states.append({kind: parts.flat(arrays) for kind, arrays in kept.items() if kind in after})
    return Case(parts, steps, updates, states, kinds, reference.dtype)


def _by_kind(state: State, parts: Parts) -> dict[str, State]:
    """Returns the arrays of a state by kind (`exp_avg`, …), then by parameter."""
    found: dict[str, State] = {}
    for key, array in state.items():
        name, _, kind = key.rpartition(".")
        if name in parts.shapes and array.shape == parts.shapes[name] and kind != "step":
            found.setdefault(kind, {})[name] = array
    return found


def _idle(reference: Trace, step: int, name: str, after: dict[str, State]) -> bool:
    """Whether torch left a parameter alone, since it had no gradient: it, and its state, are as they were."""
    before = reference.phase(step - 1, "update") if step else reference.phase(0, "param")
    if np.any(reference.phase(step, "grad")[name]) or np.any(before[name] != reference.phase(step, "update")[name]):
        return False
    own = {f"{name}.{kind}": arrays[name] for kind, arrays in after.items() if name in arrays}
    if not own:
        return bool(after)
    last = reference.phase(step - 1, "state")
    same = all(key in last and np.array_equal(last[key], array) for key, array in own.items())
    return same and any(np.any(array) for array in own.values())


def _largest(shares: np.ndarray) -> float:
    return float(np.max(np.nan_to_num(np.abs(shares), nan=np.inf), initial=0.0))
