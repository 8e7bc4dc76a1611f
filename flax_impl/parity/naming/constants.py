"""Names a constant that is another number: an epsilon, a slope, a scale, a count."""

from collections.abc import Iterator

import numpy as np

from ..alignment.proof.attempts import reached
from ..alignment.repair import MOVES
from ..report.entries import Finding
from .cut import Cut, is_constant, literals_of
from .words import is_neat, neat, plain

_MOST = 12  # literals of the port that are tried
_STEPS = 12
_NEUTRAL = {"add": 0.0, "sub": 0.0, "mul": 1.0, "div": 1.0}
_CLIPS = {"max", "min", "clamp"}
_EPSILON = 1e-2  # larger numbers are no epsilon
_AFTER_EPSILON = {"rsqrt", "sqrt", "div", "log", "pow"}
_VERBS = {
    "add": "adds", "add_any": "adds", "sub": "subtracts", "mul": "multiplies by", "div": "divides by",
    "max": "takes no less than", "min": "takes no more than", "pow": "raises to the power", "clamp": "clips at",
    "integer_pow": "raises to the power",
}  # fmt: skip


def constant_causes(cut: Cut) -> Iterator[Finding]:
    """Yields a literal of the port that gives the reference's value when it is one of the reference's numbers."""
    known = cut.known_numbers
    for i, place, own in _literals(cut, scalars=True):
        name = cut.port.operations[_user(cut, i)].name
        neutral = _NEUTRAL.get(name)
        if name in _CLIPS and not any(_is_clip(cut.reference.operations[j].name) for j in cut.ours):
            continue
        is_extra = neutral is not None and cut.gives(_with(cut, i, place, neutral))
        if is_extra and not _is_epsilon(cut, _user(cut, i), own):
            continue
        for number in _near(own, known):
            if number <= 0 and _is_epsilon(cut, _user(cut, i), own):
                continue
            if number != neutral and cut.gives(_with(cut, i, place, number)):
                yield _cause(cut, i, place, own, number)
                return
    for i in cut.working:
        operation = cut.port.operations[i]
        if operation.name == "integer_pow":
            own = int(operation.constants["y"])
            for power in (1, 2, 3, 4, -1, -2):
                if power != own and cut.gives(cut.replay({}, params={i: {"y": power}})):
                    yield Finding(
                        f"the port raises to the power {own} where the reference has {power}",
                        kind="constant",
                        operation=i,
                    )
                    return


def statistics_causes(cut: Cut) -> Iterator[Finding]:
    """Yields another share of each batch in running statistics, or the biased variance where torch's is unbiased."""
    if not _is_statistic(cut):
        return
    made = [v for i in cut.theirs for v in cut.port.operations[i].outputs]
    for part in [cut.own, *(cut.port.arrays[v] for v in made if v in cut.port.arrays)]:  # what the variance is part of
        if part.shape != cut.own.shape or not np.all(np.abs(part) > 0):
            continue
        share = float(np.median((cut.wanted - cut.own) / part))  # 1 / (n - 1)
        count = 1 / share + 1 if share > 0 else 0.0
        if count > 1 and abs(count - round(count)) < 1e-6 * count and cut.gives(cut.own + part * share):
            text = "the running variance moves with the biased variance in the port, the unbiased one in the reference"
            yield Finding(f"{text}: multiply the batch's by {round(count)} / {round(count) - 1}", kind="factor")
            return
    leaves = {number for name, number in cut.port.leaves.items() if name.startswith("buffer/")}
    for i, place, own in _literals(cut):
        keeps = bool(leaves.intersection(cut.port.operations[i].inputs))  # else it is the share of the batch
        for number in _near(own, cut.known_numbers):
            if 0 < number < 1 and cut.gives(_with(cut, i, place, number)):
                theirs, ours = (share if keeps else 1 - share for share in (own, number))
                text = f"the running statistics keep {neat(theirs)} in the port, {neat(ours)} in the reference"
                yield Finding(f"{text}: pass momentum={neat(ours)}", kind="constant", operation=i)
                return


def _is_statistic(cut: Cut) -> bool:
    """Whether a value goes into what a step leaves in the buffers, and into nothing else that comes out."""
    return reached(cut.exchange, cut.port) == {"buffer"}


def epsilon_causes(cut: Cut) -> Iterator[Finding]:
    """Yields a small number of the reference's that the port does not add before it divides or takes a root."""
    small = [number for number in cut.known_numbers if 0 < number <= _EPSILON]
    for i in reversed(cut.working):
        operation = cut.port.operations[i]
        if operation.name not in _AFTER_EPSILON or not operation.inputs:
            continue
        value = operation.inputs[-1]
        array = cut.port.arrays.get(value)
        if array is None or array.dtype.kind != "f":
            continue
        for number in small:
            if cut.works({value: array + number}):
                text = f"the port does not add epsilon before its {plain(operation.name)}, which the reference does"
                yield Finding(f"{text}: add {neat(number)}", kind="missing", operation=i)
                return


