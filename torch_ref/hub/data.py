"""Data with a treatment and an outcome: made up, from ACIC 2016, or from a file; and the article's curves."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from .checks import (
    check_binary,
    check_choice,
    check_data,
    check_integer,
    check_number,
    check_rows,
    check_shape,
    listed,
)
from .tables import Table, read_csv, read_npz, read_parquet

# Columns that no model may see: the other outcome and the expected outcomes, which only simulations know.
_TRUTH = ("ycf", "mu0", "mu1")
_SUFFIXES = (".csv", ".parquet", ".npz")


@dataclass(frozen=True)
class TreatmentData:
    """Who was treated and what came out; in float64 until a training takes it.

    Attributes:
        x: the features.
        t: the treatment, 0 or 1.
        y: the outcome that was observed, under the treatment `t`.
        w: weights of the rows in the loss, or None.
        mu0: the expected outcome without treatment, or None where nobody knows it.
        mu1: the expected outcome with treatment, or None.
        feature_names: a name for each column of `x`.
    """

    x: Float[np.ndarray, "rows features"]
    t: Int[np.ndarray, " rows"]
    y: Float[np.ndarray, "rows 1"]
    w: Float[np.ndarray, " rows"] | None = None
    mu0: Float[np.ndarray, "rows 1"] | None = None
    mu1: Float[np.ndarray, "rows 1"] | None = None
    feature_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.x)

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns what `fit` takes: x, t, y, and w where there is one."""
        return {"x": self.x, "t": self.t, "y": self.y} | ({} if self.w is None else {"w": self.w})

    def take(self, rows: Int[np.ndarray, " some"]) -> "TreatmentData":
        """Returns the given rows."""
        arrays = {name: getattr(self, name) for name in ("x", "t", "y", "w", "mu0", "mu1")}
        return replace(self, **{name: array[rows] for name, array in arrays.items() if array is not None})

    def split(self, share: float, seed: int = 0) -> tuple["TreatmentData", "TreatmentData"]:
        """Returns the data in two parts, drawn at random; the second has that share of the rows.

        Raises:
            ValueError: `share` leaves one of the parts without a row.
        """
        check_number("share", share, above=0, below=1)
        held_out = round(share * len(self))
        if not 0 < held_out < len(self):
            raise ValueError(f"share: expected a share that leaves rows on both sides, got {share} of {len(self)} rows")
        order = np.random.default_rng(seed).permutation(len(self))
        return self.take(order[held_out:]), self.take(order[:held_out])


@dataclass(frozen=True)
class Scales:
    """Means and standard deviations of features and outcome, to train on standardised numbers and come back.

    A constant column becomes zero.

    Attributes:
        x_mean: mean of each feature.
        x_std: standard deviation of each feature, 1 where it is constant.
        y_mean: mean of the outcome.
        y_std: standard deviation of the outcome, 1 where it is constant.
        binary: the outcome is 0 or 1; the model gives its log odds.
    """

    x_mean: Float[np.ndarray, " features"]
    x_std: Float[np.ndarray, " features"]
    y_mean: Float[np.ndarray, " outcomes"]
    y_std: Float[np.ndarray, " outcomes"]
    binary: bool = False

    @classmethod
    def of(cls, data: TreatmentData, binary: bool = False) -> "Scales":
        """Returns the scales of the given rows: of the training rows, for all others too.

        Args:
            data: the rows to measure.
            binary: the outcome is 0 or 1 and stays so; the model gives its log odds.

        Raises:
            ValueError: there are no rows.
        """
        check_rows("data", data)
        (x_mean, x_std), (y_mean, y_std) = _moments(data.x), _moments(data.y)
        if binary:
            y_mean, y_std = np.zeros_like(y_mean), np.ones_like(y_std)
        return cls(x_mean, x_std, y_mean, y_std, binary)

    def standardize(self, data: TreatmentData) -> TreatmentData:
        """Returns the data with features and outcome at mean 0 and deviation 1; `mu0`, `mu1` stay in their unit."""
        return replace(data, x=(data.x - self.x_mean) / self.x_std, y=(data.y - self.y_mean) / self.y_std)

    def outcome(self, y: Float[np.ndarray, "rows outcomes"]) -> Float[np.ndarray, "rows outcomes"]:
        """Returns a model's outcomes in the unit of the data: for a binary one, as probabilities of 1."""
        return np.exp(-np.logaddexp(0, -y)) if self.binary else y * self.y_std + self.y_mean


def load_data(
    source: str | Path, *, treatment: str = "t", outcome: str = "y", weight: str | None = None, replication: int = 1
) -> TreatmentData:
    """Loads data by the name of its source.

    Args:
        source: `synthetic`; `acic2016:N`, N from 1 to 10; or a file: .csv or .parquet with named columns, .csv without
            a header in the IHDP layout (t, y, ycf, mu0, mu1, x1, x2, …), or .npz in the IHDP layout (x, t, yf, ycf,
            mu0, mu1, with a last axis for replications or without).
        treatment: the column of a named table that says who was treated.
        outcome: the column of a named table that holds the outcome.
        weight: the column of a named table with the weights of the rows; None weighs all alike.
        replication: which replication of an .npz file, from 1.

    Every other column of a named table is a feature, except `mu0`, `mu1` and `ycf`, which only a simulation knows.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: the source needs a package that is not installed; the message names the extra.
        ValueError: an unknown source, an argument that the source has no use for, or a file that holds something else;
            file, line and column are named.
    """
    named = {"treatment": (treatment, "t"), "outcome": (outcome, "y"), "weight": (weight, None)}
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
    return _from_named_columns(path, table.names, table.values, treatment, outcome, weight)


