"""Lists the differences between torch's optimisers and a port's: known ones, and numbers to be estimated."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from torch_ref.common.checks.arguments import listed

from .case import Case
from .simulated import Rule, simulate

_ESTIMATED_OVER = 4  # steps
# A text, then what to change in the rule; any of these.
_Changes = Iterator[tuple]


@dataclass(frozen=True)
class Variant:
    """A difference: what it is called, and the rules that mean it. `rank`: 0 known, 1 estimated, 2 anything goes."""

    text: str
    rules: tuple[Rule, ...]
    rank: int = 0


def known(case: Case, rule: Rule) -> Iterator[Variant]:
    """Yields the differences that leave nothing to estimate."""

    def variant(text: str, *changes: dict[str, object]) -> Variant:
        return Variant(text, tuple(replace(rule, **change) for change in changes))  # pyright: ignore[reportArgumentType]

    yield from (variant(text, *changes) for text, *changes in _of_groups(case, rule))
    yield from (variant(text, *changes) for text, *changes in _everywhere(case, rule))
    if rule.clip_norm is not None:
        yield from (variant(text, *changes) for text, *changes in _of_clipping(case, rule))
    if rule.weight_decay:
        yield from (variant(text, *changes) for text, *changes in _of_decay(case, rule))
    family = {"adam": _of_adam, "rmsprop": _of_rmsprop, "sgd": _of_sgd}[rule.family]
    yield from (variant(text, *changes) for text, *changes in family(rule))
    if rule.momentum:
        yield from (variant(text, *changes) for text, *changes in _of_momentum(rule))


def _of_groups(case: Case, rule: Rule) -> _Changes:
    """Yields what goes wrong where torch has several groups of parameters."""

    def changed(**values: list[float]) -> dict[str, object]:
        made = [replace(group, **{name: of[i] for name, of in values.items()}) for i, group in enumerate(rule.groups)]
        return {"groups": tuple(made)}

    count = len(rule.groups)
    rates, decays = [group.rate for group in rule.groups], [group.decay for group in rule.groups]
    told = listed(f"{rule.rates[0] * rate:.6g}" for rate in rates)
    use = "use optax.multi_transform, with an optimiser for each group"
    if len(set(rates)) > 1:
        yield (
            f"the port has one learning rate for all parameters; torch's groups have {told}: {use}",
            *(changed(rate=[rate] * count) for rate in dict.fromkeys(rates)),
        )
        yield (
            f"the port has the groups' learning rates the other way round; torch's are {told}: exchange them",
            changed(rate=rates[::-1]),
        )
    if len(set(decays)) > 1:
        among = frozenset(name for group in rule.groups for name in group.names)
        spared = frozenset(name for group in rule.groups if not group.decay for name in group.names)
        names = case.called(spared, among) if spared else "all parameters alike"
        yield (
            f"the port decays {names}{' too' if spared else ''}; torch's groups have weight_decay of "
            f"{listed(f'{rule.weight_decay * decay:.6g}' for decay in decays)}: pass a mask= of those that decay",
            changed(decay=[1.0] * count),
        )
        yield (
            "the port decays the parameters of the other group: invert the mask=; torch's groups have weight_decay of "
            f"{listed(f'{rule.weight_decay * decay:.6g}' for decay in decays)}",
            changed(decay=decays[::-1]),
        )


def estimated(case: Case, rule: Rule) -> Iterator[Variant]:
    """Yields the differences of a number, which is estimated from the steps."""

    def variant(
        names: Sequence[str], starts: Sequence[Sequence[float]], text: Callable[[Rule], str], base: Rule = rule
    ) -> Iterator[Variant]:
        raw = _estimate(case, base, names, starts)
        snapped = replace(base, **{name: _snapped(name, getattr(raw, name), case.dtype) for name in names})
        if snapped != rule:
            yield Variant(text(snapped), (snapped, raw), rank=1)

    def other(names: Sequence[str], labels: Sequence[str]) -> Callable[[Rule], str]:
        def text(found: Rule) -> str:
            changed = [
                (label, getattr(found, name), getattr(rule, name))
                for name, label in zip(names, labels, strict=True)
                if getattr(found, name) != getattr(rule, name)
            ]
            port = " and ".join(f"{label}={value:.6g}" for label, value, _ in changed)
            torch = " and ".join(f"{value:.6g}" for _, _, value in changed)
            return f"the port's optimiser has {port}; torch's has {torch}: pass torch's value"

        return text

    mean = ", or its momentum is a mean (optax.ema) where torch's is a sum" if rule.family == "sgd" else ""
    plain = rule.family == "sgd" and not rule.momentum and not rule.weight_decay and rule.clip_norm is None
    also = ", or scales the gradients by it" if plain else ""
    yield from variant(
        ["rate_scale"],
        [[1.0]],
        lambda found: (
            f"the port's learning rate is {found.rate_scale:.6g} times torch's"
            f"{mean if rule.momentum and abs(found.rate_scale - 1 + rule.momentum) < 1e-6 else also}: "
            f"pass lr={rule.rates[0]:.6g}"
        ),
    )
    if not plain:
        yield from variant(
            ["grad_scale"],
            [[1.0]],
            lambda found: (
                f"the port's optimiser gets {found.grad_scale:.6g} times the gradient; torch's gets it as it is: leave "
                "out the scaling (optax.scale, a mean over devices or micro-batches)"
            ),
        )
    for decay in ("coupled", "decoupled") if rule.family == "adam" else ("coupled",):
        if rule.weight_decay and decay != rule.decay:
            continue
        where = "" if decay in ("coupled", rule.decay) else ", apart from the gradient"
        yield from variant(
            ["weight_decay"],
            [[rule.weight_decay], [1e-4], [1e-2], [1e-1]],
            lambda found, where=where: (
                f"the port decays by {found.weight_decay:.6g}{where}; torch decays by {rule.weight_decay:.6g}: pass "
                f"weight_decay={rule.weight_decay:.6g}"
            ),
            replace(rule, decay=decay),
        )
    norms = [float(np.linalg.norm(step.grads)) for step in case.steps]
    torch = "does not clip" if rule.clip_norm is None else f"clips to {rule.clip_norm:.6g}"
    for eps in (0.0, 1e-6):
        yield from variant(
            ["clip_norm"],
            [[bound] for bound in (1.0, 0.5 * min(norms), float(np.median(norms)), rule.clip_norm or 5.0)],
            lambda found: f"the port clips the gradients to a norm of {found.clip_norm:.6g}; torch {torch}: do that",
            replace(rule, clip_eps=eps, clip_norm=1.0),
        )
    powers = [[0.0], *([10.0**-k] for k in range(3, 17))]
    if rule.family == "adam":
        starts = [[rule.beta1, rule.beta2], [rule.beta2, rule.beta1], [0.9, 0.95], [0.5, 0.999], [0.9, 0.99], [0, 0.99]]
        yield from variant(["beta1", "beta2"], starts, other(["beta1", "beta2"], ["b1", "b2"]))
    if rule.family == "rmsprop":
        yield from variant(["beta2"], [[rule.beta2], [0.9], [0.999]], other(["beta2"], ["decay (alpha)"]))
        yield from variant(["initial"], [[0.1], [1.0]], other(["initial"], ["initial_scale"]))
    if rule.family != "sgd":
        yield from variant(["eps"], powers, other(["eps"], ["eps"]))
    if rule.family == "rmsprop" or not rule.momentum:
        start = [[rule.momentum or 0.5], [0.9]]
        for base in (rule,) if rule.momentum else (rule, replace(rule, fresh=True), replace(rule, nesterov=True)):
            label = "momentum (with nesterov)" if base.nesterov and not rule.nesterov else "momentum"
            yield from variant(["momentum"], start, other(["momentum"], [label]), base)
    elif rule.family == "sgd":
        names = ["momentum", "dampening"]
        yield from variant(names, [[rule.momentum, rule.dampening]], other(names, names))


def by_step(case: Case, rule: Rule) -> Iterator[Variant]:
    """Yields the rates that each step seems to have."""
    moves = simulate(replace(rule, rates=(1.0,)), case.steps, case.parts)
    found = []
    for (update, _), actual, step in zip(moves, case.updates, case.steps, strict=True):
        torch, port = step.params - update, step.params - actual
        found.append(float(torch @ port / (torch @ torch)))
    port, torch = (listed(f"{rate:.4g}" for rate in rates[:6]) for rates in (found, rule.rates))
    text = f"the port's learning rates are {port}; torch's are {torch}: use the schedule that gives torch's"
    if np.isfinite(found).all():
        yield Variant(text, (replace(rule, rates=tuple(found)),), rank=2)


def _everywhere(case: Case, rule: Rule) -> _Changes:
    rates, names = rule.rates, case.parts.shapes
    torch = [update for update, _ in simulate(rule, case.steps, case.parts)]
    starts = [step.params for step in case.steps]
    still = {
        name
        for name in names
        if (here := case.parts.mask(frozenset([name]))).any()
        and all(np.array_equal(u[here], p[here]) for u, p in zip(case.updates, starts, strict=True))
    }
    moving = {
        name
        for name in names
        if any((u != p)[case.parts.mask(frozenset([name]))].any() for u, p in zip(torch, starts, strict=True))
    }
    if still & moving:
        yield (
            f"the port does not move {case.called(still & moving, moving)}; torch's optimiser has it: let gradients "
            "and optax.apply_updates reach it (no stop_gradient, optax.masked or set_to_zero)",
            {"frozen": frozenset(still & moving)},
        )
    if any(step.idle.any() for step in case.steps):
        yield (
            "the port moves parameters that had no gradient, by their momentum or decay; torch leaves out those whose "
            "grad is None: mask their updates and their state",
            {"skip": False},
        )
    yield (
        "the port steps up the gradient: the sign of its updates is wrong; torch steps down: use "
        "optax.scale_by_learning_rate, or optax.scale(-lr)",
        {"rate_scale": -1.0},
        {"rate_scale": -1.0, "weight_decay": -rule.weight_decay},
    )
    if rule.family != "sgd" or rule.momentum or rule.weight_decay:
        yield (
            "the port hands the optimiser the gradient with the wrong sign; torch steps down: differentiate the loss, "
            "not its negative",
            {"grad_scale": -rule.grad_scale},
        )
    yield (
        "the port's schedule is a step ahead: it takes the rate of the step to come; torch moves it after the step: "
        "call the schedule with a count that starts at 0",
        {"rates": rates[1:]},
    )
    yield (
        "the port's schedule is a step behind: it takes the rate of the step before; torch moves it after each step: "
        "call the schedule with the count of the steps done",
        {"rates": (rates[0], *rates[:-1])},
    )
    yield (
        f"the port keeps the first learning rate, {rates[0]:.6g}; torch's changes: hand optax the schedule",
        {"rates": (rates[0],)},
    )


def _of_clipping(case: Case, rule: Rule) -> _Changes:
    norm = f"{rule.clip_norm:.6g}"
    right = f"scale them by jnp.minimum(1, {norm} / (optax.tree.norm(grads) + 1e-6))"
    yield (
        f"the port clips as optax.clip_by_global_norm does, which divides by the norm; torch divides by norm + 1e-6: "
        f"{right}",
        {"clip_eps": 0.0},
    )
    yield f"the port does not clip; torch clips the gradients to a norm of {norm}: {right}", {"clip_norm": None}
    yield (
        f"the port clips each array by its own norm; torch takes the norm over all parameters: {right}",
        {"clip_by": "array", "clip_eps": 0.0},
        {"clip_by": "array"},
    )
    yield (
        f"the port clips each array by its root mean square (optax.clip_by_block_rms); torch takes the norm over all "
        f"parameters: {right}",
        {"clip_by": "rms", "clip_eps": 0.0},
    )
    moves = [step.params - update for step, update in zip(case.steps, case.updates, strict=True)]
    if any(abs(np.linalg.norm(move) / rule.clip_norm - 1) < 1e-4 for move in moves if rule.clip_norm):
        yield (
            "the port clips the update; torch clips the gradients: put clipping first in optax.chain",
            {"clip_by": "update"},
            {"clip_by": "update", "clip_eps": 0.0},
        )
    yield (
        f"the port clips each value (optax.clip); torch clips the norm over all parameters: {right}",
        {"clip_by": "value"},
    )
    if rule.weight_decay and rule.decay == "coupled":
        yield (
            "the port clips after add_decayed_weights; torch clips the gradients, then adds the decay: put clipping "
            "first in optax.chain",
            {"clip_by": "decayed"},
            {"clip_by": "decayed", "clip_eps": 0.0},
        )


def _of_decay(case: Case, rule: Rule) -> _Changes:
    decay, coupled = f"{rule.weight_decay:.6g}", rule.decay == "coupled"
    core = {"adam": "optax.scale_by_adam", "rmsprop": "optax.scale_by_rms", "sgd": "optax.trace"}[rule.family]
    added = f"optax.add_decayed_weights({decay})"
    if coupled:
        right = f"optax.chain({added}, optax.{rule.family}(…))"
    elif rule.family == "adam":
        right = f"optax.adamw(…, weight_decay={decay})"
    else:
        right = f"optax.chain({core}(…), {added}, optax.scale_by_learning_rate(…))"
    torch = "torch adds it to the gradient" if coupled else "torch takes lr * weight_decay of the parameters away"
    yield f"the port has no weight decay; torch's is {decay}: use {right}", {"weight_decay": 0.0}
    if coupled:
        after = "as optax.adamw does" if rule.family == "adam" else f"after {core}"
        yield (
            f"the port decays the parameters apart from the gradient, {after}; {torch}: use {right}",
            {"decay": "decoupled"},
        )
    else:
        yield (
            f"the port adds the decay to the gradient, before {core}; {torch}, apart from the moments: use {right}",
            {"decay": "coupled"},
        )
    yield (
        f"the port decays by {decay} without the learning rate; {torch}: use {right}",
        {"decay": "unscaled"},
    )
    yield (
        f"the port adds the decay to the finished update, so that the parameters grow; {torch}: use {right}",
        {"decay": "added"},
    )
    without = replace(rule, weight_decay=0.0)
    fits, bare = case.fitting(rule), case.fitting(without)
    told = {name for name in case.parts.shapes if name not in fits or name not in bare}
    if (spared := (bare - fits) & told) and spared != told:
        yield (
            f"the port spares {case.called(spared, told)} the weight decay; torch decays all parameters: leave out "
            "the mask",
            {"undecayed": frozenset(spared)},
        )


def _of_adam(rule: Rule) -> _Changes:
    eps = f"{rule.eps:.6g}"
    right = f"use optax.scale_by_adam(b1={rule.beta1:.6g}, b2={rule.beta2:.6g}, eps={eps}, eps_root=0.0)"
    yield f"the port adds eps inside the root; torch adds it outside: {right}", {"eps_at": "inside"}
    yield f"the port adds eps inside the root too (eps_root); torch adds it outside only: {right}", {"eps_at": "both"}
    yield (
        "the port adds eps to the root of the second moment before its bias correction (TensorFlow's epsilon hat); "
        f"torch adds it afterwards: {right}",
        {"eps_at": "uncorrected"},
    )
    yield (
        f"the port has no bias correction; torch divides the moments by 1 - beta**step: {right}",
        {"correct1": False, "correct2": False},
    )
    for moment, other in (("first", "second"), ("second", "first")):
        yield (
            f"the port lacks the bias correction of the {moment} moment, and has that of the {other}; torch corrects "
            f"both: {right}",
            {"correct1": moment != "first", "correct2": moment != "second"},
        )
    if not (rule.decay == "decoupled" and rule.weight_decay == 1e-4):
        torch = f"torch's is {rule.weight_decay:.6g}" if rule.decay == "decoupled" else "torch's Adam is not AdamW"
        use = f"pass weight_decay={rule.weight_decay:.6g}" if rule.decay == "decoupled" else "use optax.adam"
        yield (
            f"the port decays by 0.0001, which is optax.adamw's default; {torch}: {use}",
            {"weight_decay": 1e-4, "decay": "decoupled"},
        )
    yield (
        f"the port's Adam is Nesterov's (optax.nadam); torch's is not: {right} with nesterov=False",
        {"nesterov": True},
    )
    if not rule.amsgrad:
        yield (
            f"the port keeps the largest second moment (optax.amsgrad); torch does not: {right}",
            *({"amsgrad": kind, "fresh": fresh} for kind in ("optax", "torch") for fresh in (False, True)),
        )
    else:
        yield "the port is plain Adam; torch's has amsgrad: use optax.scale_by_amsgrad", {"amsgrad": ""}
        yield (
            "the port keeps the largest corrected second moment, as optax.amsgrad does; torch corrects the largest: "
            "write that maximum by hand",
            {"amsgrad": "optax"},
        )


def _of_rmsprop(rule: Rule) -> _Changes:
    name = f"optax.rmsprop(lr, decay={rule.beta2:.6g}, eps={rule.eps:.6g}, eps_in_sqrt=False"
    right = f"use {name}{', centered=True' if rule.centered else ''})"
    yield f"the port adds eps inside the root, optax's default; torch adds it outside: {right}", {"eps_at": "inside"}
    if rule.beta2 != 0.9:
        torch = f"torch's alpha is {rule.beta2:.6g}"
        yield f"the port keeps 0.9 of the mean square, optax's default; {torch}: {right}", {"beta2": 0.9}
        yield (
            f"the port has optax.rmsprop's defaults, decay 0.9 and eps inside the root; {torch}, and eps is added "
            f"outside: {right}",
            {"beta2": 0.9, "eps_at": "inside"},
        )
    if rule.centered:
        yield f"the port divides by the mean square; torch's is centered: {right}", {"centered": False}
    else:
        yield (
            f"the port is centered: it divides by the variance; torch takes the mean square: {right}",
            {"centered": True},
            {"centered": True, "fresh": True},
        )
    yield (
        f"the port corrects the bias of the mean square; torch does not: {right}, bias_correction=False",
        {"correct2": True},
    )
    yield "the port's mean square starts at 1; torch's starts at 0: pass initial_scale=0.0", {"initial": 1.0}


def _of_sgd(rule: Rule) -> _Changes:
    if rule.momentum and rule.dampening:
        torch = f"torch leaves out {rule.dampening:.6g} of the gradient from the second step on"
        use = f"scale the gradients by {1 - rule.dampening:.6g} from then on, before optax.trace"
        yield f"the port has no dampening; {torch}: {use}", {"dampening": 0.0}
        yield f"the port dampens the first step too; {torch}: {use}", {"dampen_first": True}
    if rule.momentum and rule.dampening != rule.momentum:
        yield (
            "the port's momentum is a mean (optax.ema), with 1 - momentum of the gradient; torch's is a sum: use "
            f"optax.trace(decay={rule.momentum:.6g})",
            {"dampening": rule.momentum},
            {"dampening": rule.momentum, "dampen_first": True},
        )


def _of_momentum(rule: Rule) -> _Changes:
    right = f"optax.trace(decay={rule.momentum:.6g}, nesterov={rule.nesterov})"
    yield f"the port has no momentum; torch's is {rule.momentum:.6g}: use {right}", {"momentum": 0.0}
    if rule.nesterov:
        yield f"the port lacks Nesterov's step ahead; torch's SGD has it: use {right}", {"nesterov": False}
    else:
        yield f"the port's momentum is Nesterov's; torch's is not: use {right}", {"nesterov": True}
    if not rule.nesterov:
        yield (
            "the port has the learning rate inside the momentum buffer; torch sums directions and multiplies by the "
            f"rate of the step: put {right} before optax.scale_by_learning_rate",
            *({"buffer": kind} for kind in ("own", "converted", "raw", "negated")),
        )


def _estimate(case: Case, rule: Rule, names: Sequence[str], starts: Sequence[Sequence[float]]) -> Rule:
    """Returns the rule with the numbers that come nearest to the port's first steps, by Gauss-Newton."""
    limits = {"beta1": (0.0, 1 - 1e-9), "beta2": (0.0, 1 - 1e-9), "eps": (0.0, 1.0), "clip_norm": (1e-9, np.inf)}
    low, high = np.array([limits.get(name, (-np.inf, np.inf)) for name in names]).T

    def changed(values: np.ndarray) -> Rule:
        return replace(rule, **{name: float(value) for name, value in zip(names, values, strict=True)})

    def off(values: np.ndarray) -> np.ndarray:
        shares = [np.concatenate(pair) for pair in islice(case.shares(changed(values)), _ESTIMATED_OVER)]
        return np.nan_to_num(np.concatenate(shares), nan=1e30, posinf=1e30, neginf=-1e30)

    values = min((np.array(start, float) for start in starts), key=lambda start: np.linalg.norm(off(start)))
    now = off(values)
    for _ in range(12):
        nudges = 1e-6 * np.maximum(np.abs(values), 1e-9)
        slopes = [(off(values + nudge) - now) / nudge.sum() for nudge in np.diag(nudges)]
        sizes = np.array([np.linalg.norm(slope) or 1.0 for slope in slopes])
        move = np.linalg.lstsq(np.stack(slopes, 1) / sizes, -now, rcond=None)[0] / sizes
        for shorter in (1.0, 0.5, 0.1, 0.01):
            moved = np.clip(values + shorter * move, low, high)
            then = off(moved)
            if np.linalg.norm(then) < 0.99 * np.linalg.norm(now):
                values, now = moved, then
                break
        else:
            break
    return changed(values)


def _snapped(name: str, value: float, dtype: str) -> float:
    """Returns the shortest number that is as good as the estimate."""
    near = {"float64": 1e-8, "float32": 1e-3}[dtype]
    if name in ("momentum", "dampening", "beta1", "beta2") and abs(value) < near:
        return 0.0
    for digits in range(1, 7):
        short = float(f"{value:.{digits}g}")
        if abs(short - value) <= near * min(abs(value), abs(1 - value) or 1.0):
            return short
    return value
