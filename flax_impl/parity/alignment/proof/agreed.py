"""Says which values of the two tapes count as agreed: partners, slices, rows; not what is equal by chance."""

from collections.abc import Mapping, Sequence

from torch_ref.common.tape.tape import Tape

from ..partners import Partners
from ..place import Side
from ..rows import selected
from ..slices import is_joined, joined_apart, sliced, uncertain

_NOTHING = 1e-14  # of the largest number that is given: what rounding leaves of a sum of nothing


def sides_of(
    partners: Partners, backward: bool, starts: tuple[Sequence[int], Sequence[int]], *, differ: bool = False
) -> tuple[Side, Side]:
    """Returns both sides with what agrees on them.

    JAX computes derivatives on the way forward. A value that is nothing but one, such as the cosine beside a sine, is
    no partner for a value that an output comes from.

    Args:
        partners: which values are the same.
        backward: whether gradients are meant.
        starts: values of the reference, and of the port; what they do not come from is not looked at.
        differ: whether they are results that differ, if only by the order of their numbers.
    """
    agreed = partners.of_reference, partners.of_port
    if differ:
        agreed = tuple(
            {value: twins for value, twins in of_tape.items() if value not in start}
            for of_tape, start in zip(agreed, starts, strict=True)
        )
    tapes = partners.reference, partners.port
    agreed = tuple(_without_chance(tapes[i], agreed[i], tapes[1 - i]) for i in range(2))
    if not backward:
        derivatives = [Side(tape, of_tape).derivatives for tape, of_tape in zip(tapes, agreed, strict=True)]
        agreed = tuple(
            {value: twins for value, twins in of_tape.items() if not derivatives[1 - i].issuperset(twins)}
            for i, of_tape in enumerate(agreed)
        )
    alone = [
        [number for number in tape.values_behind(start, lambda n, of=of_tape: n not in of) if number not in of_tape]
        for tape, of_tape, start in zip(tapes, agreed, starts, strict=True)
    ]
    rows = selected(tapes[0], alone[0], tapes[1]), selected(tapes[1], alone[1], tapes[0])
    apart = joined_apart((tapes[0], tapes[1]), alone)
    sides = []
    for i, (tape, of_tape) in enumerate(zip(tapes, agreed, strict=True)):
        wanted = [v for v in alone[i] if tape.values[v].size not in apart or not is_joined(tape, v)]
        slices = sliced(tape, wanted, tapes[1 - i]) | rows[i][0] | rows[1 - i][1].difference(of_tape)
        sides.append(Side(tape, {*of_tape, *uncertain(tape, tapes[1 - i], set(of_tape), slices)}))
    return sides[0], sides[1]


def _without_chance(tape: Tape, agreed: Mapping[int, Sequence[int]], other: Tape) -> Mapping[int, Sequence[int]]:
    """Returns the values that agree, but for those that do so by chance: zeros, and what rounding leaves of them.

    What comes from an input is not what comes from none, though both may hold one number throughout.
    """
    least = _NOTHING * max((tape.values[n].scale for n in tape.leaves.values()), default=0.0)
    weak = {value for value in agreed if tape.values[value].size > 1 and 0 < tape.values[value].scale <= least}
    alike = [value for value in agreed if tape.values[value].size > 1 and tape.values[value].constant]
    if not weak and not alike:
        return agreed
    of_inputs = [Side(of, ()).of_inputs for of in (tape, other)]
    wrong = {value for value in alike if not any(of_inputs[1][twin] for twin in agreed[value])} | weak
    return {value: twins for value, twins in agreed.items() if value not in wrong or not of_inputs[0][value]}
