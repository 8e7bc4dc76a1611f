"""Where data comes from: a simulation, ACIC 2016, or a file."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..checks.arguments import check_choice, check_integer, check_shape, listed
from ..checks.arrays import check_binary, check_data
from .simulation import curves, synthetic
from .tables import Table, read_csv, read_npz, read_parquet
from .treatment_data import TreatmentData

# Columns that no model may see: the other outcome and the expected outcomes, which only simulations know.
_TRUTH = ("ycf", "mu0", "mu1")
_SUFFIXES = (".csv", ".parquet", ".npz")


def load_data(
    source: str | Path,
    *,
    treatment: str = "t",
    outcome: str = "y",
    weight: str | None = None,
    groups: str | None = None,
    replication: int = 1,
) -> TreatmentData:
    r"""Loads data by the name of its source.

    Every other column of a named table is a feature, except `mu0`, `mu1` and `ycf`, which only a simulation knows.

    Args:
        source: `synthetic`; `acic2016:N`, N from 1 to 10; or a file: .csv or .parquet with named columns, .csv without
            a header in the IHDP layout (t, y, ycf, mu0, mu1, x1, x2, …), or .npz in the IHDP layout (x, t, yf, ycf,
            mu0, mu1, with a last axis for replications or without).
        treatment: the column of a named table that says who was treated.
        outcome: the column of a named table that holds the outcome.
        weight: the column of a named table with the weights of the rows; None weighs all alike.
        groups: the column of a named table with the clusters of the rows, by number; None has none.
        replication: which replication of an .npz file, from 1.

    Returns:
        The rows, in the unit of their source, with the names of the features; `mu0` and `mu1` where the source knows
        both.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: the source needs a package that is not installed; the message names the extra.
        ValueError: an unknown source, an argument that the source has no use for, or a file that holds something else;
            file, line and column are named.

    Example:
        >>> load_data("synthetic").x.shape
        (1000, 10)
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "patients.csv")
        ...     _ = path.write_text("age,drug,days\n50,0,9.5\n60,1,7.5\n")
        ...     data = load_data(path, treatment="drug", outcome="days")
        >>> data.feature_names, data.t.tolist(), data.y.tolist()
        (('age',), [0, 1], [[9.5], [7.5]])
    """
    named = {
        "treatment": (treatment, "t"),
        "outcome": (outcome, "y"),
        "weight": (weight, None),
        "groups": (groups, None),
    }
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
    table = _read_table(path)
    if table.names is None:
        _only_defaults(source, **named)
        return _from_ihdp_columns(path, table.values)
    return _from_named_columns(path, table.names, table.values, treatment, outcome, weight, groups)


def load_features(source: str | Path, feature_names: Sequence[str]) -> np.ndarray:
    r"""Loads the features of new rows for a model that was trained on columns of these names: [rows, features].

    Args:
        source: a .csv or .parquet file with named columns, of which others than these are not looked at; a .csv file
            without a header, with these columns alone or in the IHDP layout; or an .npz file with the array x.
        feature_names: the columns, in the model's order.

    Returns:
        The features [rows, features], in the unit of the file.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: the source needs a package that is not installed; the message names the extra.
        ValueError: columns that are missing, or a file that holds something else.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "new.csv")
        ...     _ = path.write_text("id,weight,age\n7,82.5,50\n8,64.5,60\n")
        ...     load_features(path, ["age", "weight"]).tolist()
        [[50.0, 82.5], [60.0, 64.5]]
    """
    path = _existing(source)
    count = len(feature_names)
    if path.suffix == ".npz":
        arrays = read_npz(path)
        if "x" not in arrays or arrays["x"].ndim != 2 or arrays["x"].shape[1] != count:
            raise ValueError(f"{path}: expected an array x [rows, {count}], got {listed(arrays)}")
        return arrays["x"]
    table = _read_table(path)
    if table.names is None:
        columns = table.values.shape[1]
        if columns not in (count, count + 5):
            raise ValueError(f"{path}: expected {count} columns, as the model was trained on, got {columns}")
        return table.values[:, columns - count :]
    missing = [name for name in feature_names if name not in table.names]
    if missing:
        raise ValueError(
            f"{path}: expected the columns that the model was trained on, but {listed(missing)} are missing"
        )
    return table.values[:, [table.names.index(name) for name in feature_names]]


def load_curves(source: str | Path) -> dict[str, np.ndarray]:
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
    kinds = ("x1", "x2", "y1", "y2")
    if path.suffix == ".npz":
        arrays = dict(read_npz(path))
    else:
        table = _read_table(path)
        names = table.names or ()
        columns = {kind: [i for i, name in enumerate(names) if re.fullmatch(f"{kind}(_.*)?", name)] for kind in kinds}
        arrays = {kind: table.values[:, columns[kind]] for kind in kinds if columns[kind]}
    try:
        checked = check_data(arrays, kinds)
        for kind, array in checked.items():
            check_shape(kind, array, ("rows", "features"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return checked


def _acic2016(instance: str) -> TreatmentData:
    check_choice("acic2016", instance, [str(n) for n in range(1, 11)])
    try:
        from causallib.datasets import load_acic16
    except ImportError as error:
        raise ImportError("acic2016 needs causallib: pip install 'twohead[data]'") from error
    bunch: Any = load_acic16(instance=int(instance))  # a Bunch: its attributes are not typed
    x, t, y, mu = (part.to_numpy(float) for part in (bunch.X, bunch.a, bunch.y, bunch.po))
    names = tuple(map(str, bunch.X.columns))
    return TreatmentData(x, t.astype(np.int32), _column(y), None, _column(mu[:, 0]), _column(mu[:, 1]), names)


def _existing(source: str | Path) -> Path:
    path = Path(source)
    if path.suffix not in _SUFFIXES:
        raise ValueError(
            f"source: expected synthetic, acic2016:1 to acic2016:10, or a file ending in {', '.join(_SUFFIXES)}, "
            f"got {str(source)!r}"
        )
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a file, found none")
    return path


def _read_table(path: Path) -> Table:
    return read_csv(path) if path.suffix == ".csv" else read_parquet(path)


def _from_named_columns(
    path: Path,
    names: Sequence[str],
    values: np.ndarray,
    treatment: str,
    outcome: str,
    weight: str | None,
    groups: str | None,
) -> TreatmentData:
    asked = [name for name in (treatment, outcome, weight, groups) if name is not None]
    if len(set(asked)) < len(asked):
        raise ValueError(
            f"treatment, outcome, weight, groups: expected a column of its own for each, got {listed(asked)}"
        )
    missing = [name for name in asked if name not in names]
    if missing:
        raise ValueError(f"{path}: expected a column {' and '.join(map(repr, missing))}, got {listed(names)}")
    columns = dict(zip(names, values.T, strict=True))
    check_binary(f"{path}, column {treatment}", columns[treatment])
    features = [name for name in names if name not in (*asked, *_TRUTH)]
    if not features:
        raise ValueError(f"{path}: expected at least one feature besides {', '.join(asked)}, got {listed(names)}")
    known = "mu0" in names and "mu1" in names
    data = _checked(
        path,
        x=np.stack([columns[name] for name in features], axis=1),
        t=columns[treatment],
        y=columns[outcome],
        w=None if weight is None else columns[weight],
        mu0=columns["mu0"] if known else None,
        mu1=columns["mu1"] if known else None,
        names=tuple(features),
    )
    return data if groups is None else replace(data, groups=columns[groups])


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
    w: np.ndarray | None = None,
    mu0: np.ndarray | None = None,
    mu1: np.ndarray | None = None,
    names: tuple[str, ...] = (),
) -> TreatmentData:
    arrays = {"x": x, "t": t, "y": y, "w": w, "mu0": mu0, "mu1": mu1}
    try:
        checked = check_data({k: v for k, v in arrays.items() if v is not None}, ("x", "t", "y"), ("w", "mu0", "mu1"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    checked |= {name: _column(checked[name]) for name in ("y", "mu0", "mu1") if name in checked}
    return TreatmentData(**checked, feature_names=names or _names(x.shape[1]))


def _only_defaults(source: object, **arguments: tuple[object, object]) -> None:
    """Raises ValueError where an argument was given that this source has no use for."""
    for name, (value, default) in arguments.items():
        if value != default:
            raise ValueError(f"{name}: expected {default!r}, as {source} has no use for another, got {value!r}")


def _column(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1, 1)


def _names(features: int) -> tuple[str, ...]:
    return tuple(f"x{i + 1}" for i in range(features))
