"""Simulates torch's optimisers in numpy, with the faults of ports, on one long vector of all parameters."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

State = dict[str, np.ndarray]
Rate = float | np.ndarray  # one for all, or one for each number


@dataclass(frozen=True)
class Group:
    """Parameters with a rate and a decay of their own: factors of the rule's."""

    names: frozenset[str]
    rate: float
    decay: float


@dataclass(frozen=True, kw_only=True)
class Rule:
    """An optimiser's update rule. Fields below the line are faults that torch never has; the defaults are torch's."""

    family: str  # adam, rmsprop or sgd
    rates: tuple[float, ...]  # the learning rate of each step
    rate_scale: float = 1.0  # a factor of all rates
    grad_scale: float = 1.0
    clip_norm: float | None = None
    weight_decay: float = 0.0
    # The decay is added to the gradient (`coupled`), taken from the parameters times the rate (`decoupled`), or without
    # it (`unscaled`), or added to them (`added`).
    decay: str = "coupled"
    momentum: float = 0.0
    dampening: float = 0.0  # the share of the gradient left out of the momentum, except in the first step
    nesterov: bool = False
    beta1: float = 0.9
    beta2: float = 0.999  # RMSprop's alpha
    eps: float = 1e-8
    correct1: bool = True  # the bias correction of the first moment
    correct2: bool = True  # that of the second
    centered: bool = False
    groups: tuple[Group, ...] = ()
    amsgrad: str = ""  # keeps the largest second moment (`torch`), or the largest corrected one (`optax`)
    # What ports do.
    clip_eps: float = 1e-6  # added to the norm
    # The norm over all, of each `array`, its `rms`, or each `value`; `decayed` takes the norm over all after the decay,
    # `update` that of what the parameters move by.
    clip_by: str = "norm"
    dampen_first: bool = False  # dampens the first step too
    eps_at: str = "outside"  # the root, `inside`, `both`, or outside that of the `uncorrected` second moment
    initial: float = 0.0  # the second moment before the first step
    # The momentum holds the directions (`plain`) or the steps: its `own`, or those made from torch's directions by the
    # last rate (`converted`), as they are (`raw`) or with the other sign (`negated`).
    buffer: str = "plain"
    fresh: bool = False  # a state that torch lacks starts anew at each step
    skip: bool = True  # parameters without a gradient stay as they are
    undecayed: frozenset[str] = frozenset()  # parameters without decay
    frozen: frozenset[str] = frozenset()  # parameters that do not move


@dataclass(frozen=True)
class Parts:
    """Which part of the long vector is which parameter."""

    shapes: Mapping[str, tuple[int, ...]]

    @cached_property
    def sizes(self) -> np.ndarray:
        """The size of each parameter."""
        return np.array([int(np.prod(shape)) for shape in self.shapes.values()], int)

    def flat(self, arrays: Mapping[str, np.ndarray], absent: float = np.nan) -> np.ndarray:
        """Returns the arrays as one vector; `absent` stands where there is none."""
        found = [np.asarray(arrays.get(name, np.full(shape, absent)), float) for name, shape in self.shapes.items()]
        return np.concatenate([array.ravel() for array in found])

    def mask(self, names: frozenset[str]) -> np.ndarray:
        """Returns where the named parameters are."""
        return np.repeat([name in names for name in self.shapes], self.sizes)

    def spread(self, values: Mapping[str, float]) -> np.ndarray:
        """Returns a number for each parameter, 1 where none is given."""
        return np.repeat([values.get(name, 1.0) for name in self.shapes], self.sizes)

    def largest(self, vector: np.ndarray) -> np.ndarray:
        """Returns, for each number, the largest size in its parameter."""
        return self._each(lambda part: np.max(np.abs(part), initial=0.0), vector)

    def norm(self, vector: np.ndarray) -> np.ndarray:
        """Returns, for each number, the norm of its parameter."""
        return self._each(np.linalg.norm, vector)

    def rms(self, vector: np.ndarray) -> np.ndarray:
        """Returns, for each number, the root mean square of its parameter."""
        return self.norm(vector) / np.sqrt(np.repeat(self.sizes, self.sizes))

    def _each(self, function: Callable[..., Any], vector: np.ndarray) -> np.ndarray:
        parts = np.split(vector, np.cumsum(self.sizes)[:-1])
        return np.repeat(np.array([function(part) for part in parts], float), self.sizes)


