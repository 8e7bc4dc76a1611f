"""Which features move the effect: by permuting them, and by Shapley values."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from torch_ref.common.checks.arguments import check_integer, check_shape, listed
from torch_ref.common.checks.arrays import check_finite
from torch_ref.common.data.columns import Column

from ..judging.columns import row_weights
from .questions import check_table, named_columns

Effect = Callable[[Float[np.ndarray, "rows features"]], Float[np.ndarray, " rows"]]
_PART = 20_000  # rows of which the effect is estimated at a time


@dataclass(frozen=True)
class Importance:
    """Which features move the effect; `print` shows the most important first. `effect_importance` makes it.

    Args:
        names: of the features, or of the groups of features.
        share: of the effect's variance that each one moves [names]; with `shap_importance`, of all mean absolute
            Shapley values.
        standard_error: of the share [names], from how the repetitions spread; from the rows, with `shap_importance`.
        method: "permutation" or "shap".
        rows: how many rows were looked at.
        values: the Shapley value of each feature for each row [rows, names], in the outcome's unit; or None.

    Example:
        >>> print(Importance(("age", "income"), np.array([0.1, 0.9]), np.array([0.01, 0.02]), "permutation", rows=100))
                             share   std. error
        income               90.0%         2.0%
        age                  10.0%         1.0%
        permutation, 100 rows
    """

    names: tuple[str, ...]
    share: Float[np.ndarray, " names"]
    standard_error: Float[np.ndarray, " names"]
    method: str
    rows: int
    values: Float[np.ndarray, "rows names"] | None = None

    @property
    def order(self) -> Int[np.ndarray, " names"]:
        """The places of the names, the most important first."""
        return np.argsort(-self.share, kind="stable")

    def __str__(self) -> str:
        wide = max(14, *map(len, self.names))
        lines = [f"{'':{wide}}{'share':>12}{'std. error':>13}"]
        lines += [f"{self.names[i]:{wide}}{self.share[i]:>12.1%}{self.standard_error[i]:>13.1%}" for i in self.order]
        return "\n".join([*lines, f"{self.method}, {self.rows} rows"])


def effect_importance(
    effect: Effect,
    x: Float[np.ndarray, "rows features"],
    *,
    columns: Sequence[str | Column] | None = None,
    together: Mapping[str, Sequence[str]] | None = None,
    repeats: int = 5,
    rows: int = 2000,
    seed: int = 0,
    w: Float[np.ndarray, " rows"] | None = None,
) -> Importance:
    """Returns the share of the estimated effect's variance that is lost where a feature is permuted among the rows.

    It is half the mean squared change of the effect, over its variance. Of independent features this is the total Sobol
    index: the share that is unknown when all other features are known. The shares add up to 1 where the features act
    each by itself, and to more where they act together. Features that say nearly the same share their importance in no
    fixed way: permute them `together`.

    It tells what moves the estimate, not what moves the true effect, and no cause: a feature may stand for another.

    Args:
        effect: gives the estimated effects [rows] of features [rows, features], such as `model.effect`.
        x: the features [rows, features], as `effect` takes them.
        columns: a name for each column, or what the columns are, as `TreatmentData` has it; none for x1, x2, …
        together: names of columns that are permuted as one, by the name of their group; others stand alone.
        repeats: how many permutations, at least 2.
        rows: how many rows are looked at, at most; they are drawn at random. `effect` sees each of them
            1 + repeats * features times: for ten features some ten seconds for an ensemble of 20 nets.
        seed: of the draws.
        w: how many rows of the population each row stands for [rows], in any unit; None for the same.

    Returns:
        A share for each feature or group, and its standard error over the permutations; zeros for an effect that is
        the same in all rows.

    Raises:
        ValueError: other shapes, less than 2 rows, features that are neither finite nor NaN, effects that are not
            finite, weights that are negative or all zero, names of columns that are not there or in two groups, or too
            few repeats.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(1000, 3))
        >>> found = effect_importance(lambda x: x[:, 0] + 2 * x[:, 1], x, columns=["age", "income", "height"])
        >>> found.share.round(1).tolist()
        [0.2, 0.8, 0.0]

    Source: Breiman, "Random forests", 2001; Jansen, "Analysis of variance designs for model output", 1999; of effects:
    Hines, Diaz-Ordaz, Vansteelandt, "Variable importance measures for heterogeneous causal effects", 2022.
    """
    generator = np.random.default_rng(check_integer("seed", seed, at_least=0))
    x, w = _drawn_rows(x, w, rows, generator)
    known = [column.name for column in named_columns(columns, x.shape[1])]
    groups = _groups(known, together or {})
    repeats = check_integer("repeats", repeats, at_least=2)
    plain = _effects(effect, x)
    mean = np.average(plain, weights=w)
    variance = float(np.average((plain - mean) ** 2, weights=w)) * len(x) / (len(x) - 1)
    lost = np.zeros((repeats, len(groups)))
    for of_repeat in lost:
        order = generator.permutation(len(x))
        pairs = w * w[order]  # how many rows of the population meet so
        for place, of_group in enumerate(groups.values()):
            moved = x.copy()
            moved[:, of_group] = x[order][:, of_group]
            of_repeat[place] = np.average((_effects(effect, moved) - plain) ** 2, weights=pairs) / 2
    # What rounding alone makes is no variance.
    share = lost / variance if variance > (1e-12 * np.abs(plain).max()) ** 2 else np.zeros_like(lost)
    error = share.std(axis=0, ddof=1) / np.sqrt(repeats)
    return Importance(tuple(groups), share.mean(axis=0), error, "permutation", len(x))


def shap_importance(
    effect: Effect,
    x: Float[np.ndarray, "rows features"],
    *,
    columns: Sequence[str | Column] | None = None,
    rows: int = 100,
    background: int = 50,
    permutations: int = 2,
    seed: int = 0,
    w: Float[np.ndarray, " rows"] | None = None,
) -> Importance:
    """Returns how far each feature moves each row's effect from the average effect, by Shapley values of `shap`.

    The Shapley values of a row add up to its estimated effect less the average effect of the background. The model is
    asked about some rows * permutations * (2 * features + 1) * background rows. For ten features these are 210,000 by
    default: half a minute on one core for an ensemble of 20 nets.

    Args:
        effect: gives the estimated effects [rows] of features [rows, features], such as `model.effect`.
        x: the features [rows, features], as `effect` takes them.
        columns: a name for each column, or what the columns are, as `TreatmentData` has it; none for x1, x2, …
        rows: how many rows are explained, at most; they are drawn at random.
        background: how many rows stand for features that are left out, at most; they are drawn at random.
        permutations: of the features for each row, at least 1, each there and back.
        seed: of the draws.
        w: how many rows of the population each row stands for [rows], in any unit; None for the same. The background is
            drawn in their proportion.

    Returns:
        The share of each feature in the mean absolute Shapley values, its standard error over the rows, and the values.

    Raises:
        ValueError: other shapes, less than 2 rows, features that are neither finite nor NaN, effects that are not
            finite, weights that are negative or all zero, or too few rows, background or permutations.
        ImportError: shap is not installed; the message names the extra.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(100, 2))
        >>> found = shap_importance(lambda x: x[:, 0] - 3 * x[:, 1], x, rows=50)
        >>> found.share.round(1).tolist(), found.values.shape
        ([0.2, 0.8], (50, 2))

    Source: Lundberg, Lee, "A unified approach to interpreting model predictions", 2017.
    """
    shap = _shap()
    generator = np.random.default_rng(check_integer("seed", seed, at_least=0))
    background, permutations = (
        check_integer(name, value, at_least=1)
        for name, value in (("background", background), ("permutations", permutations))
    )
    behind = _background(x, w, max(background, 2), generator)
    x, w = _drawn_rows(x, w, rows, generator)
    names = tuple(column.name for column in named_columns(columns, x.shape[1]))
    masker = shap.maskers.Independent(behind, max_samples=len(behind))
    state = np.random.get_state()  # noqa: NPY002 (shap seeds the generator that all share)
    try:
        explainer = shap.explainers.Permutation(lambda part: _effects(effect, part), masker, seed=seed)
        values = explainer(x, max_evals=permutations * (2 * x.shape[1] + 1), silent=True).values
    finally:
        np.random.set_state(state)  # noqa: NPY002
    size = np.abs(values)
    means = np.average(size, axis=0, weights=w)
    total = float(means.sum())
    if total <= 1e-12 * float(np.abs(_effects(effect, x)).max()):
        none = np.zeros(len(names))
        return Importance(names, none, none, "shap", len(x), values)
    share = means / total
    influence = w[:, None] * (size - share * size.sum(axis=1, keepdims=True)) / total  # of a ratio of means
    return Importance(names, share, influence.std(axis=0, ddof=1) / np.sqrt(len(x)), "shap", len(x), values)


def _shap() -> Any:
    """Returns the package shap; it warns of its own use of matplotlib, which is nobody's business here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import shap
        except ImportError as error:
            raise ImportError("Shapley values need shap: pip install 'twohead[shap]'") from error
    return shap


