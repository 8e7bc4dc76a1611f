"""How much a hidden confounder can move an average effect: bounds by what it explains, and what would bring it to 0."""

import math
import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped

from torch_ref.common.checks.arguments import check_number

from ..judging.estimates import normal_reach
from .benchmarks import Benchmark
from .columns import AverageBounds, check_average


@dataclass(frozen=True)
class HiddenConfounding:
    """An average effect and all that its bounds under hidden confounding need; `hidden_confounding` makes it.

    The strength of a confounder is told by two shares. `eta_y` is the share of the outcome's variance, of what is left
    by the features and the treatment, that it explains. `eta_d` is the same for the treatment: the share of the
    precision 1 / (score * (1 - score)), averaged over the rows, that knowing it would add. Both are 0 for none.

    Args:
        value: the average effect (ATE), in the outcome's unit.
        standard_error: of the value.
        scale: how far the bounds are from the value where `eta_y` and `eta_d / (1 - eta_d)` are both 1, in the
            outcome's unit.
        scale_error: the standard error of the scale.
        covariance: of value and scale.
        rows: how many rows the average is over.
        alpha: the share of intervals that may miss.
        benchmarks: what observed features explain, from `confounding_benchmarks`.

    Raises:
        ValueError: from its methods: an `eta_y` or a `rho` outside 0 to 1, or an `eta_d` that is not below 1.

    Example:
        >>> found = HiddenConfounding(2.0, 0.5, scale=4.0, scale_error=0.2, covariance=0.0, rows=100)
        >>> print(found.bounds(eta_y=0.2, eta_d=0.2))
        1.106 to 2.894 (interval 0.1217 to 3.878)
        >>> print(found)
        average effect 2, 95% interval 1.02 to 2.98, where nothing is hidden
        a hidden confounder that explains 39% of both, outcome and treatment, could bring the effect to 0
        one that explains 22% of both could bring the end of the interval to 0
    """

    value: float
    standard_error: float
    scale: float
    scale_error: float
    covariance: float
    rows: int
    alpha: float = 0.05
    benchmarks: tuple[Benchmark, ...] = ()

    def bounds(self, eta_y: float, eta_d: float, rho: float = 1.0) -> AverageBounds:
        """Returns between what the average effect lies if a hidden confounder is that strong.

        Args:
            eta_y: the share of the outcome that it explains, of what is left, from 0 to 1.
            eta_d: the share of the treatment that it explains, from 0 and below 1.
            rho: how well what it does to the outcome and to the treatment go together, from 0 to 1; 1 is the worst.
        """
        eta_y, rho = (_share(name, value) for name, value in (("eta_y", eta_y), ("rho", rho)))
        eta_d = check_number("eta_d", eta_d, at_least=0, below=1)
        strength = rho * confounding_strength(eta_y, eta_d)
        low, high = self.value - strength * self.scale, self.value + strength * self.scale
        reach = normal_reach(self.alpha)
        return AverageBounds(low, high, low - reach * self._error(-strength), high + reach * self._error(strength))

    def robustness_value(self, null: float = 0.0, *, interval: bool = False, rho: float = 1.0) -> float:
        """Returns how much of both, outcome and treatment, a hidden confounder must explain to explain the effect away.

        Args:
            null: the average effect that it should be brought to, in the outcome's unit.
            interval: asks for the end of the interval to get there, not for the estimate.
            rho: as for `bounds`, but above 0.

        Returns:
            A share from 0 to 1 for `eta_y` and `eta_d` alike; 0 where `null` lies in the interval already.
        """
        rho = _share("rho", check_number("rho", rho, above=0))
        gap = self.value - check_number("null", null)
        reach = normal_reach(self.alpha) if interval else 0.0
        if abs(gap) <= reach * self.standard_error:
            return 0.0
        # The strength s at which |gap| - s scale = reach * error: the smaller root of a s^2 - 2 b s + c.
        a = self.scale**2 - (reach * self.scale_error) ** 2
        b = abs(gap) * self.scale - math.copysign(1, gap) * reach**2 * self.covariance
        c = gap**2 - (reach * self.standard_error) ** 2
        below = b + math.sqrt(max(b * b - a * c, 0.0))
        return _equal_shares(c / below / rho) if below > 0 else 1.0

    def __str__(self) -> str:
        none, sure = self.bounds(0, 0), f"{100 * (1 - self.alpha):.3g}%"
        between = f"{none.interval_low:.4g} to {none.interval_high:.4g}"
        lines = [f"average effect {self.value:.4g}, {sure} interval {between}, where nothing is hidden"]
        lines.append(
            f"a hidden confounder that explains {percent(self.robustness_value())} of both, outcome and treatment, "
            "could bring the effect to 0"
        )
        least = self.robustness_value(interval=True)
        lines.append(
            f"one that explains {percent(least)} of both could bring the end of the interval to 0"
            if least
            else "the interval holds 0 without any"
        )
        if self.benchmarks:
            most = max(self.benchmarks, key=lambda one: confounding_strength(one.eta_y, one.eta_d))
            alike = self.bounds(most.eta_y, most.eta_d)
            lines.append(
                f"the strongest observed one, `{most.name}`, explains {percent(most.eta_y)} of the outcome and "
                f"{percent(most.eta_d)} of the treatment, of what the others leave"
            )
            lines.append(f"with a hidden one as strong, the effect is {alike}")
        return "\n".join(lines)

    def _error(self, strength: float) -> float:
        """Returns the standard error of value + strength * scale."""
        variance = self.standard_error**2 + 2 * strength * self.covariance + (strength * self.scale_error) ** 2
        return math.sqrt(max(variance, 0.0))


