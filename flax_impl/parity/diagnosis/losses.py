"""Recognises differences in the loss by the gradients at the outputs: factors, rows, weights, criterion."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from torch_ref.common.trace import Trace

from ..report.entries import Divergence, Finding
from .arms import Trained, arm_findings, count_causes
from .numbers import close, constant, factor_between, neat


def loss_findings(first: Divergence, ported: Trace, reference: Trace) -> list[Finding]:
    """Returns what makes the port's loss of the reference's, where the outputs agree."""
    step = first.step
    batch, dtype = reference.phase(step, "input"), reference.dtype
    losses, theirs = ported.phase(step, "loss"), reference.phase(step, "loss")
    if not all(np.isfinite(loss).all() for loss in losses.values()):
        return [_not_finite(batch)]
    if losses.keys() == theirs.keys() and len(losses) > 1:
        swapped = dict(zip(losses, reversed(list(theirs.values())), strict=True))
        if all(close(losses[name], swapped[name], dtype) for name in losses):
            treatment = _binary(batch)
            text = "the parts of the loss are swapped in the port"
            if not treatment:
                return [Finding(f"{text}: return them in the reference's order")]
    pairs = _at_outputs(ported, reference, step)
    if not pairs:
        return _by_size(losses, theirs, batch, dtype)
    found = _rows(pairs, batch)
    if not found and (found := _factors(pairs, batch, dtype)):
        # The slopes have a factor; where the values have another, it is not the whole story.
        ratios = [pair.actual.sum() / pair.expected.sum() for pair in pairs if pair.rows_expected.any()]
        values = [float(losses[name] / theirs[name]) for name in theirs if name in losses and theirs[name]]
        constant_factor = constant(np.array(ratios), dtype)
        if constant_factor is not None and not all(
            abs(v - constant_factor) < 1e-3 * abs(constant_factor) for v in values
        ):
            found = [replace(finding, certain=False) for finding in found]
    return found or _everywhere(ported, reference, step) or _by_size(losses, theirs, batch, dtype)


def _everywhere(ported: Trace, reference: Trace, step: int) -> list[Finding]:
    """Returns the criterion of a row, certain only if it is that at every output of every step.

    A Huber loss is the absolute error where all errors are large.
    """
    found = _criterion(_at_outputs(ported, reference, step), reference.phase(step, "input"))
    for k in range(reference.steps):
        for pair in _at_outputs(ported, reference, k):
            here = _criterion([pair], reference.phase(k, "input"))
            of_criterion = bool(found) and "loss of a row" in found[0].text
            if of_criterion and here != found and (pair.rows & pair.rows_expected).any():
                return [replace(finding, certain=False) for finding in found]
    return found


class _Pair:
    """What arrives at an output, on both sides: [rows, …], and the output itself."""

    def __init__(self, name: str, actual: np.ndarray, expected: np.ndarray, output: np.ndarray) -> None:
        self.name = name
        self.actual, self.expected, self.output = (np.asarray(a, np.float64) for a in (actual, expected, output))
        flat = [array.reshape(len(array), -1) for array in (self.actual, self.expected)]
        self.rows, self.rows_expected = (np.abs(array).max(1, initial=0) > 0 for array in flat)


def _at_outputs(ported: Trace, reference: Trace, step: int) -> list[_Pair]:
    """Returns the gradients at the modules that give the outputs, or at the last one that leads to each."""
    found = []
    got, expected = ported.phase(step, "cotangent"), reference.phase(step, "cotangent")
    activations = reference.phase(step, "activation")
    for output in reference.phase(step, "output").values():
        for call in reversed(reference.metadata["calls"]):
            same = call in activations and activations[call].shape == output.shape
            if same and np.array_equal(activations[call], output, equal_nan=True) and call in got and call in expected:
                if got[call].shape == expected[call].shape and output.ndim:
                    found.append(_Pair(call, got[call], expected[call], output))
                break
    return found


def _binary(batch: Mapping[str, np.ndarray]) -> list[str]:
    """Returns the entries of the batch that hold 0 and 1, one for each row: a treatment, or a mask."""
    return [name for name, a in batch.items() if a.ndim == 1 and a.dtype.kind in "iub" and set(np.unique(a)) <= {0, 1}]


def _not_finite(batch: Mapping[str, np.ndarray]) -> Finding:
    padded = [name for name, array in batch.items() if array.dtype.kind == "f" and not np.isfinite(array).all()]
    if padded:
        text = f"the port's loss is NaN or infinite, as `{padded[0]}` is in rows that the reference leaves out"
        return Finding(f"{text}: replace them before the loss is computed, with jnp.where on the mask, not after it")
    return Finding(
        "the port's loss is NaN or infinite: look for a mean over no rows, log(0) or an overflow", certain=False
    )


def _rows(pairs: list[_Pair], batch: Mapping[str, np.ndarray]) -> list[Finding]:
    """Finds other rows: an inverted treatment, padding that counts."""
    other = [pair for pair in pairs if (pair.rows != pair.rows_expected).any()]
    if not other:
        return []
    if of_arms := arm_findings([Trained(pair.name, pair.rows, pair.rows_expected) for pair in pairs], batch):
        return of_arms
    for name in _binary(batch):
        chosen = batch[name].astype(bool)
        both = [
            (pair.rows[pair.rows | pair.rows_expected], pair.rows_expected[pair.rows | pair.rows_expected])
            for pair in other
        ]
        if (
            len(pairs) > 1
            and all((a != b).all() for a, b in both)
            and all(pair.rows.any() for pair in other)
            and all(len(set(chosen[pair.rows_expected])) <= 1 and len(set(chosen[pair.rows])) <= 1 for pair in other)
        ):
            text = f"the port trains each output on the rows of the other: `{name}` is inverted"
            return [Finding(f"{text}; `{name} == 1` picks the second one, in jnp.where(t, y1, y0)")]
        if all(not (pair.rows_expected & ~chosen).any() and (pair.rows & ~chosen).any() for pair in other):
            text = f"rows that `{name}` leaves out count in the port's loss"
            return [Finding(f"{text}: multiply by the mask, or use jnp.where, before the mean")]
    lost = [pair for pair in other if not pair.rows.any()]
    taken = [pair for pair in other if lost and (pair.rows & lost[0].rows_expected).any()]
    if taken:
        text = f"the rows of `{lost[0].name}` train `{taken[0].name}` in the port"
        return [
            Finding(f"{text}: look at how the rows are picked, t == 0 for the first head and t == 1 for the second")
        ]
    if lost:
        return [Finding(f"nothing arrives at `{lost[0].name}` in the port: its part of the loss is left out; add it")]
    rows = int((other[0].rows != other[0].rows_expected).sum())
    return [Finding(f"the loss counts other rows at `{other[0].name}` ({rows} of {len(other[0].rows)})", certain=False)]


def _factors(pairs: list[_Pair], batch: Mapping[str, np.ndarray], dtype: str) -> list[Finding]:
    """Finds a factor of the whole loss, of each of its parts, or of each row."""
    seen = [pair for pair in pairs if pair.rows_expected.any()]
    if not seen:
        return []
    factors = [factor_between(pair.actual, pair.expected, dtype) or _one(pair, dtype) for pair in seen]
    length = len(seen[0].expected)
    if all(factor is not None for factor in factors):
        numbers = [float(factor) for factor in factors if factor is not None]
        counts = [int(pair.rows_expected.sum()) for pair in seen]
        widths = [int(np.prod(pair.output.shape[1:])) for pair in seen]
        names = [pair.name for pair in seen] if len(pairs) > 2 else []
        return _whole_factor(numbers, counts, length, batch, widths, dtype, names)
    for name, weights in batch.items():
        if weights.shape != (length,) or weights.dtype.kind != "f" or not np.isfinite(weights).all():
            continue
        ratios = [_ratios(pair) for pair in seen]
        weighed = [constant(r * weights[rows], dtype) for r, rows in ratios if rows.any()]
        if weighed and all(value is not None for value in weighed):
            return [Finding(f"the port's loss ignores the weights `{name}`: multiply each row's loss by them")]
        squared = [constant(r / weights[rows], dtype) for r, rows in ratios if rows.any()]
        if squared and all(value is not None for value in squared):
            return [
                Finding(f"the port's loss weighs the rows by `{name}` twice, or the reference not at all: weigh once")
            ]
    return []


def _whole_factor(
    factors: list[float],
    counts: list[int],
    length: int,
    batch: Mapping[str, np.ndarray],
    widths: list[int],
    dtype: str,
    names: list[str],
) -> list[Finding]:
    total = sum(counts)
    weights = {n: a for n, a in batch.items() if a.shape == (length,) and a.dtype.kind == "f" and np.isfinite(a).all()}

    def are(expected: list[float]) -> bool:
        return all(
            abs(f - e) <= (1e-7 if dtype == "float64" else 1e-3) * abs(e)
            for f, e in zip(factors, expected, strict=True)
        )

    same = constant(np.array(factors), dtype)
    known = [
        (
            [0.5] * len(factors),
            "half the reference's, as optax.l2_loss has it: use optax.squared_error, or take the factor out",
        ),
        ([2.0] * len(factors), "twice the reference's: take the 2 out, or put in the half"),
        ([float(n) for n in counts], "a sum where the reference's is a mean over the rows: divide by their number"),
        (
            [float(n * w) for n, w in zip(counts, widths, strict=True)],
            "a sum where the reference's is a mean: use the mean",
        ),
        ([float(w) for w in widths], "a sum over the columns where the reference's is a mean: use .mean(axis=1)"),
    ]
    if len(counts) > 1 and len(set(counts)) > 1:
        known.append(
            (
                [n / total for n in counts],
                "divided by the rows of the batch where the reference's divides by each head's own",
            )
        )
        known.append(
            (
                [total / n for n in counts],
                "divided by each head's own rows where the reference's divides by those of the batch",
            )
        )
    for more, less in ((1, "one too many"), (-1, "one too few")):
        rows = [n / (n + more) if n + more else 0.0 for n in counts]
        known.append((rows, f"divided by {less} rows: divide by their number"))
    if total != length:
        known.append(
            ([n / length for n in counts], "divided by all rows, padding included: divide by those that count")
        )
        known.append(
            ([total / length] * len(counts), "divided by all rows, padding included: divide by those that count")
        )
    for name, array in weights.items():
        sums = [float(array[rows].sum()) for rows in _row_sets(counts, batch, length)]
        if len(sums) == len(counts):
            text = f"divided by the sum of `{name}` where the reference's divides by the number of rows: divide by that"
            known.append(([n / s if s else 1.0 for n, s in zip(counts, sums, strict=True)], text))
    for expected, text in known + (count_causes(counts, names) if names else []):
        if are(expected) and not are([1.0] * len(factors)):
            return [Finding(f"the port's loss is {text}")]
    if are([1.0] * len(factors)):
        return [
            Finding(
                "the port's loss has another value and the same slope: a constant, a penalty on the "
                "parameters, or parts that are added up otherwise",
                certain=False,
            )
        ]
    explicit = all(float(f"{factor:.3g}") == round(factor, 9) for factor in factors)  # as people write a weight
    if same is not None:
        text = f"the port's loss is {neat(same)} times the reference's: take that factor out"
        return [Finding(text, certain=explicit)]
    shown = ", ".join(neat(factor) for factor in factors)
    text = f"the parts of the port's loss are {shown} times the reference's: weigh the heads alike"
    return [Finding(text, certain=explicit)]


def _row_sets(counts: list[int], batch: Mapping[str, np.ndarray], length: int) -> list[np.ndarray]:
    """Returns the rows of each head, from the binary entries of the batch whose numbers of rows they are."""
    names = _binary(batch)
    masks = [np.ones(length, bool), *[batch[name].astype(bool) for name in names]]
    sets = []
    for i, count in enumerate(counts):
        options = [rows & ~mask if i == 0 else rows & mask for mask in masks[1:] for rows in masks] + masks
        fitting = [option for option in options if int(option.sum()) == count]
        if fitting:
            sets.append(fitting[0])
    return sets


def _criterion(pairs: list[_Pair], batch: Mapping[str, np.ndarray]) -> list[Finding]:
    """Recognises the loss of a row by its slope, and what it is compared with."""
    for pair in pairs:
        rows = pair.rows_expected & pair.rows
        targets = {n: a for n, a in batch.items() if a.shape == pair.output.shape and a.dtype.kind == "f"}
        if not rows.any():
            continue
        weights = [np.ones(int(rows.sum()))]
        weights += [a[rows] for a in batch.values() if a.shape == (len(rows),) and a.dtype.kind == "f"]
        ours, theirs = (
            next(
                (
                    (label, name)
                    for name, target in targets.items()
                    for label, slope in _slopes(pair.output[rows], target[rows]).items()
                    if any(_proportional(side[rows], slope, w) for w in weights)
                ),
                None,
            )
            for side in (pair.actual, pair.expected)
        )
        if ours and theirs and ours[0] != theirs[0]:
            text = f"the port's loss of a row is {ours[0]} where the reference's is {theirs[0]}"
            return [Finding(f"{text}: use {theirs[0]}")]
        if ours and theirs and ours != theirs:
            text = (
                f"the port compares `{pair.name}` with `{ours[1]}` where the reference compares it with `{theirs[1]}`"
            )
            return [Finding(f"{text}: hand over the targets in the reference's order")]
    return []


def _slopes(output: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
    apart = output - target
    with np.errstate(all="ignore"):
        sigmoid = 1 / (1 + np.exp(-output))
        twice = 1 / (1 + np.exp(-sigmoid))
        return {
            "the squared error": apart,
            "the absolute error": np.sign(apart),
            "the Huber loss": np.clip(apart, -1, 1),
            "the log-cosh loss": np.tanh(apart),
            "the cross entropy of logits (optax.sigmoid_binary_cross_entropy)": sigmoid - target,
            "the cross entropy of a sigmoid taken twice": (twice - target) * sigmoid * (1 - sigmoid),
            "the cross entropy of probabilities": (output - target) / (output * (1 - output)),
            "the squared error of probabilities": (sigmoid - target) * sigmoid * (1 - sigmoid),
        }


def _proportional(side: np.ndarray, slope: np.ndarray, weights: np.ndarray) -> bool:
    predicted = slope * weights.reshape(-1, *[1] * (slope.ndim - 1))
    if not np.isfinite(predicted).all() or not np.isfinite(side).all() or not predicted.any():
        return False
    factor = float((side * predicted).sum() / (predicted**2).sum())
    return bool(np.abs(side - factor * predicted).max() <= 1e-4 * np.abs(side).max())


def _by_size(
    losses: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray], batch: Mapping[str, np.ndarray], dtype: str
) -> list[Finding]:
    """Names what the size of the loss alone says."""
    total, expected = (
        float(sum(np.asarray(part, np.float64) for part in parts.values())) for parts in (losses, theirs)
    )
    ratio = total / expected if expected else np.inf
    rows = max((a.shape[0] for a in batch.values() if a.ndim), default=1)
    known = {
        0.5: "half the reference's, as optax.l2_loss has it",
        2.0: "twice the reference's",
        rows: "a sum over the rows",
    }
    for factor, text in known.items():
        if abs(ratio - factor) <= 1e-6 * factor:
            return [Finding(f"the port's loss is {text}: change the factor", certain=False)]
    return []


def _one(pair: _Pair, dtype: str) -> float | None:
    return 1.0 if close(pair.actual, pair.expected, dtype) else None


def _ratios(pair: _Pair) -> tuple[np.ndarray, np.ndarray]:
    """Returns actual over expected, where both are there: the first column's of each row, and the rows."""
    actual, expected = (array.reshape(len(array), -1)[:, 0] for array in (pair.actual, pair.expected))
    rows = (actual != 0) & (expected != 0)
    return actual[rows] / expected[rows], rows
