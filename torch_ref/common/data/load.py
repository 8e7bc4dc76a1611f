"""Where data comes from: a simulation, ACIC 2016, or a file."""

import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..checks.arguments import check_choice, check_integer, check_shape, listed
from ..checks.arrays import check_data
from .cells import Table, open_table
from .columns import Column
from .features import to_numbers
from .from_table import from_table
from .simulation import curves, synthetic
from .tables import read_csv, read_npz, read_parquet
from .treatment_data import TreatmentData

_SUFFIXES = (".csv", ".parquet", ".npz")
CURVES = "x1", "x2", "y1", "y2"


def load_data(
    source: str | os.PathLike[str] | Table,
    *,
    treatment: str = "t",
    outcome: str = "y",
    weight: str | None = None,
    groups: str | None = None,
    replication: int = 1,
    control: object = None,
    features: Sequence[str] | None = None,
    ignore: Sequence[str] = (),
    categories: Sequence[str] = (),
    missing: Literal["error", "drop"] = "error",
) -> TreatmentData:
    r"""Loads data by the name of its source, or from a table in memory.

    Every other column of a named table is a feature, except `mu0`, `mu1` and `ycf`, which only a simulation knows: text
    and categorical dtypes are categories, numbers and truth values are numbers, and values may be missing. Rows in
    errors are counted from 0.

    Args:
        source: `synthetic`; `acic2016:N`, N from 1 to 10; a table of pandas, polars or pyarrow; or a file: .csv or
            .parquet with named columns, .csv without a header in the IHDP layout (t, y, ycf, mu0, mu1, x1, x2, …), or
            .npz in the IHDP layout (x, t, yf, ycf, mu0, mu1, with a last axis for replications or without).
        treatment: the column of a named table with the arm of each row: numbers, truth values or texts.
        outcome: the column of a named table that holds the outcome: numbers or truth values.
        weight: the column of a named table with the weights of the rows; None weighs all alike.
        groups: the column of a named table with the clusters of the rows, numbers or texts; None has none.
        replication: which replication of an .npz file, from 1.
        control: the label of the arm to compare with; None takes the first in order.
        features: the columns of a named table that are features; None takes all others.
        ignore: the columns of a named table that are no features, such as identifiers.
        categories: the features of a named table that are categories, though they look like numbers, such as codes.
        missing: rows without treatment or outcome are an `"error"`; or `"drop"` leaves them out (`dropped`).

    Returns:
        The rows, in the unit of their source, with the names of the features and the labels of the arms; `columns`
        where there are categories or gaps; `mu0` and `mu1` where the source knows both.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: the source needs a package that is not installed; the message names the extra.
        ValueError: an unknown source, an argument that the source has no use for, or a table that holds something else:
            missing treatments, outcomes, weights or groups; one arm or very many; a feature of dates, lists or bytes,
            without any value, with infinity, with a slip among its numbers, or that names single rows. File, column,
            and row or line are named.

    Example:
        >>> load_data("synthetic").x.shape
        (1000, 10)
        >>> table = {"age": [50, 60, None], "city": ["Rome", "Oslo", "Rome"], "drug": ["b", "a", "b"], "y": [9, 7, 8]}
        >>> data = load_data(table, treatment="drug")
        >>> data.x.tolist(), data.t.tolist(), data.arms
        ([[50.0, 1.0], [60.0, 0.0], [nan, 1.0]], [1, 0, 1], ('a', 'b'))
        >>> data.columns
        (Column(name='age', levels=None, gaps=True), Column(name='city', levels=('Oslo', 'Rome'), gaps=False))
    """
    named = {
        "treatment": (treatment, "t"),
        "outcome": (outcome, "y"),
        "weight": (weight, None),
        "groups": (groups, None),
        "control": (control, None),
        "features": (None if features is None else _names(features), None),
        "ignore": (_names(ignore), ()),
        "categories": (_names(categories), ()),
        "missing": (missing, "error"),
    }
    chosen: dict[str, Any] = {name: value for name, (value, _) in named.items()}
    if not isinstance(source, str | os.PathLike):
        _only_defaults("a table", replication=(replication, 1))
        return from_table(source, **chosen)
    if source == "synthetic":
        _only_defaults(source, replication=(replication, 1), **named)
        return synthetic()
    if match := re.fullmatch(r"acic2016:(.*)", str(source)):
        _only_defaults(source, replication=(replication, 1), **named)
        return _acic2016(match[1])
    path = _existing(source)
    if path.suffix == ".npz":
        _only_defaults(source, **named)
        return _from_npz(path, read_npz(path), replication)
    _only_defaults(source, replication=(replication, 1))
    table = _read_table(path, text=categories)
    if isinstance(table, np.ndarray):
        _only_defaults(source, **named)
        return _from_ihdp_columns(path, table)
    try:
        return from_table(table, **chosen)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def load_features(source: str | os.PathLike[str] | Table, columns: Sequence[Column] | Sequence[str]) -> np.ndarray:
    r"""Loads the features of new rows for a model that was trained on these columns: [rows, features].

    Args:
        source: a table of pandas, polars or pyarrow, or a .csv or .parquet file with named columns, of which others
            than these are not looked at; a .csv file without a header, with these columns alone or in the IHDP layout;
            or an .npz file with the array x. The last two hold numbers only.
        columns: `TreatmentData.columns`, in the model's order; or names, where all are numbers without gaps.

    Returns:
        The features [rows, features], in the unit of the file and as `to_numbers` gives them.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: the source needs a package that is not installed; the message names the extra.
        ValueError: columns that are missing or of another kind than in training, gaps where training had none, or a
            file that holds something else.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "new.csv")
        ...     _ = path.write_text("id,weight,age\n7,82.5,50\n8,64.5,60\n")
        ...     load_features(path, ["age", "weight"]).tolist()
        [[50.0, 82.5], [60.0, 64.5]]
    """
    known = [column if isinstance(column, Column) else Column(column) for column in columns]
    if not isinstance(source, str | os.PathLike):
        return to_numbers(source, known)
    path, count = _existing(source), len(known)
    categories = [column.name for column in known if column.levels is not None]
    if path.suffix == ".npz":
        arrays = read_npz(path)
        _check_no_categories(path, categories)
        if "x" not in arrays or arrays["x"].ndim != 2 or arrays["x"].shape[1] != count:
            raise ValueError(f"{path}: expected an array x [rows, {count}], got {listed(arrays)}")
        return arrays["x"]
    text = {column.name for column in known if column.levels and isinstance(column.levels[0], str)}
    table: Any = _read_table(path, text)
    if isinstance(table, np.ndarray):
        _check_no_categories(path, categories)
        width = table.shape[1]
        if width not in (count, count + 5):
            raise ValueError(f"{path}: expected {count} columns, as the model was trained on, got {width}")
        return table[:, width - count :]
    try:
        return to_numbers(table, known)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def load_curves(source: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Loads data for the two-input/two-output model: arrays x1, x2, y1 and y2, each [rows, features].

    Args:
        source: `synthetic`, the article's curves; or a file: .csv or .parquet whose columns are named x1, x2, y1, y2,
            or x1_a, x1_b, … where there are several of a kind; or .npz with these four arrays.

    Returns:
        The four arrays by name, in float64 and in the unit of the file.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: the source needs a package that is not installed; the message names the extra.
        ValueError: a source of another kind, or a file that holds something else.

    Example:
        >>> {name: array.shape for name, array in load_curves("synthetic").items()}
        {'x1': (100, 1), 'x2': (100, 1), 'y1': (100, 1), 'y2': (100, 1)}
    """
    if source == "synthetic":
        return curves()
    if str(source).startswith("acic2016:"):
        raise ValueError(
            f"source: expected data with two inputs and two outputs, got {source}: one input, one treatment"
        )
    path = _existing(source)
    table: Any = read_npz(path) if path.suffix == ".npz" else _read_table(path)
    try:
        checked = check_data(table if isinstance(table, dict) else _curves(table), CURVES)
        for kind, array in checked.items():
            check_shape(kind, array, ("rows", "features"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return checked


def curve_columns(names: Iterable[str]) -> dict[str, list[str]]:
    """Returns the columns of each kind, x1, x2, y1 and y2, of which there may be several; none for a missing kind.

    Args:
        names: of all columns.
    """
    columns = {kind: [name for name in names if re.fullmatch(f"{kind}(_.*)?", name)] for kind in CURVES}
    return {kind: of_kind for kind, of_kind in columns.items() if of_kind}


def _curves(table: Any) -> dict[str, np.ndarray]:
    """Returns the columns of each kind in a table; numbers without a header are of none."""
    if isinstance(table, np.ndarray):
        return {}
    columns = curve_columns(tuple(open_table(table)))
    return {kind: to_numbers(table, list(map(Column, names))) for kind, names in columns.items()}


def _acic2016(instance: str) -> TreatmentData:
    check_choice("acic2016", instance, [str(n) for n in range(1, 11)])
    try:
        from causallib.datasets import load_acic16
    except ImportError as error:
        raise ImportError("acic2016 needs causallib: pip install 'twohead[data]'") from error
    table, known = load_acic16(instance=int(instance), raw=True)
    mean = {name: known[name] for name in ("mu0", "mu1")}
    return from_table(table.assign(t=known["z"], y=np.where(known["z"] == 1, known["y1"], known["y0"]), **mean))


def _existing(source: str | os.PathLike[str]) -> Path:
    path = Path(source)
    if path.suffix not in _SUFFIXES:
        raise ValueError(
            f"source: expected synthetic, acic2016:1 to acic2016:10, or a file ending in {', '.join(_SUFFIXES)}, "
            f"got {str(source)!r}"
        )
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a file, found none")
    return path


def _read_table(path: Path, text: Collection[str] = ()) -> Any:
    return read_csv(path, text) if path.suffix == ".csv" else read_parquet(path)


def _check_no_categories(path: Path, categories: Sequence[str]) -> None:
    if categories:
        got = f"a file without names, which holds no {listed(categories)}"
        raise ValueError(f"{path}: expected columns by name, as some are categories, got {got}")


def _from_ihdp_columns(path: Path, values: np.ndarray) -> TreatmentData:
    if values.shape[1] < 6:
        raise ValueError(
            f"{path}: expected a header, or columns t, y, ycf, mu0, mu1, x1, …, got {values.shape[1]} columns"
        )
    t, y, _, mu0, mu1 = values[:, :5].T
    return _checked(path, x=values[:, 5:], t=t, y=y, mu0=mu0, mu1=mu1)


def _from_npz(path: Path, arrays: Mapping[str, np.ndarray], replication: int) -> TreatmentData:
    missing = [name for name in ("x", "t", "yf") if name not in arrays]
    if missing:
        raise ValueError(f"{path}: expected the arrays x, t, yf, got {listed(arrays)}")
    check_integer("replication", replication, at_least=1)
    chosen: dict[str, np.ndarray] = {}
    for name in ("x", "t", "yf", "mu0", "mu1"):
        if name in arrays:
            array, axes = arrays[name], 2 if name == "x" else 1
            if array.ndim == axes + 1:
                if replication > array.shape[-1]:
                    raise ValueError(
                        f"replication: expected 1 to {array.shape[-1]}, as {path} holds, got {replication}"
                    )
                array = array[..., replication - 1]
            if array.ndim != axes:
                raise ValueError(f"{path}: {name}: expected {axes} or {axes + 1} axes, got {arrays[name].ndim}")
            chosen[name] = array
    return _checked(path, x=chosen["x"], t=chosen["t"], y=chosen["yf"], mu0=chosen.get("mu0"), mu1=chosen.get("mu1"))


def _checked(
    path: Path,
    *,
    x: np.ndarray,
    t: np.ndarray,
    y: np.ndarray,
    mu0: np.ndarray | None = None,
    mu1: np.ndarray | None = None,
) -> TreatmentData:
    arrays = {"x": x, "t": t, "y": y, "mu0": mu0, "mu1": mu1}
    try:
        checked = check_data({k: v for k, v in arrays.items() if v is not None}, ("x", "t", "y"), ("mu0", "mu1"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    checked |= {name: _column(checked[name]) for name in ("y", "mu0", "mu1") if name in checked}
    x, t, y = (checked[name] for name in ("x", "t", "y"))
    return TreatmentData(
        x, t, y, None, checked.get("mu0"), checked.get("mu1"), tuple(f"x{i + 1}" for i in range(x.shape[1]))
    )


def _only_defaults(source: object, **arguments: tuple[object, object]) -> None:
    """Raises ValueError where an argument was given that this source has no use for."""
    for name, (value, default) in arguments.items():
        if value != default:
            raise ValueError(f"{name}: expected {default!r}, as {source} has no use for another, got {value!r}")


def _column(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1, 1)


def _names(names: Sequence[str]) -> Sequence[str]:
    """Returns names as a tuple; a text, which is refused later, as it is."""
    return names if isinstance(names, str) else tuple(names)
