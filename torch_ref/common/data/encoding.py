"""Features as nets like them: standardised, on the normal scale, and in pieces, so that a net can make steps."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from jaxtyping import Float, Int

from ..checks.arguments import check_integer, check_shape, listed
from ..checks.arrays import check_finite, check_rows
from .design import Design
from .treatment_data import Scales

_MOST_POINTS = 1000  # of a column's distribution: more change nothing that a net could see


@dataclass(frozen=True)
class Encoding:
    """How each feature becomes several columns; `Encoding.of` finds it from the rows to train on.

    A feature with more than two values becomes: itself; its rank among the training rows on the scale of a standard
    normal; and a column for each piece between two quantiles, which rises from 0 to 1 there. A feature with two values
    stays as it is. Values beyond those seen in training take the last rank. A gap (NaN) is 0 in all columns.

    Args:
        values: the values of all features that the ranks are known for, one feature after the other [points].
        normals: their ranks on the normal scale, standardised [points].
        points: how many of these each feature has [features].
        knots: the ends of all pieces, on the scale of `normals` [knots].
        ends: how many of these each feature has, 0 for one that stays as it is [features].
        widths: the columns of each feature [features]; more than it fills are zeros.

    Example:
        >>> x = np.array([[0.0, 5.0], [1.0, 6.0], [1.0, 9.0], [0.0, 30.0]])
        >>> encoding = Encoding.of(x, bins=3)
        >>> encoding.widths.tolist()
        [1, 5]
        >>> encoding.encode(x)[:, 3:].round(2).tolist()  # of four values, each has a piece of its own
        [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [1.0, 1.0, 1.0]]

    Source: Gorishniy, Rubachev, Babenko, "On embeddings for numerical features in tabular deep learning", NeurIPS 2022.
    """

    values: Float[np.ndarray, " points"]
    normals: Float[np.ndarray, " points"]
    points: Int[np.ndarray, " features"]
    knots: Float[np.ndarray, " knots"]
    ends: Int[np.ndarray, " features"]
    widths: Int[np.ndarray, " features"]

    @classmethod
    def of(cls, x: Float[np.ndarray, "rows features"], bins: int) -> "Encoding":
        """Returns the encoding that fits these rows.

        Args:
            x: the rows to train on [rows, features].
            bins: pieces of a feature. One with few more values than that has a piece between any two of them.

        Raises:
            ValueError: `x` is of another shape or has no rows, or `bins` is below 1.
        """
        check_shape("x", x, ("rows", "features"))
        check_rows("x", x)
        check_integer("bins", bins, at_least=1)
        columns = [_column(column[~np.isnan(column)], bins) for column in x.T]
        values, normals, knots = zip(*columns, strict=True)
        ends = np.array(list(map(len, knots)))
        return cls(
            np.concatenate(values),
            np.concatenate(normals),
            np.array(list(map(len, values))),
            np.concatenate(knots),
            ends,
            np.where(ends > 0, ends + 1, 1),
        )

    def encode(self, x: Float[np.ndarray, "rows features"]) -> Float[np.ndarray, "rows columns"]:
        """Returns the columns of all features, feature by feature, in the dtype of `x`.

        Args:
            x: the features [rows, features], on the scale that the encoding was found on; whole numbers become float64.

        Raises:
            ValueError: another number of features.
        """
        check_shape("x", x, ("rows", len(self.points)))
        encoded = np.zeros((len(x), int(self.widths.sum())), x.dtype if x.dtype.kind == "f" else np.float64)
        places = zip(_starts(self.widths), _starts(self.points), _starts(self.ends), strict=True)
        for column, (place, first, knot) in zip(x.T, places, strict=True):
            encoded[:, place.start] = column
            if knot.start == knot.stop:
                continue
            rank = np.interp(column, self.values[first], self.normals[first])
            low, high = self.knots[knot][:-1], self.knots[knot][1:]
            encoded[:, place.start + 1] = rank
            pieces = encoded[:, place.start + 2 : place.start + 2 + len(low)]
            np.clip((rank[:, None] - low) / (high - low), 0, 1, out=pieces)
        encoded[np.isnan(encoded)] = 0
        return encoded


def align(encodings: Sequence[Encoding]) -> list[Encoding]:
    """Returns encodings of as many columns each: those that a table's feature lacks are zeros.

    Args:
        encodings: of tables with the same features.
    """
    widths = np.max([encoding.widths for encoding in encodings], axis=0)
    return [Encoding(*(e.values, e.normals, e.points, e.knots, e.ends), widths) for e in encodings]


def check_encoding(encoding: Encoding) -> None:
    """Raises ValueError unless the arrays of an encoding, as a file holds them, fit each other.

    Args:
        encoding: of any arrays.
    """
    features = len(np.atleast_1d(encoding.points))
    for name, kind, length in (
        ("points", "iu", features), ("ends", "iu", features), ("widths", "iu", features),
        ("values", "f", encoding.points.sum()), ("normals", "f", encoding.points.sum()),
        ("knots", "f", encoding.ends.sum()),
    ):  # fmt: skip
        array = getattr(encoding, name)
        check_shape(f"encoding.{name}", array, (int(length),))
        check_finite(f"encoding.{name}", array)
        if array.dtype.kind not in kind or (kind == "iu" and (array < 0).any()):
            raise ValueError(f"encoding.{name}: expected {'counts' if kind == 'iu' else 'floats'}, got others")
    if (encoding.widths < np.where(encoding.ends > 0, encoding.ends + 1, 1)).any():
        raise ValueError(f"encoding.widths: expected a column for each piece, got {listed(encoding.widths)}")
    for name, lengths in (("values", encoding.points), ("knots", encoding.ends)):
        if any((np.diff(getattr(encoding, name)[own]) <= 0).any() for own in _starts(lengths)):
            raise ValueError(f"encoding.{name}: expected rising numbers in each feature, got others")
    if (encoding.points[encoding.ends > 0] == 0).any():
        raise ValueError("encoding.points: expected values of each feature that has pieces, got none")


def encode_features(
    x: Float[np.ndarray, "rows features"], scales: Scales, encoding: Encoding | None, design: Design | None
) -> Float[np.ndarray, "rows columns"]:
    """Returns a table's features as its nets take them: opened by the design, standardised, encoded, and codes last.

    Args:
        x: the features [rows, features], in the unit of the data; with a design as `Column` says.
        scales: of the columns before they are encoded.
        encoding: of the standardised columns, or None.
        design: of a table with categories or gaps; None where all are numbers.

    Raises:
        ValueError: another number of features, or values that the design does not allow.
    """
    standard = scales.features(x if design is None else design.for_nets(x))
    if encoding is not None:
        standard = encoding.encode(standard)
    if design is None:
        return standard
    standard[np.isnan(standard)] = 0
    return np.concatenate([standard, design.codes(x)], axis=1) if design.embedded else standard


def _column(column: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the values of a feature, their standardised normal ranks, and the ends of its pieces."""
    values, counts = np.unique(column, return_counts=True)
    if len(values) <= 2:
        return values, np.zeros(len(values)), np.empty(0)
    middle = (np.cumsum(counts) - counts / 2) / len(column)
    normals = np.array([NormalDist().inv_cdf(share) for share in middle])
    mean = np.average(normals, weights=counts)
    normals = (normals - mean) / np.sqrt(np.average((normals - mean) ** 2, weights=counts))
    if len(values) <= bins + 1:
        knots = normals
    else:
        knots = np.unique(np.quantile(np.repeat(normals, counts), np.linspace(0, 1, bins + 1)))
    if len(values) > _MOST_POINTS:
        kept = np.unique(np.searchsorted(middle, np.linspace(middle[0], middle[-1], _MOST_POINTS)))
        values, normals = values[kept], normals[kept]
    return values, normals, knots


def _starts(lengths: Int[np.ndarray, " features"]) -> list[slice]:
    ends = np.cumsum(lengths)
    return [slice(int(end - length), int(end)) for end, length in zip(ends, lengths, strict=True)]
