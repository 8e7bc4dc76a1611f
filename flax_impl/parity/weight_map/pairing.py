"""Pairing the units of both sides: what is equal, then what is most alike, then what is left; never a guess."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .layouts import fit
from .names import above, below, similarity
from .units import Shape, Unit

Pairs = list[tuple[Unit, Unit]]
Groups = list[tuple[list[Unit], list[Unit]]]
_Joined = Callable[[Unit, Unit], bool]


def resolve(torch: Sequence[Unit], flax: Sequence[Unit]) -> tuple[Pairs, Groups]:
    """Returns the pairs of units, and the groups in which more than one pairing is possible."""
    known: dict[Any, int] = {}

    def whole(a: Unit, b: Unit) -> bool:
        return fit(a, b, known) == 2

    def nearly(a: Unit, b: Unit) -> bool:
        return fit(a, b, known) > 0

    equal = _of_equal_names(torch, flax, nearly)
    torch, flax = without(torch, flax, equal)
    groups = _components(torch, flax, nearly)
    found = [_match(*group, whole) for group in groups]
    while True:  # each pair found may say more about the containers
        context = [*equal, *(pair for pairs in found for pair in pairs)]
        before = len(context)
        for i, (a, b) in enumerate(groups):
            rest = without(a, b, found[i])
            if all(rest):
                found[i] = found[i] + _match(*rest, _within(context, *rest, whole))
        if sum(map(len, found)) + len(equal) == before:
            break
    unclear: Groups = []
    for i, (a, b) in enumerate(groups):
        if len(found[i]) < max(len(a), len(b)):
            # A module that lacks an entry would leave its place in the ranks to another: all of them anew.
            loose = _match(a, b, nearly, by_name=True)
            if len(loose) > len(found[i]):
                found[i] = loose
            for joined in (whole, nearly):
                rest = without(a, b, found[i])
                found[i] = found[i] + [pair for group in _components(*rest, joined) for pair in _subset(*group)]
            rest = without(a, b, found[i])
            unclear += _components(*rest, _within(context, *rest, whole))
    return [*equal, *(pair for pairs in found for pair in pairs)], unclear


def _of_equal_names(torch: Sequence[Unit], flax: Sequence[Unit], joined: _Joined) -> Pairs:
    """Returns the units that fit under one name. `layer1` is not `layer1` where one side counts from 0."""
    named, numbered = [], []
    for units in (torch, flax):
        count = Counter(unit.plain for unit in units)
        named.append({unit.plain: unit for unit in units if count[unit.plain] == 1})
        numbered.append(defaultdict(set))
        for unit in units:
            numbered[-1][re.sub(r"\d+", "#", unit.plain)].add(unit.plain)
    shared = [(unit, named[1][name]) for name, unit in named[0].items() if name in named[1]]
    stems = {stem for stem, names in numbered[0].items() if names == numbered[1][stem]}
    return [(a, b) for a, b in shared if re.sub(r"\d+", "#", a.plain) in stems and joined(a, b)]


def _match(torch: Sequence[Unit], flax: Sequence[Unit], joined: _Joined, by_name: bool = False) -> Pairs:
    """Returns the pairs that follow step by step, each from what is left."""
    pairs: Pairs = []
    while True:
        rest = without(torch, flax, pairs)
        new = [pair for group in _components(*rest, joined) for pair in _step(*group, joined, by_name)]
        if not new:
            return pairs
        pairs += new


def _step(torch: Sequence[Unit], flax: Sequence[Unit], joined: _Joined, by_name: bool) -> Pairs:
    left, right = _stems(torch), _stems(flax)
    candidates = {
        (i, j): 0.0
        for i, a in enumerate(left)
        for j, b in enumerate(right)
        if len(a) == len(b) and _same_levels(a, b) and all(map(joined, a, b))
    }
    # What all names say tells none from another.
    words = [[members[0].words for members in side] for side in (left, right)]
    everywhere = words[0][0].copy()
    for of_stem in words[0] + words[1]:
        everywhere &= of_stem
    if len(left) == len(right) == 1:
        everywhere.clear()
    for i, j in candidates:
        candidates[i, j] = similarity(words[0][i] - everywhere, words[1][j] - everywhere)
    chosen = [
        (i, j)
        for (i, j), score in candidates.items()
        if score > max((s for (k, m), s in candidates.items() if (k == i) != (m == j)), default=0.0) + 1e-9
        and score > 0
    ]
    if not chosen and not by_name:
        ways = Counter(i for i, _ in candidates), Counter(j for _, j in candidates)
        # Where both sides have as many, each has a counterpart, and one that has a single choice takes it.
        enough = any if len(torch) == len(flax) else all
        forced = [(i, j) for i, j in candidates if enough((ways[0][i] == 1, ways[1][j] == 1))]
        suitors = Counter(i for i, _ in forced), Counter(j for _, j in forced)
        chosen = [(i, j) for i, j in forced if suitors[0][i] == suitors[1][j] == 1]
    return [pair for i, j in chosen for pair in zip(left[i], right[j], strict=True)]


def _stems(units: Iterable[Unit]) -> list[list[Unit]]:
    """Returns the units by stem, each in natural order."""
    stems = defaultdict(list)
    for unit in units:
        stems[unit.stem].append(unit)
    return [sorted(members, key=lambda unit: unit.numbers) for members in stems.values()]


def _same_levels(a: Sequence[Unit], b: Sequence[Unit]) -> bool:
    """Whether ranks agree level by level: three blocks of two are not two blocks of three."""
    ranks = _ranks(a), _ranks(b)
    return len(ranks[0][0]) != len(ranks[1][0]) or ranks[0] == ranks[1]


def _ranks(members: Sequence[Unit]) -> list[Shape]:
    """Returns each member's numbers, counted from 0 within its container; levels that never change are left out."""
    numbers = [unit.numbers for unit in members]
    levels = [i for i in range(len(numbers[0])) if len({n[i] for n in numbers}) > 1]
    kept = [tuple(n[i] for i in levels) for n in numbers]
    return [
        tuple(len({other[i] for other in kept if other[:i] == n[:i] and other[i] < n[i]}) for i in range(len(levels)))
        for n in kept
    ]