def load_curves(source: str | Path) -> dict[str, np.ndarray]:
    """Loads data for the two-input/two-output model: arrays x1, x2, y1 and y2, each [rows, features].

    Args:
        source: `synthetic`, the article's curves; or a file: .csv or .parquet whose columns are named x1, x2, y1, y2,
            or x1_a, x1_b, … where there are several of a kind; or .npz with these four arrays.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: the source needs a package that is not installed; the message names the extra.
        ValueError: a source of another kind, or a file that holds something else.
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


def treatment_weights(t: Int[np.ndarray, " rows"], treated_share: float | None = None) -> Float[np.ndarray, " rows"]:
    """Returns CFR's weights `t / 2u + (1 - t) / 2(1 - u)`, under which both arms count alike in a mean over a batch.

    Args:
        t: the treatment, 0 or 1.
        treated_share: u, the share of treated rows in the whole training; None takes it from `t`.

    Raises:
        ValueError: `t` holds something else, or `treated_share` is not above 0 and below 1.

    Source: Shalit, Johansson, Sontag, "Estimating individual treatment effect", ICML 2017, equation 3.
    """
    t = np.asarray(t)
    check_binary("t", t)
    share = float(t.mean()) if treated_share is None else treated_share
    check_number("treated_share", share, above=0, below=1)
    return np.where(t == 1, 1 / (2 * share), 1 / (2 * (1 - share)))


def synthetic(rows: int = 1000, features: int = 10, seed: int = 0) -> TreatmentData:
    """Draws confounded data with known effects: who would do well anyway is treated more often.

    A difference of means is about twice the average effect, so that a model of both outcomes is needed.

    Args:
        rows: the number of rows.
        features: the number of features, standard normal, at least 4; the first four matter.
        seed: of numpy's default generator.
    """
    check_integer("rows", rows, at_least=1)
    check_integer("features", features, at_least=4)
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((rows, features))
    propensity = 1 / (1 + np.exp(-(0.8 * x[:, 0] + 0.4 * x[:, 1])))
    t = (generator.random(rows) < propensity).astype(np.int32)
    mu0 = x[:, 0] + 0.5 * x[:, 1] * x[:, 2] + np.sin(2 * x[:, 3])
    mu1 = mu0 + 1 + 0.5 * x[:, 0] + np.tanh(x[:, 1])
    y = np.where(t == 1, mu1, mu0) + 0.3 * generator.standard_normal(rows)
    return TreatmentData(x, t, _column(y), mu0=_column(mu0), mu1=_column(mu1), feature_names=_names(features))


def curves(points: int = 100, seed: int = 0) -> dict[str, np.ndarray]:
    """Draws the article's data: x1 and x2 evenly from -1 to 1, y1 and y2 their cubes plus 0.1 of normal noise."""
    check_integer("points", points, at_least=1)
    generator = np.random.default_rng(seed)
    x = np.linspace(-1, 1, points)[:, None]
    y1, y2 = (x**3 + 0.1 * generator.standard_normal(x.shape) for _ in range(2))
    return {"x1": x, "x2": x.copy(), "y1": y1, "y2": y2}


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
    path: Path, names: Sequence[str], values: np.ndarray, treatment: str, outcome: str, weight: str | None
) -> TreatmentData:
    asked = [treatment, outcome] + ([] if weight is None else [weight])
    if len(set(asked)) < len(asked):
        raise ValueError(f"treatment, outcome, weight: expected a column of its own for each, got {listed(asked)}")
    missing = [name for name in asked if name not in names]
    if missing:
        raise ValueError(f"{path}: expected a column {' and '.join(map(repr, missing))}, got {listed(names)}")
    columns = dict(zip(names, values.T, strict=True))
    check_binary(f"{path}, column {treatment}", columns[treatment])
    features = [name for name in names if name not in (*asked, *_TRUTH)]
    if not features:
        raise ValueError(f"{path}: expected at least one feature beside {', '.join(asked)}, got {listed(names)}")
    known = "mu0" in names and "mu1" in names
    return _checked(
        path,
        x=np.stack([columns[name] for name in features], axis=1),
        t=columns[treatment],
        y=columns[outcome],
        w=None if weight is None else columns[weight],
        mu0=columns["mu0"] if known else None,
        mu1=columns["mu1"] if known else None,
        names=tuple(features),
    )


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


def _moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and standard deviation of each column; a constant one has itself and 1."""
    low, high = values.min(axis=0), values.max(axis=0)
    # From the lowest on, and as shares of the range: squares of large and of small numbers leave float64, and close
    # numbers lose their difference. Powers of two round nothing.
    above = values / 2 - low / 2
    _, exponent = np.frexp(above.max(axis=0))
    shares = np.ldexp(above, -exponent)
    mean = 2 * (low / 2 + np.ldexp(shares.mean(axis=0), exponent))
    std = 2 * np.ldexp(shares.std(axis=0), exponent)
    constant = (low == high) | (std == 0)
    return np.where(constant, low, mean), np.where(constant, 1, std)


def _names(features: int) -> tuple[str, ...]:
    return tuple(f"x{i + 1}" for i in range(features))
