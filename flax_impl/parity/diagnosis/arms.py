"""Recognises what goes wrong with several arms: rows of another arm, counts of another arm."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from ..report.entries import Finding


class Trained(NamedTuple):
    """Which rows train a head: those at which a gradient arrives at its output.

    Attributes:
        name: of the head.
        rows: in the port [batch].
        rows_expected: in the reference [batch].
    """

    name: str
    rows: Bool[np.ndarray, " batch"]
    rows_expected: Bool[np.ndarray, " batch"]


def arm_findings(heads: Sequence[Trained], batch: Mapping[str, np.ndarray]) -> list[Finding]:
    """Returns how the port picks the rows of more than two heads, where it picks others than the reference."""
    if len(heads) < 3:
        return []
    for name, t in batch.items():
        if t.ndim != 1 or t.dtype.kind not in "iu" or len(t) != len(heads[0].rows):
            continue
        own = {head.name: set(t[head.rows_expected].tolist()) for head in heads}
        arms = [arm for of_head in own.values() for arm in of_head]
        if len(set(arms)) < len(arms) or len(arms) < 2 or any(len(of_head) > 1 for of_head in own.values()):
            continue  # it does not say which head a row trains
        home = {arm: head for head, of_head in own.items() for arm in of_head}
        for head in heads:
            got = set(t[head.rows].tolist())
            if own[head.name] < got and len(got) > 1:
                text = f"the port trains `{head.name}` on rows of other arms too"
                return [Finding(f"{text}: put zeros into the outcomes of the others' rows before they are added")]
            if len(got) == 1 and got != own[head.name] and (arm := got.pop()) in home:
                text = f"the port trains `{head.name}` on the rows of `{home[arm]}`"
                return [Finding(f"{text}: look at how the head is picked; `{name}` is its number")]
    return []


def count_causes(counts: Sequence[int], names: Sequence[str]) -> list[tuple[list[float], str]]:
    """Returns the factors of the parts of a loss that divides by the rows of other arms, and words for each.

    Args:
        counts: of the rows that train each head.
        names: of the heads.
    """
    total = sum(counts)
    found = []
    for count, name in zip(counts, names, strict=True):
        text = f"divided by the rows of `{name}` in every part: divide each by its own"
        found.append(([n / count for n in counts], text))
        if count < total:
            text = f"divided by the rows of the batch without those of `{name}`: divide by all that count"
            found.append(([total / (total - count)] * len(counts), text))
    return found
