"""From a table of named columns to features, treatment and outcome."""

from collections.abc import Collection, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float64, Int, Shaped

from ..checks.arguments import check_choice, listed, shown
from ..checks.arrays import check_data
from .arms import code_arms
from .cells import Cells, Table, as_number, check_labels, open_table, read_cells
from .columns import Column
from .features import check_rows, check_text, code_cells, describe_cells
from .treatment_data import TreatmentData

# Columns that no model may see: the other outcome and the expected outcomes, which only simulations know.
_TRUTH = ("ycf", "mu0", "mu1")


def from_table(
    table: Table,
    *,
    treatment: str = "t",
    outcome: str = "y",
    weight: str | None = None,
    groups: str | None = None,
    control: object = None,
    features: Sequence[str] | None = None,
    ignore: Sequence[str] = (),
    categories: Sequence[str] = (),
    missing: Literal["error", "drop"] = "error",
) -> TreatmentData:
    """Returns the rows of a table; what the arguments are, and what is refused, says `load_data`.

    Rows in errors are counted from 0 in the table as it is, dropped ones too.

    Args:
        table: of pandas, polars or pyarrow, or arrays [rows] by name.
        treatment: the column with the arms.
        outcome: the column with the outcome.
        weight: the column with the weights, or None.
        groups: the column with the clusters, or None.
        control: the label of the arm to compare with; None takes the first.
        features: the columns that are features; None takes all others.
        ignore: columns that are no features.
        categories: features that are categories, whatever their dtype.
        missing: whether rows without treatment or outcome are an error, or dropped.

    Raises:
        ValueError: as `load_data`.

    Example:
        >>> data = from_table({"age": [50, 60, 70], "drug": ["a", "b", "a"], "y": [1.5, 2.5, 3.5]}, treatment="drug")
        >>> data.t.tolist(), data.arms
        ([0, 1, 0], ('a', 'b'))
    """
    columns = open_table(table)
    check_choice("missing", missing, ("error", "drop"))
    asked = [name for name in (treatment, outcome, weight, groups) if name is not None]
    features = choose_features(tuple(columns), asked, features, ignore, categories)
    check_rows(columns)
    arm, y = read_cells(treatment, columns[treatment]), _outcome(outcome, columns[outcome])
    check_text(treatment, arm, numbers=True)
    check_labels(treatment, arm)
    dropped = arm.gaps | np.isnan(y)
    if missing == "error":
        _check_complete(treatment, arm.gaps, _DROP)
        _check_complete(outcome, np.isnan(y), _DROP)
    kept = np.flatnonzero(~dropped)
    if not len(kept):
        raise ValueError(f"expected rows with {treatment} and {outcome}, got {len(dropped)} that lack one of them")
    t, arms = code_arms((arm.values.astype(bool) if arm.truth else arm.values)[kept], control, arm.order)
    described, x = _features({name: columns[name] for name in features}, categories, kept)
    known = "mu0" in columns and "mu1" in columns
    numbers = {"w": weight, "mu0": "mu0" if known else None, "mu1": "mu1" if known else None}
    arrays = {of: _numbers(name, columns[name], dropped) for of, name in numbers.items() if name is not None}
    if arrays:
        arrays = {of: array[kept] for of, array in check_data(arrays, tuple(arrays)).items()}
    return TreatmentData(
        x=x,
        t=t,
        y=y[kept, None],
        w=arrays.get("w"),
        mu0=arrays["mu0"][:, None] if known else None,
        mu1=arrays["mu1"][:, None] if known else None,
        feature_names=features,
        groups=None if groups is None else _groups(groups, columns[groups], dropped)[kept],
        arms=arms,
        columns=None if all(column.levels is None and not column.gaps for column in described) else described,
        dropped=tuple(np.flatnonzero(dropped).tolist()),
    )


_DROP = "; drop such rows by missing='drop' or --drop-missing"


def choose_features(
    columns: Sequence[str],
    asked: Sequence[str],
    features: Sequence[str] | None,
    ignore: Sequence[str],
    categories: Sequence[str],
) -> tuple[str, ...]:
    """Returns the names of the features.

    Args:
        columns: all names of the table.
        asked: the names of treatment, outcome and the like.
        features: as for `load_data`.
        ignore: as for `load_data`.
        categories: as for `load_data`.

    Raises:
        ValueError: names that are no columns, or that are asked for twice; no feature is left.
    """
    _check_names(columns, asked)
    others = [name for name in columns if name not in asked]
    _check_chosen("features", features or (), others)
    _check_chosen("ignore", ignore, others)
    chosen = tuple(name for name in (others if features is None else features) if name not in (*ignore, *_TRUTH))
    _check_chosen("categories", categories, chosen)
    if not chosen:
        raise ValueError(f"expected at least one feature besides {', '.join(asked)}, got {listed(columns)}")
    return chosen


