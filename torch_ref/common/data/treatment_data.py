"""Data with a treatment and an outcome, its scales, and weights that make both arms count alike."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from ..checks.arguments import check_number, check_shape
from ..checks.arrays import check_arms, check_rows
from .columns import Column


@dataclass(frozen=True)
class TreatmentData:
    """Who was treated and what came out; in float64 until a training takes it.

    Nothing is checked here; the loaders and the trainings do.

    Args:
        x: the features [rows, features].
        t: the treatment [rows], 0 or 1; of several arms the place in `arms`.
        y: the outcome that was observed [rows, 1], under the treatment `t`.
        w: weights of the rows in the loss [rows], or None.
        mu0: the expected outcome without treatment [rows, 1], or None where nobody knows it.
        mu1: the expected outcome with treatment [rows, 1], or None.
        feature_names: a name for each column of `x`, or none at all.
        groups: the cluster of each row [rows], of any type, where rows of one are not independent; or None.
        arms: the label of each arm, the one to compare with first.
        columns: what the columns of `x` are, where some are categories or have gaps; None where all are numbers.
        dropped: the numbers of the source's rows that were left out, since they lacked treatment or outcome.

    Example:
        >>> data = TreatmentData(x=np.ones((4, 3)), t=np.array([0, 1, 1, 0]), y=np.ones((4, 1)))
        >>> len(data), sorted(data.arrays())
        (4, ['t', 'x', 'y'])
        >>> train, test = data.split(0.25)
        >>> len(train), len(test)
        (3, 1)
    """

    x: Float[np.ndarray, "rows features"]
    t: Int[np.ndarray, " rows"]
    y: Float[np.ndarray, "rows 1"]
    w: Float[np.ndarray, " rows"] | None = None
    mu0: Float[np.ndarray, "rows 1"] | None = None
    mu1: Float[np.ndarray, "rows 1"] | None = None
    feature_names: tuple[str, ...] = ()
    groups: Shaped[np.ndarray, " rows"] | None = None
    arms: tuple[Any, ...] = (0, 1)
    columns: tuple[Column, ...] | None = None
    dropped: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.x)

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns what `fit` takes: x, t, y, and w where there is one."""
        return {"x": self.x, "t": self.t, "y": self.y} | ({} if self.w is None else {"w": self.w})

    def take(self, rows: Int[np.ndarray, " some"]) -> "TreatmentData":
        """Returns the given rows, in that order.

        Args:
            rows: their numbers [some], from 0; one may be among them several times.

        Raises:
            IndexError: a number that no row has.
        """
        arrays = {name: getattr(self, name) for name in ("x", "t", "y", "w", "mu0", "mu1", "groups")}
        return replace(self, **{name: array[rows] for name, array in arrays.items() if array is not None})

    def split(self, share: float, seed: int = 0) -> tuple["TreatmentData", "TreatmentData"]:
        """Returns the data in two parts, drawn at random; the second has that share of the rows.

        Args:
            share: of the rows that go to the second part, above 0 and below 1.
            seed: of numpy's default generator.

        Raises:
            ValueError: `share` leaves one of the parts without a row, or `seed` is negative.
        """
        check_number("share", share, above=0, below=1)
        held_out = round(share * len(self))
        if not 0 < held_out < len(self):
            raise ValueError(f"share: expected a share that leaves rows on both sides, got {share} of {len(self)} rows")
        order = np.random.default_rng(seed).permutation(len(self))
        return self.take(order[held_out:]), self.take(order[:held_out])


def count(data: TreatmentData) -> str:
    """Says in a line how many rows, arms and features there are, and how many rows were dropped.

    Args:
        data: the rows.

    Example:
        >>> columns = Column("age", None, gaps=True), Column("city", ("Bonn", "Rome"))
        >>> x, t, y = np.array([[31.0, 0.0], [np.nan, 1.0]]), np.array([0, 1]), np.ones((2, 1))
        >>> count(TreatmentData(x, t, y, arms=("none", "drug"), columns=columns, dropped=(1,)))
        '2 rows (1 without treatment or outcome dropped), 1 of none, 1 of drug, 2 features (1 category, 1 with gaps)'
    """
    rows = np.bincount(data.t, minlength=len(data.arms)).tolist()
    return count_rows(rows, data.arms, data.x.shape[1], data.columns, len(data.dropped))


