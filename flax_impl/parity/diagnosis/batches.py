"""Recognises differences in the batches: another order, another step's rows, other numbers."""

import numpy as np

from torch_ref.common.trace import Trace

from ..report.entries import Divergence, Finding
from .numbers import factor_between, names_text, neat


def data_findings(first: Divergence, ported: Trace, reference: Trace) -> list[Finding]:
    """Returns what makes the port's batch of the reference's."""
    got, expected, dtype = ported.phase(first.step, "input"), reference.phase(first.step, "input"), reference.dtype
    found = []
    for other in range(first.step):
        if _equal(got, ported.phase(other, "input"), dtype):
            text = f"the port's step {first.step} repeats the batch of its step {other}: draw anew in every epoch"
            return [Finding(f"{text}, with the reference's generator and seed")]
    for other in range(reference.steps):
        if other != first.step and _equal(got, reference.phase(other, "input"), dtype):
            text = f"the port's step {first.step} has the reference's batch of step {other}: the batches are shifted"
            found.append(Finding(f"{text}; draw them in the reference's order"))
    order = _order(got, expected, dtype)
    if order is not None:
        kind = "backwards" if (order == np.arange(len(order))[::-1]).all() else "in another order"
        found.append(
            Finding(
                f"the port's batch has the reference's rows {kind}: take the rows in the order that the reference has"
            )
        )
    if found:
        return found
    wrong = [name for name in expected if name not in got or not _same(got[name], expected[name])]
    right = [
        name for name in expected if name not in wrong and expected[name].dtype.kind == "f" and expected[name].ndim
    ]
    factor = factor_between(got[first.name], expected[first.name], dtype) if first.name in got else None
    if factor is not None:
        return [Finding(f"the port's `{first.name}` is {neat(factor)} times the reference's: scale it alike")]
    if right:
        text = f"the port's batch has the reference's rows, by {names_text(right)}, but another {names_text(wrong)}"
        return [Finding(f"{text}: make these entries as the reference's are made")]
    text = f"the port's batch has other rows in {names_text(wrong)}: shuffle with the reference's generator and seed"
    return [Finding(text, certain=all(name in got for name in wrong))]


def _equal(got: dict[str, np.ndarray], expected: dict[str, np.ndarray], dtype: str) -> bool:
    return got.keys() == expected.keys() and all(_same(got[name], expected[name]) for name in got)


def _same(got: np.ndarray, expected: np.ndarray) -> bool:
    return got.shape == expected.shape and np.array_equal(got, expected, equal_nan=got.dtype.kind == "f")


def _order(got: dict[str, np.ndarray], expected: dict[str, np.ndarray], dtype: str) -> np.ndarray | None:
    """Returns the order that makes the port's rows of the reference's, where there is one for all entries."""
    if got.keys() != expected.keys() or any(got[name].shape != expected[name].shape for name in got):
        return None
    keys = [_row_keys(batch, dtype) for batch in (got, expected)]
    if sorted(keys[0]) != sorted(keys[1]) or not keys[0]:
        return None
    places = [sorted(range(len(of)), key=lambda i, of=of: (of[i], i)) for of in keys]
    order = np.empty(len(keys[0]), int)
    order[places[0]] = places[1]
    return order


def _row_keys(batch: dict[str, np.ndarray], dtype: str) -> list[bytes]:
    """Returns each row of a batch, all entries together, as bytes."""
    rows = max((len(array) for array in batch.values() if array.ndim), default=0)
    whole = [
        array.astype(dtype if array.dtype.kind == "f" else np.int64)
        for array in batch.values()
        if array.shape[:1] == (rows,)
    ]
    return [b"".join(array[i].tobytes() for array in whole) for i in range(rows)]