def _check_names(columns: Sequence[str], asked: Sequence[str]) -> None:
    if len(set(asked)) < len(asked):
        expected = "a column of its own for each"
        raise ValueError(f"treatment, outcome, weight, groups: expected {expected}, got {listed(asked)}")
    absent = [name for name in asked if name not in columns]
    if absent:
        raise ValueError(f"expected a column {' and '.join(map(repr, absent))}, got {listed(columns)}")


def _check_chosen(argument: str, chosen: Sequence[str], features: Collection[str]) -> None:
    if isinstance(chosen, str):
        raise ValueError(f"{argument}: expected names of columns in a list, got {shown(chosen)}")
    wrong = [name for place, name in enumerate(chosen) if name not in features or name in chosen[:place]]
    if wrong:
        raise ValueError(f"{argument}: expected names of features, each once, got {listed(wrong)}")


def _features(
    columns: dict[str, Any], categories: Sequence[str], kept: Int[np.ndarray, " kept"]
) -> tuple[tuple[Column, ...], Float64[np.ndarray, "kept features"]]:
    """Returns what the features are in the rows that are kept, and their numbers; one error names all that are none."""
    described, arrays, refused = [], [], {}
    for name, column in columns.items():
        try:
            cells = read_cells(name, column)
            if name in categories:
                check_labels(name, cells)
                cells = cells.as_categories()
            check_text(name, cells)
            cells = cells.take(kept)
            described.append(describe_cells(name, cells))
            arrays.append(code_cells(described[-1], cells))
        except ValueError as error:
            refused[name] = error
    if refused:
        (_, error), *others = refused.items()
        more = f"; refused as well: {listed(name for name, _ in others)}" if others else ""
        raise ValueError(f"{error}{more}") from error
    return tuple(described), np.stack(arrays, axis=1)


def _outcome(name: str, column: Any) -> Float64[np.ndarray, " rows"]:
    """Returns the outcome, with NaN where it is missing."""
    cells = read_cells(name, column)
    if cells.kind == "nothing":
        return np.full(len(cells.values), np.nan)
    if cells.kind == "numbers":
        return cells.values
    levels = sorted({value for value in cells.values if value is not None}, key=str)
    if len(levels) == 2 and all(isinstance(level, str) and np.isnan(as_number(level)) for level in levels):
        no, yes = map(shown, levels)
        raise ValueError(f"column {name}: expected numbers, got {no} and {yes}; code them as 0 and 1, and say that the "
                         "outcome is binary (--binary)")  # fmt: skip
    _refuse_text(name, cells)
    return cells.values


def _numbers(name: str, column: Any, dropped: Bool[np.ndarray, " rows"]) -> Float64[np.ndarray, " rows"]:
    """Returns numbers of every row but the dropped ones, which are 0 there."""
    cells = read_cells(name, column)
    if cells.kind in ("text", "categories"):
        _refuse_text(name, cells)
    _check_complete(name, cells.gaps & ~dropped)
    return np.where(dropped, 0.0, np.zeros(len(dropped)) if cells.kind == "nothing" else cells.values)


def _groups(name: str, column: Any, dropped: Bool[np.ndarray, " rows"]) -> Shaped[np.ndarray, " rows"]:
    """Returns the clusters: texts or numbers; whole ones as they are, since float64 would merge large ones."""
    cells = read_cells(name, column)
    _check_complete(name, cells.gaps & ~dropped)
    if cells.kind == "numbers":
        array = np.asarray(column)
        return array if array.dtype.kind in "iu" else cells.values
    return np.array(["" if value is None else str(value) for value in cells.values])


def _refuse_text(name: str, cells: Cells) -> None:
    """Raises ValueError that names the first cell which is no number."""
    for row, value in enumerate(cells.values):
        if isinstance(value, str) and not np.isfinite(as_number(value)):
            raise ValueError(f"column {name}: expected numbers, got {shown(value)} in row {row}")
    raise ValueError(f"column {name}: expected numbers, got {cells.kind}")


def _check_complete(name: str, gaps: Bool[np.ndarray, " rows"], advice: str = "") -> None:
    rows = np.flatnonzero(gaps)
    if len(rows):
        where = f"row{'s' * (len(rows) > 1)} {listed(rows)}"
        raise ValueError(f"column {name}: expected a value in every row, got none in {where}{advice}")