@dataclass(frozen=True)
class Step:
    """What a step starts from, as vectors."""

    index: int
    params: np.ndarray
    grads: np.ndarray
    state: State  # torch's; 0 where it has none
    idle: np.ndarray  # parameters without a gradient, which torch leaves alone
    count: np.ndarray  # how many steps each number has been through, this one included


def torch_rule(options: Mapping[str, Any]) -> Rule | None:
    """Returns the rule of torch's optimiser of a trace's metadata; None of one that is not known here."""
    name, rates = options["name"], options["lr"]
    family = {"SGD": "sgd", "Adam": "adam", "AdamW": "adam", "RMSprop": "rmsprop"}.get(name)
    if family is None:
        return None
    beta1, beta2 = options.get("betas", (0.9, options.get("alpha", 0.99)))
    groups = options.get("groups") or ()
    decay = max((group["weight_decay"] for group in groups), default=options.get("weight_decay", 0.0))
    first = groups[0]["lr"] if groups else 1.0
    if groups and not first:
        return None
    return Rule(
        family=family,
        rates=tuple(rates) if isinstance(rates, Sequence) else (rates,),
        rate_scale=1.0,
        groups=tuple(
            Group(frozenset(group["names"]), group["lr"] / first, group["weight_decay"] / decay if decay else 0.0)
            for group in groups
        ),
        grad_scale=-1.0 if options.get("maximize") else 1.0,
        clip_norm=options.get("clip_norm"),
        weight_decay=decay,
        decay="decoupled" if options.get("decoupled_weight_decay", name == "AdamW") else "coupled",
        momentum=options.get("momentum", 0.0),
        dampening=options.get("dampening", 0.0),
        nesterov=bool(options.get("nesterov", False)),
        beta1=beta1,
        beta2=beta2,
        eps=options.get("eps", 1e-8),
        correct1=family == "adam",
        correct2=family == "adam",
        centered=bool(options.get("centered", False)),
        amsgrad="torch" if options.get("amsgrad") else "",
    )


def simulate(rule: Rule, steps: Sequence[Step], parts: Parts) -> Iterator[tuple[np.ndarray, State]]:
    """Yields the parameters and the state after each step, which starts from torch's parameters and state."""
    own: State = {}
    for step in steps:
        if not rule.skip:
            step = replace(step, idle=np.zeros_like(step.idle), count=np.full_like(step.count, step.index + 1))
        state = {**own, **step.state}
        if rule.buffer == "own":
            state = {**step.state, **own}
        elif rule.fresh:
            state = step.state
        update, own = _advance(rule, step, parts, state)
        yield update, own


def _advance(rule: Rule, at: Step, parts: Parts, before: State) -> tuple[np.ndarray, State]:
    rate: Rate = rule.rates[min(at.index, len(rule.rates) - 1)] * rule.rate_scale
    shrink = rule.weight_decay * at.params
    if rule.groups:
        rate = rate * parts.spread({name: group.rate for group in rule.groups for name in group.names})
        shrink = shrink * parts.spread({name: group.decay for group in rule.groups for name in group.names})
    if rule.undecayed:
        shrink = np.where(parts.mask(rule.undecayed), 0.0, shrink)
    added = shrink if rule.decay == "coupled" else 0.0
    grads = at.grads * rule.grad_scale
    grads = _clipped(rule, grads + added, parts) if rule.clip_by == "decayed" else _clipped(rule, grads, parts) + added
    move, state = _FAMILIES[rule.family](rule, at, grads, before, rate)
    away = {"coupled": 0.0, "decoupled": rate, "unscaled": 1.0, "added": -1.0}[rule.decay]
    still = parts.mask(rule.frozen) | at.idle
    state = {kind: np.where(still, before.get(kind, 0.0), after) for kind, after in state.items()}
    move = away * shrink + move
    if rule.clip_by == "update" and rule.clip_norm is not None:
        move = _clipped(replace(rule, clip_by="norm"), np.where(still, 0.0, move), parts)
    return np.where(still, at.params, at.params - move), state