def solved_causes(cut: Cut) -> Iterator[Finding]:
    """Yields a literal of the port that gives the reference's value when it is another short number."""
    for i, place, own in _literals(cut):
        number = _solved(cut, i, place, own)
        if number is not None and is_neat(number):
            yield _cause(cut, i, place, own, float(neat(number)))
            return


def _literals(cut: Cut, *, scalars: bool = False) -> list[tuple[int, int, float]]:
    """Returns the operation, the place and the number of each literal; a scalar of its own counts as one, at -1.

    Args:
        cut: the operations.
        scalars: whether those that were computed before count, too, in an operation of scalars.
    """
    made_here = {value for i in cut.theirs for value in cut.port.operations[i].outputs}
    found: list[tuple[int, int, float]] = []
    for i in reversed(cut.theirs):
        if cut.port.values[cut.port.operations[i].outputs[0]].kind != "f":
            continue
        found += [(i, place, float(number)) for place, number in literals_of(cut.port, i).items()]
        operation = cut.port.operations[i]
        for value in operation.inputs:
            array = cut.port.arrays.get(value)
            made = cut.port.values[cut.port.operations[i].outputs[0]].size
            alone = value not in cut.port.producers or made > 1
            if scalars and not alone:  # what a scalar is divided by may be of many
                alone = value not in made_here or (operation.name == "div" and value == operation.inputs[-1])
            kinds = "fi" if scalars else "f"
            if alone and array is not None and array.dtype.kind in kinds and is_constant(cut.port, value):
                found.append((i, -1 - value, float(array.item())))
    return [entry for entry in found if np.isfinite(entry[2])][:_MOST]


def _with(cut: Cut, i: int, place: int, number: float) -> np.ndarray | None:
    if place >= 0:
        return cut.replay({}, literals={i: {place: number}})
    value = -1 - place
    own = cut.port.arrays[value]
    if own.dtype.kind == "i" and number != round(number):
        return None
    return cut.replay({value: np.full(own.shape, number, own.dtype)})


def _near(own: float, known: list[float]) -> list[float]:
    """Returns the reference's numbers, and what they are the other way round, which are not the port's own."""
    found = list(known)
    found += [1 / number for number in known if number]
    found += [number**power for number in known if number > 0 for power in (2, -2, 0.5, -0.5)]
    found += [-number for number in known]
    return [number for number in dict.fromkeys(found) if abs(number - own) > 1e-12 * abs(own)]


def _solved(cut: Cut, i: int, place: int, own: float) -> float | None:
    """Returns the number that gives the reference's value, by Newton's method; None where there is none."""
    number = own
    for _ in range(_STEPS):
        step = 1e-4 * abs(number) or 1e-4
        here, there = _with(cut, i, place, number), _with(cut, i, place, number + step)
        if here is None or there is None or here.shape != cut.wanted.shape:
            return None
        slope, rest = cut.counted((there - here) / step), cut.counted(cut.wanted - here)
        good = np.isfinite(slope) & np.isfinite(rest)
        size = float((slope[good] ** 2).sum())
        if not size or not good.any():
            return None
        change = float((slope[good] * rest[good]).sum()) / size
        number += change
        if abs(change) <= 1e-12 * abs(number):
            break
    return number if cut.gives(_with(cut, i, place, number)) and cut.wanted.size > 1 else None


def _user(cut: Cut, i: int) -> int:
    """Returns the operation that works with a number, which may be moved before."""
    while cut.port.operations[i].name in MOVES:
        takers = [j for j in cut.port.consumers.get(cut.port.operations[i].outputs[0], ()) if j in cut.theirs]
        if len(takers) != 1:
            break
        i = takers[0]
    return i


def _is_epsilon(cut: Cut, i: int, own: float) -> bool:
    """Whether a small number is added to what is divided by, or to what a root or a logarithm is taken of."""
    operation = cut.port.operations[i]
    takers = cut.port.consumers.get(operation.outputs[0], ())
    after = {cut.port.operations[taker].name for taker in takers}
    return operation.name == "add" and abs(own) <= _EPSILON and bool(after & _AFTER_EPSILON)


def _is_clip(name: str) -> bool:
    return plain(name) in ("maximum", "minimum", "clip", "relu", "hardtanh", "clamp_min", "clamp_max", "clip_min")


def _cause(cut: Cut, i: int, place: int, own: float, number: float) -> Finding:
    i = _user(cut, i)
    name = cut.port.operations[i].name
    ours, theirs = neat(own), neat(number)
    verb = _VERBS.get(name)
    if _is_epsilon(cut, i, own) and abs(number) <= _EPSILON:
        text = f"epsilon is {ours} in the port, {theirs} in the reference: pass epsilon={theirs}"
    elif verb is None:
        text = f"a constant is {ours} in the port, {theirs} in the reference: use {theirs}"
    else:
        text = f"the port {verb} {ours} where the reference has {theirs}: use {theirs}"
    return Finding(text, kind="constant", operation=i)
