"""In what the rows with the least and the most effect differ (CLAN)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from torch_ref.common.checks.arguments import check_shape
from torch_ref.common.data.columns import Column

from ..judging.columns import check_columns, cluster_places, row_weights
from ..judging.estimates import AverageEffect, check_alpha, covariance, estimate_of
from .policy import Labels
from .questions import check_table, named_columns


@dataclass(frozen=True)
class GroupFeatures:
    """In what the groups with the least and the most effect differ; `print` shows it. `group_features` makes it.

    Args:
        names: of the features; a category has a line for each level, and a column with gaps one for what is missing.
        least: their means in the first group [features].
        most: their means in the last group [features].
        difference: of the two, with its interval.
        alpha: the share of intervals that may miss.

    Example:
        >>> one = AverageEffect(value=2.0, standard_error=0.5, low=1.0, high=3.0, rows=60)
        >>> print(GroupFeatures(("age",), np.array([40.0]), np.array([42.0]), (one,)))
                           least        most  difference          95% interval
        age                   40          42           2                1 to 3
    """

    names: tuple[str, ...]
    least: Float[np.ndarray, " features"]
    most: Float[np.ndarray, " features"]
    difference: tuple[AverageEffect, ...]
    alpha: float = 0.05

    def __str__(self) -> str:
        wide = max(12, *map(len, self.names))
        interval = f"{100 * (1 - self.alpha):.3g}% interval"
        lines = [f"{'':{wide}}{'least':>12}{'most':>12}{'difference':>12}{interval:>22}"]
        for name, least, most, one in zip(self.names, self.least, self.most, self.difference, strict=True):
            between = f"{one.low:.4g} to {one.high:.4g}"
            lines.append(f"{name:{wide}}{least:>12.4g}{most:>12.4g}{one.value:>12.4g}  {between:>20}")
        return "\n".join(lines)


def group_features(
    x: Float[np.ndarray, "rows features"],
    quantile: Int[np.ndarray, " rows"],
    *,
    w: Float[np.ndarray, " rows"] | None = None,
    groups: Labels | None = None,
    columns: Sequence[str | Column] | None = None,
    alpha: float = 0.05,
) -> GroupFeatures:
    """Returns the mean features of the rows with the least and with the most effect (CLAN), and their differences.

    Args:
        x: the features [rows, features]; a category as the place of its level, NaN where a value is missing.
        quantile: the place of each row's group [rows], as `group_effects` has it: the first and the last are compared.
        w: how many rows of the population each row stands for [rows], in any unit; None for the same.
        groups: the cluster of each row [rows], of any type, where rows of one cluster are not independent.
        columns: a name for each column of numbers, or what the columns are, as `TreatmentData` has it; none for x1, x2.
        alpha: the share of intervals that may miss.

    Returns:
        A line for each number, level and gap: both means, and their difference with its interval. A mean of numbers is
        of those that are there; NaN where a group has none.

    Raises:
        ValueError: other shapes, no rows, features that are neither finite nor NaN, weights that are negative or all
            zero, or rows of one group only.

    Example:
        >>> x = np.array([[30.0], [32.0], [50.0], [52.0]])
        >>> found = group_features(x, np.array([0, 0, 1, 1]), columns=["age"])
        >>> found.least.tolist(), found.most.tolist(), found.difference[0].value
        ([31.0], [51.0], 20.0)

    Source: Chernozhukov, Demirer, Duflo, Fernandez-Val, as `group_effects`.
    """
    x = check_table(x)
    rows = len(x)
    alpha, w, places = check_alpha(alpha), row_weights(w, rows), cluster_places(groups, rows)
    [quantile] = check_columns(quantile=quantile)
    check_shape("quantile", quantile, (rows,))
    ends = [(quantile == end) & (w > 0) for end in (0, quantile.max())]
    if quantile.max() == 0 or not all(end.any() for end in ends):
        raise ValueError("quantile: expected rows of at least two groups, from 0 on, got one")
    names, values = _described(x, named_columns(columns, x.shape[1]))
    least, most, differences = [], [], []
    for of_feature in values:
        there = ~np.isnan(of_feature)
        means, influence = [], np.zeros(rows)
        for sign, end in zip((-1, 1), ends, strict=True):
            here = end & there
            share = w[here] / w[here].sum()
            means.append(float(share @ of_feature[here]) if len(share) else math.nan)
            influence[here] = sign * share * (of_feature[here] - means[-1])
        compared = (ends[0] | ends[1]) & there
        error = math.sqrt(covariance(influence[None, compared], places[compared])[0, 0]) if compared.any() else math.nan
        differences.append(estimate_of(means[1] - means[0], error, int(compared.sum()), alpha))
        least.append(means[0])
        most.append(means[1])
    return GroupFeatures(tuple(names), np.array(least), np.array(most), tuple(differences), alpha)


def _described(x: np.ndarray, columns: Sequence[Column]) -> tuple[list[str], list[np.ndarray]]:
    """Returns a line for each number, level and gap: its name, and its value in each row; NaN where it has none."""
    names, values = [], []
    for column, of_column in zip(columns, x.T, strict=True):
        gone = np.isnan(of_column)
        for code, level in enumerate(column.levels or ()):
            names.append(f"{column.name} is {level}")
            values.append(np.where(gone, np.nan, of_column == code))
        if column.levels is None:
            names.append(column.name)
            values.append(of_column)
        if gone.any():
            names.append(f"{column.name} is missing")
            values.append(gone.astype(np.float64))
    return names, values
