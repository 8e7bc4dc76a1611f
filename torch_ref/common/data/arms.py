"""Treatments of any label as numbers: which arms there are, and which of them a row is in."""

from collections.abc import Sequence
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
from jaxtyping import Int32, Shaped

from ..checks.arguments import listed, shown
from .cells import as_number

_MOST_ARMS = 20


def code_arms(
    values: Shaped[np.ndarray, " rows"], control: object = None, order: Sequence[Any] = ()
) -> tuple[Int32[np.ndarray, " rows"], tuple[Any, ...]]:
    """Numbers the arms of a treatment from 0: the control first, and the others in their order.

    Args:
        values: the label of each row's arm [rows]: numbers, truth values or texts, none missing.
        control: the label of the arm to compare with, or its text; None takes the first.
        order: of all labels; none sorts them.

    Returns:
        The number of each row's arm [rows], and the label of each arm.

    Raises:
        ValueError: a missing value, dates and the like, texts among numbers, a single arm, more than 20 of them, hardly
            more rows than arms, arms that differ in capitals or spaces only, or a control that is no arm.

    Example:
        >>> code_arms(np.array(["low", "none", "high", "none", "low", "high"]), control="none")
        (array([2, 0, 1, 0, 2, 1], dtype=int32), ('none', 'high', 'low'))
        >>> code_arms(np.array([True, False]))[1], code_arms(np.array([1.0, 0.0]))[1]
        ((False, True), (0, 1))
    """
    labels = [_label(value) for value in np.asarray(values).tolist()]
    gaps = [row for row, label in enumerate(labels) if label is None or label != label]
    if gaps:
        raise ValueError(f"treatment: expected an arm in every row, got none in row {listed(gaps)}")
    _check_kinds(np.asarray(values).dtype, labels)
    present = set(labels)
    arms = [label for label in order if label in present] or sorted(present)
    if len(arms) < 2:
        raise ValueError(f"treatment: expected at least two arms, got {listed(map(shown, arms))} in every row")
    if len(arms) > _MOST_ARMS or (len(arms) > 2 and 2 * len(arms) > len(labels)):
        expected = f"at most {_MOST_ARMS} arms, and several rows in each"
        got = f"{len(arms)} different values in {len(labels)} rows, such as {', '.join(map(shown, arms[:3]))}"
        advice = "" if isinstance(arms[0], str) else "; cut a dose into a few arms first"
        raise ValueError(f"treatment: expected {expected}, got {got}{advice}")
    folded: dict[Any, Any] = {}
    for label in arms:
        alike = folded.setdefault(label.strip().casefold() if isinstance(label, str) else label, label)
        if alike != label:
            got = f"{shown(alike)} and {shown(label)}"
            raise ValueError(f"treatment: expected arms that differ in more than capitals and spaces, got {got}")
    if control is not None:
        first = _control(control, arms)
        arms = [arms[first], *arms[:first], *arms[first + 1 :]]
    places = {label: place for place, label in enumerate(arms)}
    return np.array([places[label] for label in labels], np.int32), tuple(arms)


def find_arms(values: Shaped[np.ndarray, " rows"], arms: Sequence[Any]) -> Int32[np.ndarray, " rows"]:
    """Returns the place of each row's label among arms that are known.

    Args:
        values: the label of each row's arm [rows].
        arms: the label of each arm.

    Raises:
        ValueError: a label that no arm has.

    Example:
        >>> find_arms(np.array(["drug", "none"]), ("none", "drug")).tolist()
        [1, 0]
    """
    places = {label: place for place, label in enumerate(arms)}
    labels = [_label(value) for value in np.asarray(values).tolist()]
    for row, label in enumerate(labels):
        if label not in places:
            raise ValueError(f"treatment: expected one of {listed(map(shown, arms))}, got {shown(label)} in row {row}")
    return np.array([places[label] for label in labels], np.int32)


def _check_kinds(dtype: np.dtype[Any], labels: Sequence[Any]) -> None:
    """Raises ValueError unless labels are all texts, or all numbers: others have no order, and no place in a file."""
    if dtype.kind in "mM":  # numpy gives them as whole numbers
        raise ValueError(f"treatment: expected texts, numbers or truth values, got {dtype}")
    text = isinstance(labels[0], str) if labels else False
    for row, label in enumerate(labels):
        if not isinstance(label, str | Real):
            raise ValueError(f"treatment: expected texts, numbers or truth values, got {shown(label)} in row {row}")
        if isinstance(label, str) != text:
            got = f"{shown(labels[0])} in row 0 and {shown(label)} in row {row}"
            raise ValueError(f"treatment: expected texts only or numbers only, got {got}")


def _label(value: Any) -> Any:
    """Returns whole numbers as such: a column with gaps holds them as 0.0 and 1.0."""
    value = float(value) if isinstance(value, Decimal) else value
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _control(control: object, arms: Sequence[Any]) -> int:
    """Returns the place of the control; a command line has it as text."""
    if isinstance(control, str):
        texts = [str(arm) for arm in arms]
        if control in texts:
            return texts.index(control)
        folded = [str(arm).lower() if isinstance(arm, bool) else None for arm in arms]
        if control.lower() in folded:  # as files have truth values: TRUE, true
            return folded.index(control.lower())
        if (number := as_number(control)) in arms:  # 1.0 for 1
            return arms.index(number)
    elif control in arms:
        return arms.index(control)
    raise ValueError(f"control: expected one of {listed(map(shown, arms))}, got {shown(control)}")