def count_rows(
    rows: Sequence[int], arms: Sequence[Any], features: int, columns: Sequence[Column] | None, dropped: int = 0
) -> str:
    """Says what `count` does, of rows that are not in memory.

    Args:
        rows: of each arm.
        arms: the label of each arm.
        features: how many there are.
        columns: what they are, where some are categories or have gaps; or None.
        dropped: how many rows were left out.
    """
    of_arms = f"{rows[1]} treated"
    if tuple(arms) != (0, 1):
        of_arms = ", ".join(f"{count} of {arm}" for arm, count in zip(arms, rows, strict=True))
    categories = sum(column.levels is not None for column in columns or ())
    gaps = sum(column.gaps for column in columns or ())
    some = [f"{categories} {'category' if categories == 1 else 'categories'}"] * bool(categories)
    some += [f"{gaps} with gaps"] * bool(gaps)
    of_features = f"{features} features" + (f" ({', '.join(some)})" if some else "")
    left_out = f" ({dropped} without treatment or outcome dropped)" if dropped else ""
    return f"{sum(rows)} rows{left_out}, {of_arms}, {of_features}"


@dataclass(frozen=True)
class Scales:
    """Means and standard deviations of features and outcome, to train on standardised numbers and come back.

    A constant column becomes zero. `Scales.of` measures them.

    Args:
        x_mean: mean of each feature [features].
        x_std: standard deviation of each feature [features], 1 where it is constant.
        y_mean: mean of the outcome [outcomes].
        y_std: standard deviation of the outcome [outcomes], 1 where it is constant.
        binary: the outcome is 0 or 1; the model gives its log odds.

    Example:
        >>> x, y = np.array([[1.0], [3.0]]), np.array([[10.0], [30.0]])
        >>> data = TreatmentData(x, np.array([0, 1]), y)
        >>> scales = Scales.of(data)
        >>> scales.standardize(data).x.tolist()
        [[-1.0], [1.0]]
        >>> scales.outcome(np.array([[0.5]])).tolist()
        [[25.0]]
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
        (x_mean, x_std), (y_mean, y_std) = moments(data.x), moments(data.y)
        if binary:
            y_mean, y_std = np.zeros_like(y_mean), np.ones_like(y_std)
        return cls(x_mean, x_std, y_mean, y_std, binary)

    def standardize(self, data: TreatmentData) -> TreatmentData:
        """Returns the data with features and outcome at mean 0 and deviation 1; `mu0`, `mu1` stay in their unit.

        Args:
            data: in its own unit, with the columns that the scales were measured on.

        Raises:
            ValueError: another number of features or of outcomes.
        """
        check_shape("y", data.y, ("rows", len(self.y_mean)))
        return replace(data, x=self.features(data.x), y=(data.y - self.y_mean) / self.y_std)

    def features(self, x: Float[np.ndarray, "rows features"]) -> Float[np.ndarray, "rows features"]:
        """Returns features at mean 0 and deviation 1, as a model takes them.

        Args:
            x: in the unit of the data [rows, features].

        Raises:
            ValueError: another number of features.
        """
        check_shape("x", x, ("rows", len(self.x_mean)))
        return (x - self.x_mean) / self.x_std

    def outcome(self, y: Float[np.ndarray, "rows outcomes"]) -> Float[np.ndarray, "rows outcomes"]:
        """Returns a model's outcomes in the unit of the data: for a binary one, as probabilities of 1.

        Args:
            y: what the model gives [rows, outcomes]: standardised outcomes, or log odds.
        """
        return sigmoid(y) if self.binary else y * self.y_std + self.y_mean


def sigmoid(logit: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Returns probabilities from log odds, however large."""
    return np.exp(-np.logaddexp(0, -logit))


def treatment_weights(
    t: Int[np.ndarray, " rows"], treated_share: float | None = None, arms: int = 2
) -> Float[np.ndarray, " rows"]:
    """Returns CFR's weights `t / 2u + (1 - t) / 2(1 - u)`, under which both arms count alike in a mean over a batch.

    Of K arms, each row weighs one over K times its arm's share.

    Args:
        t: the treatment [rows], from 0 to `arms - 1`.
        treated_share: u, the share of treated rows in the whole training; None takes it from `t`. For two arms.
        arms: how many there are.

    Returns:
        One weight for each row [rows], in float64.

    Raises:
        ValueError: `t` holds something else, or `treated_share` is not above 0 and below 1; without it, `t` lacks one
            of the arms.

    Example:
        >>> treatment_weights(np.array([0, 0, 0, 1])).round(2).tolist()
        [0.67, 0.67, 0.67, 2.0]

    Source: Shalit, Johansson, Sontag, "Estimating individual treatment effect", ICML 2017, equation 3.
    """
    t = np.asarray(t)
    check_arms("t", t, arms)
    if arms > 2:
        shares = np.bincount(t, minlength=arms) / len(t)
        return 1 / (arms * shares[t])
    share = float(t.mean()) if treated_share is None else treated_share
    check_number("treated_share", share, above=0, below=1)
    return np.where(t == 1, 1 / (2 * share), 1 / (2 * (1 - share)))


def moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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
