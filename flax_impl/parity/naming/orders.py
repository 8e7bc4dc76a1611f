"""Names the same numbers in another order: transposed, reversed, shifted, exchanged halves, interleaved, heads."""

import itertools
from collections.abc import Callable, Iterator

import numpy as np

from ..alignment.proof.layouts import layouts
from ..report.entries import Finding
from .cut import Cut
from .words import line_of

_MOST = 30  # operations of the port that an order is tried at
_LONGEST = 64  # of an axis that is shifted step by step
_BACK = "swap them back"
_SOME = 1 << 16  # numbers that are sorted to compare them


def order_causes(cut: Cut) -> Iterator[Finding]:
    """Yields how the port's numbers are ordered otherwise, at the exchanged value itself."""
    words = reordered(cut.own, cut.gives)
    if words is not None and words.endswith(_BACK) and _is_product(cut):
        words += ", or exchange the factors of the product, as query and key"
    if words is not None:
        yield Finding(f"the port has the same numbers in another order: {words}", kind="order")


def _is_product(cut: Cut) -> bool:
    """Whether a value is a product of two values, scaled or not."""
    value = cut.exchange.port
    for _ in range(4):
        made_by = cut.port.producers.get(value)
        if made_by is None:
            return False
        operation = cut.port.operations[made_by]
        if operation.name == "dot_general":
            return len(set(operation.inputs) - set(cut.port.leaves.values())) == 2
        if operation.name not in ("div", "mul", "transpose") or not operation.inputs:
            return False
        value = operation.inputs[0]
    return False


def inner_order_causes(cut: Cut) -> Iterator[Finding]:
    """Yields an operation of the port whose input or output gives the reference's value in another order."""
    seen: set[int] = set()
    for i in cut.theirs[-_MOST:]:
        operation = cut.port.operations[i]
        for value in (*operation.inputs, *operation.outputs):
            array = cut.port.arrays.get(value)
            if array is None or array.ndim == 0 or value in seen or array.dtype.kind != "f" or array.size < 2:
                continue
            seen.add(value)
            words = reordered(np.asarray(array), lambda other, value=value: cut.works({value: other}), quick=True)
            if words is not None:
                line = f" at {line_of(operation)}" if operation.lines else ""
                made_by = cut.port.producers.get(value, i)
                named = made_by if made_by in cut.theirs else i
                text = f"the port has numbers in another order{line}: {words}"
                yield Finding(text, kind="order", operation=named)
                return