def hidden_confounding(
    t: Int[np.ndarray, " rows"],
    y: Float[np.ndarray, " rows"],
    mu0: Float[np.ndarray, " rows"],
    mu1: Float[np.ndarray, " rows"],
    score: Float[np.ndarray, " rows"],
    *,
    score0: Float[np.ndarray, " rows"] | None = None,
    w: Float[np.ndarray, " rows"] | None = None,
    groups: Shaped[np.ndarray, " rows"] | Sequence[Hashable] | None = None,
    alpha: float = 0.05,
    benchmarks: Sequence[Benchmark] = (),
) -> HiddenConfounding:
    """Returns how the average effect on all rows (ATE) would move if a confounder was not measured.

    The bias of the estimate is at most rho * sqrt(eta_y * eta_d / (1 - eta_d)) times a scale that the table tells: the
    root of the outcome's mean squared residual times the mean square of the weights of inverse propensities.

    Args:
        t: the treatment [rows], 0 or 1, both of which occur; with `score0` also -1, a third arm.
        y: the outcome that was observed [rows].
        mu0: the outcome that was expected without treatment [rows], by a model that did not see the row.
        mu1: the outcome that was expected with treatment [rows].
        score: each row's probability of treatment [rows].
        score0: each row's probability of no treatment [rows], where there are more arms; None is `1 - score`. Rows of
            other arms, whose `t` is -1, are left out: what is found speaks of the rows of the two.
        w: how many rows of the population each row stands for [rows], in any unit; None for the same.
        groups: the cluster of each row [rows], of any type, where rows of one cluster are not independent.
        alpha: the share of intervals that may miss.
        benchmarks: what observed features explain, to compare with.

    Returns:
        The estimate, the same as of `average_effects`, with `bounds` and `robustness_value`; `print` shows it in words.

    Raises:
        ValueError: as `average_effects`.

    Warns:
        UserWarning: propensities nearer than 1e-6 to 0 or 1; or propensities so uneven that the mean square of the
            weights is taken from them alone.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> t, y = np.tile([0, 1], 200), np.tile([1.0, 3.0], 200) + generator.normal(size=400)
        >>> found = hidden_confounding(t, y, np.full(400, 1.0), np.full(400, 3.0), np.full(400, 0.5))
        >>> found.bounds(0, 0).low == found.value, 0.5 < found.robustness_value() < 0.7
        (True, True)

    Source: Chernozhukov, Cinelli, Newey, Sharma, Syrgkanis, "Long story short: omitted variable bias in causal machine
    learning", 2022, theorem 2; robustness values after Cinelli, Hazlett, "Making sense of sensitivity", 2020.
    """
    alpha = check_number("alpha", alpha, above=0, below=1)
    rows = check_average(t, y, mu0, mu1, score, w, groups, score0)
    weight = np.where(rows.t == 1, 1 / rows.score, -1 / (1 - rows.score))  # the Riesz representer of the ATE
    residual = rows.y - np.where(rows.t == 1, rows.mu1, rows.mu0)
    pseudo = rows.mu1 - rows.mu0 + weight * residual
    value = rows.mean(pseudo)
    precision = 1 / rows.score + 1 / (1 - rows.score)  # the mean of weight^2 among rows alike
    squares, weights = residual**2, 2 * precision - weight**2
    if rows.mean(weights) <= 0:
        warnings.warn(
            "score: weights too uneven to be checked against the treatment; bounds trust the score", stacklevel=2
        )
        weights = precision
    of_outcome, of_weight = rows.mean(squares), rows.mean(weights)
    scale = math.sqrt(of_outcome * of_weight)
    # How each row moves the root of a product of two means.
    influence = of_weight * (squares - of_outcome) + of_outcome * (weights - of_weight)
    found = rows.covariance(pseudo - value, influence / (2 * scale) if scale else np.zeros(len(influence)))
    return HiddenConfounding(
        value=value,
        standard_error=math.sqrt(found[0, 0]),
        scale=scale,
        scale_error=math.sqrt(found[1, 1]),
        covariance=float(found[0, 1]),
        rows=len(rows.t),
        alpha=alpha,
        benchmarks=tuple(benchmarks),
    )


def confounding_strength(eta_y: float, eta_d: float) -> float:
    """Returns by how many scales a confounder moves the bounds: sqrt(eta_y * eta_d / (1 - eta_d))."""
    return math.sqrt(eta_y * eta_d / (1 - eta_d))


def percent(share: float) -> str:
    """Returns a share as a text such as 4.2% or 12%."""
    return f"{100 * share:.1f}%" if share < 0.0995 else f"{100 * share:.0f}%"


def _equal_shares(strength: float) -> float:
    """Returns the share that gives this strength as `eta_y` and `eta_d` alike: strength^2 = share^2 / (1 - share)."""
    return 2 / (1 + math.hypot(1, 2 / strength))


def _share(name: str, value: float) -> float:
    value = check_number(name, value, at_least=0)
    if value > 1:
        raise ValueError(f"{name}: expected a share from 0 to 1, got {value:g}")
    return value