def _clipped(rule: Rule, grads: np.ndarray, parts: Parts) -> np.ndarray:
    if rule.clip_norm is None or rule.clip_by == "update":
        return grads
    if rule.clip_by == "value":
        return np.clip(grads, -rule.clip_norm, rule.clip_norm)
    norm = {"array": parts.norm, "rms": parts.rms}.get(rule.clip_by, np.linalg.norm)(grads)
    return grads * np.minimum(1.0, rule.clip_norm / (norm + rule.clip_eps))


def _sgd(rule: Rule, at: Step, grads: np.ndarray, before: State, rate: Rate) -> tuple[np.ndarray, State]:
    return _with_momentum(rule, at, grads, before, rate)


def _rmsprop(rule: Rule, at: Step, grads: np.ndarray, before: State, rate: Rate) -> tuple[np.ndarray, State]:
    first = np.where(at.count == 1, rule.initial, before.get("square_avg", 0.0))
    square = rule.beta2 * first + (1 - rule.beta2) * grads**2
    state = {"square_avg": square}
    if rule.centered:
        state["grad_avg"] = _mean(before.get("grad_avg", 0.0), grads, rule.beta2)
    square = square / (1 - rule.beta2**at.count) if rule.correct2 else square
    square = square - state["grad_avg"] ** 2 if rule.centered else square
    move, momentum = _with_momentum(rule, at, grads / _root(rule, square), before, rate)
    return move, {**state, **momentum}


def _adam(rule: Rule, at: Step, grads: np.ndarray, before: State, rate: Rate) -> tuple[np.ndarray, State]:
    mean = _mean(before.get("exp_avg", 0.0), grads, rule.beta1)
    square = rule.beta2 * before.get("exp_avg_sq", 0.0) + (1 - rule.beta2) * grads**2
    state = {"exp_avg": mean, "exp_avg_sq": square}
    correct1 = 1 - rule.beta1**at.count if rule.correct1 else 1.0
    correct2 = 1 - rule.beta2**at.count if rule.correct2 else 1.0
    if rule.amsgrad:
        # torch keeps the largest moment, optax the largest corrected one.
        scale = 1.0 if rule.amsgrad == "torch" else correct2
        state["max_exp_avg_sq"] = np.maximum(before.get("max_exp_avg_sq", 0.0), square / scale)
        square = state["max_exp_avg_sq"] * scale
    ahead = mean / correct1
    if rule.nesterov:
        ahead = rule.beta1 * mean / (1 - rule.beta1 ** (at.count + 1)) + (1 - rule.beta1) * grads / correct1
    return rate * ahead / _root(rule, square / correct2, correct2), state


def _with_momentum(rule: Rule, at: Step, direction: np.ndarray, before: State, rate: Rate) -> tuple[np.ndarray, State]:
    if not rule.momentum:
        return rate * direction, {}
    dampened = rule.family == "sgd" and (rule.dampen_first or at.count > 1)
    kept = np.where(dampened, 1 - rule.dampening, 1.0) * direction
    buffer = before.get("momentum_buffer", 0.0)
    if rule.buffer != "plain":
        last = {"converted": rule.rates[max(at.index - 1, 0)], "negated": -1.0}.get(rule.buffer, 1.0)
        buffer = rule.momentum * last * buffer + rate * kept
        return buffer, {"momentum_buffer": buffer}
    buffer = rule.momentum * buffer + kept
    ahead = direction + rule.momentum * buffer if rule.nesterov else buffer
    return rate * ahead, {"momentum_buffer": buffer}


def _mean(before: np.ndarray | float, value: np.ndarray, beta: float) -> np.ndarray:
    return beta * before + (1 - beta) * value


def _root(rule: Rule, square: np.ndarray, correct: np.ndarray | float = 1.0) -> np.ndarray:
    inside = rule.eps if rule.eps_at in ("inside", "both") else 0.0
    outside = 0.0 if rule.eps_at == "inside" else rule.eps
    return np.sqrt(square + inside) + (outside / np.sqrt(correct) if rule.eps_at == "uncorrected" else outside)


_FAMILIES: dict[str, Callable[..., tuple[np.ndarray, State]]] = {"adam": _adam, "rmsprop": _rmsprop, "sgd": _sgd}
