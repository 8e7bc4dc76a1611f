"""Made-up data: confounded, with known effects; and the article's curves."""

from typing import Literal

import numpy as np
from jaxtyping import Float

from ..checks.arguments import check_choice, check_integer
from .treatment_data import TreatmentData

_OVERLAPS = {"good": 1.0, "poor": 3.0}  # a factor of the propensity's slope
_NOISES = ("normal", "heavy")
_SCALE, _FREEDOM = 0.3, 2.5


def synthetic(
    rows: int = 1000,
    features: int = 10,
    seed: int = 0,
    *,
    overlap: Literal["good", "poor"] = "good",
    noise: Literal["normal", "heavy"] = "normal",
) -> TreatmentData:
    """Draws confounded data with known effects: who would do well anyway is treated more often.

    A difference of means is about twice the average effect, so that a model of both outcomes is needed.

    Args:
        rows: the number of rows.
        features: the number of features, standard normal, at least 4; the first four matter.
        seed: of numpy's default generator.
        overlap: `"poor"` makes the propensity three times as steep, so that many rows are almost surely in one arm.
        noise: of the outcome, see `outcome_noise`.

    Returns:
        The rows with their expected outcomes `mu0` and `mu1`, whose difference is the effect, and the names x1, x2, …

    Raises:
        ValueError: less than one row, less than four features, a negative seed, or an unknown `overlap` or `noise`.

    Example:
        >>> data = synthetic(rows=500, seed=0)
        >>> data.x.shape, data.feature_names[:2]
        ((500, 10), ('x1', 'x2'))
        >>> naive = data.y[data.t == 1].mean() - data.y[data.t == 0].mean()
        >>> bool(naive > 1.5 * (data.mu1 - data.mu0).mean())
        True
    """
    check_integer("rows", rows, at_least=1)
    check_integer("features", features, at_least=4)
    check_choice("overlap", overlap, _OVERLAPS)
    generator = np.random.default_rng(check_integer("seed", seed, at_least=0))
    x = generator.standard_normal((rows, features))
    propensity = 1 / (1 + np.exp(-_OVERLAPS[overlap] * (0.8 * x[:, 0] + 0.4 * x[:, 1])))
    t = (generator.random(rows) < propensity).astype(np.int32)
    mu0 = x[:, 0] + 0.5 * x[:, 1] * x[:, 2] + np.sin(2 * x[:, 3])
    mu1 = mu0 + 1 + 0.5 * x[:, 0] + np.tanh(x[:, 1])
    y = np.where(t == 1, mu1, mu0) + outcome_noise(rows, noise, generator)
    return TreatmentData(
        x, t, y[:, None], mu0=mu0[:, None], mu1=mu1[:, None], feature_names=tuple(f"x{i + 1}" for i in range(features))
    )


def outcome_noise(
    rows: int, noise: Literal["normal", "heavy"], generator: np.random.Generator
) -> Float[np.ndarray, " rows"]:
    """Draws the noise of `synthetic`'s outcomes.

    Args:
        rows: how many to draw.
        noise: `"normal"`, or `"heavy"`: Student's t with 2.5 degrees of freedom. Both are scaled by 0.3.
        generator: draws the noise.

    Returns:
        One number for each row [rows].

    Raises:
        ValueError: an unknown `noise`.

    Example:
        >>> outcome_noise(3, "heavy", np.random.default_rng(0)).shape
        (3,)
    """
    check_choice("noise", noise, _NOISES)
    drawn = generator.standard_normal(rows) if noise == "normal" else generator.standard_t(_FREEDOM, rows)
    return _SCALE * drawn


def curves(points: int = 100, seed: int = 0) -> dict[str, np.ndarray]:
    """Draws the article's data: x1 and x2 evenly from -1 to 1, y1 and y2 their cubes plus 0.1 of normal noise.

    Args:
        points: the number of rows.
        seed: of numpy's default generator.

    Returns:
        The arrays x1, x2, y1 and y2, each [points, 1], in float64.

    Raises:
        ValueError: less than one point, or a negative seed.

    Example:
        >>> data = curves(points=50)
        >>> sorted(data), data["x1"].shape
        (['x1', 'x2', 'y1', 'y2'], (50, 1))
    """
    check_integer("points", points, at_least=1)
    generator = np.random.default_rng(seed)
    x = np.linspace(-1, 1, points)[:, None]
    y1, y2 = (x**3 + 0.1 * generator.standard_normal(x.shape) for _ in range(2))
    return {"x1": x, "x2": x.copy(), "y1": y1, "y2": y2}
