"""Features as finite columns of numbers: gaps marked, categories as columns of 0 and 1."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import narwhals as nw
import numpy as np
from jaxtyping import Float, Int

from ..checks.arguments import check_shape, listed
from ..checks.arrays import check_rows
from .columns import Column
from .treatment_data import Scales, TreatmentData, moments

# What a column of a design holds, where it is no level's own.
VALUE, GAP, OTHERS = -1, -2, -3
FEW_LEVELS = 20  # a category with more is a code for nets, which embed it
_MOST_LEVELS = 30  # that have a column of their own


@dataclass(frozen=True)
class Design:
    """How a table's features become columns of finite numbers; `Design.of` learns it from the rows to train on.

    A number is a column. One with gaps in training has a second column, which is 1 where it has none. After the numbers
    come the categories: a column of 0 and 1 for each level but the first, and one for gaps where training had some.
    Of more than 30 levels the 30 most frequent have a column, and the others share a row of zeros.

    A gap or a level that the training rows had not lies at their mean in all columns of its feature.

    Nets take the same columns, with NaN in place of those means. A category of more than 20 levels has none of them
    for nets: they take its code, see `codes`.

    Args:
        columns: what the features are, as `describe` says [features].
        source: which feature each entry comes from [entries]. An entry is a column, or what a row of zeros stands for.
        meaning: what it holds [entries]: the code of its level, or `VALUE`, `GAP` or `OTHERS`.
        mean: its mean over the training rows that have a value [entries].
        std: its standard deviation over them, 1 where it is constant [entries].

    Example:
        >>> columns = (Column("age", gaps=True), Column("city", levels=("Bonn", "Oslo", "Rome")))
        >>> design = Design.of(np.array([[30.0, 0], [50.0, 1], [np.nan, 2]]), columns)
        >>> design.names
        ('age', 'age is missing', 'city is Oslo', 'city is Rome')
        >>> design.finite(np.array([[np.nan, 1], [60.0, -1]])).round(2).tolist()  # the second city was not in training
        [[40.0, 1.0, 1.0, 0.0], [60.0, 0.0, 0.33, 0.33]]
    """

    columns: tuple[Column, ...]
    source: Int[np.ndarray, " entries"]
    meaning: Int[np.ndarray, " entries"]
    mean: Float[np.ndarray, " entries"]
    std: Float[np.ndarray, " entries"]

    @classmethod
    def of(cls, x: Float[np.ndarray, "rows features"], columns: Sequence[Column]) -> "Design":
        """Returns the design that fits these rows.

        Args:
            x: the rows to train on [rows, features], as `Column` says: codes for categories, NaN for gaps.
            columns: what the features are.

        Raises:
            ValueError: no rows, another number of features, or values that `columns` does not allow.
        """
        made = cls.unmeasured(x, columns)
        opened = made.entries(x)
        gaps = np.isnan(opened)
        whole, mean, std = ~gaps.any(axis=0), np.zeros(gaps.shape[1]), np.ones(gaps.shape[1])
        mean[whole], std[whole] = moments(opened[:, whole])
        for entry in np.flatnonzero(~whole & ~gaps.all(axis=0)):
            mean[entry], std[entry] = moments(opened[~gaps[:, entry], entry])
        return replace(made, mean=mean, std=std)

    @classmethod
    def unmeasured(cls, x: Float[np.ndarray, "rows features"], columns: Sequence[Column]) -> "Design":
        """Returns the design that fits these rows, with all means and deviations 1: to be measured on others, too.

        Args:
            x: as for `of`; of many levels the most frequent ones here have a column.
            columns: as for `of`.

        Raises:
            ValueError: as `of`.
        """
        check_rows("x", x)
        x = check_features(x, columns)
        order = sorted(range(len(columns)), key=lambda feature: columns[feature].levels is not None)
        places = [(feature, meaning) for feature in order for meaning in _meanings(columns[feature], x[:, feature])]
        source, meaning = np.array(places, np.int64).T
        # As long as nothing is known of the rows, no level counts as one that they had not.
        return cls(tuple(columns), source, meaning, np.ones(len(source)), np.ones(len(source)))

    @property
    def finite_entries(self) -> Int[np.ndarray, " design"]:
        """The places of the entries that are columns: all but what a category's row of zeros stands for [design]."""
        zeros = set()
        for feature in np.flatnonzero([column.levels is not None for column in self.columns]):
            [own] = np.nonzero(self.source == feature)
            if len(own) > 1:  # a constant one keeps its column
                others = own[self.meaning[own] == OTHERS]
                zeros.add(int(others[0] if len(others) else own[0]))
        return np.array([entry for entry in range(len(self.source)) if entry not in zeros])

    @property
    def net_entries(self) -> Int[np.ndarray, " net"]:
        """The places of the entries that are columns of nets [net]; all where nets would see codes alone."""
        finite = self.finite_entries
        others = finite[~np.isin(self.source[finite], self.embedded)]
        return others if len(others) else finite

    @property
    def names(self) -> tuple[str, ...]:
        """A name for each column of `finite`."""
        entries = self.finite_entries
        pairs = zip(self.source[entries].tolist(), self.meaning[entries].tolist(), strict=True)
        return tuple(_name(self.columns[feature], meaning) for feature, meaning in pairs)

    @property
    def embedded(self) -> tuple[int, ...]:
        """The places of the features whose codes nets take."""
        return tuple(i for i, column in enumerate(self.columns) if len(column.levels or ()) > FEW_LEVELS)

    @property
    def code_counts(self) -> tuple[int, ...]:
        """How many codes each embedded feature has: its levels, and one more where training had gaps."""
        return tuple(len(self.columns[i].levels or ()) + self.columns[i].gaps for i in self.embedded)

    def finite(self, x: Float[np.ndarray, "rows features"]) -> Float[np.ndarray, "rows design"]:
        """Returns columns that are all finite: what everything but nets takes.

        Args:
            x: the features [rows, features], as `Column` says.

        Raises:
            ValueError: another number of features, or values that `columns` does not allow.
        """
        opened = self.entries(check_features(x, self.columns))
        return np.where(np.isnan(opened), self.mean, opened)[:, self.finite_entries]

    def for_nets(self, x: Float[np.ndarray, "rows features"]) -> Float[np.ndarray, "rows net"]:
        """Returns the columns that nets take, with NaN where a feature tells nothing.

        Args:
            x: the features [rows, features], as `Column` says.

        Raises:
            ValueError: another number of features, or values that `columns` does not allow.
        """
        return self.entries(check_features(x, self.columns))[:, self.net_entries]

    def codes(self, x: Float[np.ndarray, "rows features"]) -> Float[np.ndarray, "rows embedded"]:
        """Returns the codes of the features with many levels; a gap is the code after the last level.

        What training had not is -1: an unseen level, and a gap where it had none.

        Args:
            x: the features [rows, features], as `Column` says.
        """
        codes = np.asarray(x, np.float64)[:, list(self.embedded)]
        columns = [self.columns[i] for i in self.embedded]
        gap = np.array([len(column.levels or ()) if column.gaps else -1.0 for column in columns])
        return np.where(np.isnan(codes), gap, codes)

    def scales(self, scales: Scales) -> Scales:
        """Returns scales of the columns of `finite`, and of the outcome as in `scales`."""
        return self._scales(scales, self.finite_entries)

    def net_scales(self, scales: Scales) -> Scales:
        """Returns scales of the columns of `for_nets`, and of the outcome as in `scales`."""
        return self._scales(scales, self.net_entries)

    def _scales(self, scales: Scales, entries: Int[np.ndarray, " some"]) -> Scales:
        return replace(scales, x_mean=self.mean[entries], x_std=self.std[entries])

    def entries(self, x: Float[np.ndarray, "rows features"]) -> Float[np.ndarray, "rows entries"]:
        """Returns all entries, with NaN where a feature tells nothing.

        Args:
            x: the features [rows, features], as `Column` says, checked.
        """
        opened = np.empty((len(x), len(self.source)))
        for feature, column in enumerate(self.columns):
            values, gaps = x[:, feature], np.isnan(x[:, feature])
            [own] = np.nonzero(self.source == feature)
            meanings = self.meaning[own]
            for place, meaning in zip(own, meanings, strict=True):
                if meaning == VALUE:
                    opened[:, place] = values
                elif meaning == GAP:
                    opened[:, place] = gaps
                elif meaning == OTHERS:
                    opened[:, place] = ~gaps & ~np.isin(values, meanings)
                else:
                    opened[:, place] = values == meaning
            marks = own[meanings != VALUE]
            # An entry that was 0 in all rows of the training stands for what they had not.
            known = opened[:, marks[self.mean[marks] > 0]].any(axis=1)
            if column.levels is None:
                known |= ~gaps
            opened[np.ix_(~known, marks)] = np.nan
        return opened