def paired_causes(cut: Cut) -> Iterator[Finding]:
    """Yields that the port pairs other numbers, as a rotation of neighbours and one of halves do."""
    for value in cut.theirs_given:
        array = cut.port.arrays[value]
        if array.ndim == 0 or array.shape[-1] % 2 or array.shape[-1] < 4 or array.shape != cut.own.shape:
            continue
        for parts in (2, array.shape[-1] // 2):
            made = cut.replay({value: _interleaved(array, parts)})
            if made is not None and cut.gives(_interleaved(made, array.shape[-1] // parts)):
                ours, theirs = ("neighbours", "halves") if parts == 2 else ("halves", "neighbours")
                text = f"the port pairs the {ours} of the last axis where the reference pairs its {theirs}"
                yield Finding(f"{text}: split it that way before it is rotated", kind="order")
                return


def _interleaved(array: np.ndarray, parts: int) -> np.ndarray:
    length = array.shape[-1]
    return array.reshape(*array.shape[:-1], parts, length // parts).swapaxes(-1, -2).reshape(array.shape)


def hidden_order_causes(cut: Cut) -> Iterator[Finding]:
    """Yields an agreed value that is in another order on both sides: the fingerprints of some orders are the same."""
    for value in dict.fromkeys((cut.exchange.port, *cut.theirs_given)):
        own = cut.port.arrays.get(value)
        for twin in cut.ours_given:
            theirs = cut.reference.arrays.get(twin)
            if own is None or theirs is None or own.shape != theirs.shape or own.size < 4:
                continue
            near = 1e-9 * float(np.abs(theirs).max(initial=0.0))
            if any(np.abs(made - theirs).max() <= near for made in layouts(own, own.shape)):
                continue
            words = reordered(own, lambda made, theirs=theirs, near=near: bool(np.abs(made - theirs).max() <= near))
            if words is not None:
                yield Finding(f"the port has the same numbers in another order: {words}", certain=False, kind="order")
                return


def same_numbers(cut: Cut) -> Iterator[Finding]:
    """Yields that the numbers are the same, where no known order makes the one of the other."""
    a, b = cut.own.ravel(), cut.wanted.ravel()
    if not 2 < a.size <= _SOME or len(np.unique(a)) < 3:
        return
    if cut.gives(np.sort(a)[np.argsort(np.argsort(b, kind="stable"))].reshape(cut.wanted.shape)):
        yield Finding("the port has the same numbers in another order", kind="order")


def reordered(array: np.ndarray, fits: Callable[[np.ndarray], bool], quick: bool = False) -> str | None:
    """Returns which order an array must be brought in to fit, in words; None where none does.

    Args:
        array: the port's.
        fits: says whether an array does.
        quick: whether only the common orders are tried.
    """
    for other, words in _orders(array, quick):
        if other.shape == array.shape and not np.array_equal(other, array) and fits(other):
            return words
    return None


def _orders(array: np.ndarray, quick: bool) -> Iterator[tuple[np.ndarray, str]]:
    axes = [axis for axis, length in enumerate(array.shape) if length > 1]
    for a, b in itertools.combinations(axes, 2):
        if array.shape[a] == array.shape[b]:
            yield array.swapaxes(a, b), f"axes {a} and {b} are exchanged, {_BACK}"
    for axis in axes:
        yield np.flip(array, axis), f"axis {axis} runs backwards, turn it round"
    for axis in axes:
        length = array.shape[axis]
        steps = range(1, length) if length <= _LONGEST and not quick else sorted({1, length - 1, length // 2})
        for by in sorted(steps, key=lambda step: min(step, length - step)):
            if not 0 < by < length:
                continue
            if 2 * by == length:
                words = f"the halves of axis {axis} are exchanged, concatenate in the reference's order"
            else:
                back = by if by <= length - by else by - length
                words = f"axis {axis} is shifted by {-back}, shift it by {back}"
            yield np.roll(array, by, axis), words
    for axis in axes:
        length = array.shape[axis]
        for parts in (part for part in range(2, length) if length % part == 0):
            moved = np.moveaxis(array, axis, -1)
            turned = moved.reshape(*moved.shape[:-1], parts, length // parts).swapaxes(-1, -2).reshape(moved.shape)
            what = "blocks" if parts != 2 and length // parts != 2 else "halves against pairs, as a rotation has them"
            words = f"axis {axis} is interleaved otherwise ({what}: {parts} by {length // parts})"
            yield np.moveaxis(turned, -1, axis), words
    if quick:
        return
    for axis in axes:
        length = array.shape[axis]
        for count in (3, 4):
            if length % count == 0:
                blocks = np.split(array, count, axis)
                for order in itertools.permutations(range(count)):
                    yield (
                        np.concatenate([blocks[i] for i in order], axis),
                        f"the {count} blocks of axis {axis} stand otherwise, put them in the order {list(order)}",
                    )
    if 1 < len(axes) <= 4:
        for order in itertools.permutations(range(array.ndim)):
            if list(order) != sorted(order):
                yield (
                    array.transpose(order).reshape(array.shape),
                    f"its axes are merged or split in another order: transpose to {list(order)} before the reshape",
                )
        for order in itertools.permutations(range(array.ndim)):
            shape = tuple(array.shape[i] for i in order)
            if list(order) != sorted(order):
                yield (
                    array.reshape(shape).transpose(np.argsort(order)),
                    f"its axes are split in another order: reshape to {list(shape)} and transpose",
                )


def flattened_causes(cut: Cut) -> Iterator[Finding]:
    """Yields a reshape of the port before which the axes must be transposed."""
    made_by = cut.port.producers.get(cut.exchange.port)
    at_edge = [] if cut.theirs or made_by is None else [made_by]  # the same numbers agree in any order
    for i in (*cut.theirs, *at_edge):
        operation = cut.port.operations[i]
        array = cut.port.arrays.get(operation.inputs[0]) if operation.inputs else None
        if operation.name != "reshape" or array is None or array.ndim > 5:
            continue
        shape = cut.port.values[operation.outputs[0]].shape
        for order in itertools.permutations(range(array.ndim)):
            made = array.transpose(order).reshape(shape)
            if list(order) != sorted(order) and (
                cut.gives(made) if at_edge else cut.works({operation.outputs[0]: made})
            ):
                text = f"the port flattens the axes of {list(array.shape)} as they are"
                text += f": x.transpose({', '.join(map(str, order))}) before the reshape"
                yield Finding(text, kind="order")
                return