def _subset(torch: Sequence[Unit], flax: Sequence[Unit]) -> Pairs:
    """Returns the pairs of one stem each, where one side has more: by number, or else by rank."""
    if len({unit.stem for unit in torch}) > 1 or len({unit.stem for unit in flax}) > 1:
        return []
    (torch,), (flax,) = _stems(torch), _stems(flax)
    for labels in (lambda units: [unit.numbers for unit in units], _ranks):
        a, b = dict(zip(labels(torch), torch, strict=True)), dict(zip(labels(flax), flax, strict=True))
        if all(labels_of for labels_of in (*a, *b)) and (a.keys() <= b.keys() or b.keys() <= a.keys()):
            return [(unit, b[label]) for label, unit in a.items() if label in b]
    return []


def _within(context: Pairs, torch: Sequence[Unit], flax: Sequence[Unit], joined: _Joined) -> _Joined:
    """Returns what fits and lies in containers that agree: those whose contents, as far as known, are each other's."""
    sides: tuple[dict[str, set[int]], ...] = defaultdict(set), defaultdict(set)
    for i, pair in enumerate(context):
        for side, unit in zip(sides, pair, strict=True):
            for container in above(unit.name):
                side[container].add(i)
    same: tuple[dict[str, list[str]], ...] = {}, {}
    for own, other, pairs in zip(sides, sides[::-1], same, strict=True):
        by_content = defaultdict(list)
        for container, content in other.items():
            by_content[frozenset(content)].append(container)
        pairs.update((container, by_content[frozenset(content)]) for container, content in own.items())

    def agrees(name: str, other: str, pairs: Mapping[str, list[str]]) -> bool:
        known = [pairs[container] for container in above(name) if pairs.get(container)]
        return all(any(below(other, container) for container in containers) for containers in known)

    def within(a: Unit, b: Unit) -> bool:
        return joined(a, b) and agrees(a.name, b.name, same[0]) and agrees(b.name, a.name, same[1])

    alone = any(not any(within(a, b) for b in flax) for a in torch)
    alone = alone or any(not any(within(a, b) for a in torch) for b in flax)
    return joined if alone else within  # a context that leaves a unit without any counterpart is misread


def _components(torch: Sequence[Unit], flax: Sequence[Unit], joined: _Joined) -> Groups:
    """Returns the units that hang together by fitting; those that nothing fits are in none."""
    groups: Groups = []
    for a in torch:
        fitting = [b for b in flax if joined(a, b)]
        if fitting:
            ids = set(map(id, fitting))
            touched = [group for group in groups if any(id(b) in ids for b in group[1])]
            groups = [group for group in groups if not any(group is other for other in touched)]
            units = {id(b): b for b in [*(b for group in touched for b in group[1]), *fitting]}
            groups.append(([*(unit for group in touched for unit in group[0]), a], list(units.values())))
    return groups


def without(torch: Sequence[Unit], flax: Sequence[Unit], pairs: Pairs) -> tuple[list[Unit], list[Unit]]:
    """Returns the units that are in none of the pairs."""
    a, b = {id(unit) for unit, _ in pairs}, {id(unit) for _, unit in pairs}
    return [unit for unit in torch if id(unit) not in a], [unit for unit in flax if id(unit) not in b]