def check_design(design: Design) -> None:
    """Raises ValueError unless the entries of a design, as a file holds it, are those of its columns.

    Args:
        design: with arrays of one length.
    """
    for name in ("source", "meaning"):
        if getattr(design, name).dtype != np.int64:
            raise ValueError(f"design.{name}: expected int64, got {getattr(design, name).dtype}")
    for feature, column in enumerate(design.columns):
        own = design.meaning[design.source == feature].tolist()
        kept = sorted({meaning for meaning in own if meaning >= 0})
        levels, most = len(column.levels or ()), min(len(column.levels or ()), _MOST_LEVELS)
        expected = [VALUE] * (column.levels is None) + kept + [OTHERS] * (levels > most) + [GAP] * column.gaps
        if own != expected or len(kept) != most or any(meaning >= levels for meaning in kept):
            raise ValueError(f"design.meaning: expected entries of column {column.name}, got {listed(own)}")
    if not set(design.source.tolist()) <= set(range(len(design.columns))):
        raise ValueError(f"design.source: expected {len(design.columns)} features, got {listed(set(design.source))}")


def is_table(x: Any) -> bool:
    """Returns whether features come as a table, of pandas, polars or pyarrow, or as arrays by name."""
    if isinstance(x, Mapping):
        return not hasattr(x, "shape")  # one of scipy's sparse arrays is a dict
    return nw.dependencies.is_into_dataframe(x)