def _drawn_rows(x: np.ndarray, w: Any, rows: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Returns at most so many rows that have a weight, drawn at random and in their order, and their weights.

    Raises ValueError for less than two.
    """
    x, w = _weighted_rows(x, w)
    rows = check_integer("rows", rows, at_least=2)
    if len(x) <= rows:
        return x, w
    drawn = np.sort(generator.choice(len(x), rows, replace=False))
    return x[drawn], row_weights(w[drawn], rows)


def _background(x: np.ndarray, w: Any, rows: int, generator: np.random.Generator) -> np.ndarray:
    """Returns at most so many rows that stand for all: where weights differ, so many in proportion to them."""
    x, weights = _weighted_rows(x, w)
    if np.ptp(weights) == 0:
        return _drawn_rows(x, None, rows, generator)[0]
    reached = np.cumsum(weights)
    places = (np.arange(rows) + generator.random()) / rows * reached[-1]  # equally far apart: chance adds little
    return x[np.minimum(np.searchsorted(reached, places, side="right"), len(x) - 1)]


def _weighted_rows(x: np.ndarray, w: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows that have a weight, and their weights, whose mean is 1; raises ValueError for less than two."""
    x = check_table(x)
    weights = row_weights(w, len(x))
    counted = weights > 0
    if counted.sum() < 2:
        raise ValueError(f"x: expected at least 2 rows, got {counted.sum()}")
    return x[counted], row_weights(weights[counted], int(counted.sum()))


def _effects(effect: Effect, x: np.ndarray) -> np.ndarray:
    """Returns the effects of many rows, part by part."""
    parts = [np.asarray(effect(x[start : start + _PART])) for start in range(0, len(x), _PART)]
    found = np.concatenate(parts) if len(parts) > 1 else parts[0]
    check_shape("effect", found, (len(x),))
    check_finite("effect", found)
    return found.astype(np.float64)


def _groups(names: Sequence[str], together: Mapping[str, Sequence[str]]) -> dict[str, list[int]]:
    """Returns the columns of each group, and each other column by itself, in the order of their first columns."""
    home: dict[str, str] = {}
    for group, members in together.items():
        for name in members:
            if name not in names:
                raise ValueError(f"together: expected names among {listed(names)}, got {name!r}")
            if name in home:
                raise ValueError(f"together: expected each column in one group, got {name!r} in several")
            if group in names and group not in members:
                raise ValueError(f"together: expected a name that no other column has, got {group!r}")
            home[name] = group
    found: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        found.setdefault(home.get(name, name), []).append(place)
    return found