def finite_features(data: TreatmentData) -> Float[np.ndarray, "rows design"]:
    """Returns a table's features as finite numbers: as they are, or by the `Design` of these rows where it has columns.

    A design looks at features alone, so what is estimated from it on some of the rows has not seen the others' outcome.

    Args:
        data: the table.

    Raises:
        ValueError: features that the table's columns do not allow.
    """
    return data.x if data.columns is None else Design.of(data.x, data.columns).finite(data.x)


def finite_tables(train: TreatmentData, *others: TreatmentData) -> list[TreatmentData]:
    """Returns tables with finite numbers for features, by the design of the first one; for whom takes numbers alone.

    Args:
        train: the rows to train on.
        others: rows with the same columns.

    Raises:
        ValueError: features that the columns do not allow.
    """
    if train.columns is None:
        return [train, *others]
    design = Design.of(train.x, train.columns)
    return [
        replace(data, x=design.finite(data.x), feature_names=design.names, columns=None) for data in (train, *others)
    ]


def array_columns(x: Float[np.ndarray, "rows features"], names: Sequence[str]) -> tuple[Column, ...] | None:
    """Returns what the columns of an array are, all of numbers: None where none has a gap (NaN).

    Args:
        x: the features [rows, features].
        names: of the columns; none at all calls them x1, x2, …
    """
    gaps = [bool(np.isnan(values).any()) for values in x.T]
    names = names or [f"x{i + 1}" for i in range(len(gaps))]
    return tuple(Column(name, None, gap) for name, gap in zip(names, gaps, strict=True)) if any(gaps) else None


def check_features(x: Float[np.ndarray, "rows features"], columns: Sequence[Column]) -> np.ndarray:
    """Returns features in float64, checked against what the columns are.

    Args:
        x: the features [rows, features], as `Column` says.
        columns: what they are.

    Raises:
        ValueError: another number of features, infinity, a gap where training had none, or a code that no level has.
    """
    x = np.asarray(x)
    check_shape("x", x, ("rows", len(columns)))
    if x.dtype.kind not in "biuf":
        raise ValueError(f"x: expected numbers, got dtype {x.dtype}")
    x = x.astype(np.float64, copy=False)
    for column, values in zip(columns, x.T, strict=True):
        if column.levels is None:
            expected, wrong = "finite numbers", np.isinf(values)
            if not column.gaps:
                expected, wrong = "a number in every row, as in training", ~np.isfinite(values)
        else:
            last = len(column.levels) - 1
            expected = f"the place of a level, 0 to {last}, or -1 for another"
            wrong = ~np.isnan(values) & ((values < -1) | (values > last) | (values != np.round(values)))
        rows = np.flatnonzero(wrong)
        if len(rows):
            more = f" ({len(rows)} in all)" if len(rows) > 1 else ""
            raise ValueError(f"column {column.name}: expected {expected}, got {values[rows[0]]} in row {rows[0]}{more}")
    return x


def count_unseen(x: Float[np.ndarray, "rows features"], columns: Sequence[Column]) -> dict[str, int]:
    """Returns in how many rows a category has a level that training did not see, by the names of such columns.

    Args:
        x: the features [rows, features], as `Column` says; a gap among categories that had none counts, too.
        columns: what they are.
    """
    counts = {
        column.name: int((values == -1).sum() + (0 if column.gaps else np.isnan(values).sum()))
        for column, values in zip(columns, x.T, strict=True)
        if column.levels is not None
    }
    return {name: count for name, count in counts.items() if count}


def _meanings(column: Column, values: Float[np.ndarray, " rows"]) -> list[int]:
    """Returns what the columns of a feature hold."""
    if column.levels is None:
        return [VALUE, GAP] if column.gaps else [VALUE]
    levels, kept = len(column.levels), list(range(len(column.levels)))
    if levels > _MOST_LEVELS:
        counts = np.bincount(values[values >= 0].astype(np.int64), minlength=levels)
        kept = sorted(np.argsort(-counts, kind="stable")[:_MOST_LEVELS].tolist())
    return kept + [OTHERS] * (levels > _MOST_LEVELS) + [GAP] * column.gaps


def _name(column: Column, meaning: int) -> str:
    if meaning == VALUE:
        return column.name
    if meaning == GAP:
        return f"{column.name} is missing"
    return f"{column.name} is {'another' if meaning == OTHERS else (column.levels or ())[meaning]}"
