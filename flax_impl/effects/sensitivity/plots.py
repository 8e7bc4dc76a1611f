"""Pictures of doubt: bounds under hidden confounding, and refutations."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..judging.estimates import normal_reach
from ..plots import BLUE, GREY, ORANGE, RED, figure, plain
from .hidden import HiddenConfounding
from .marginal import MarginalBounds
from .refute import KINDS, Refutations

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STEPS = 121  # of each side of the contour's grid
_WIDEST = 0.95  # of an axis that finds its own end
_NAMED = 8  # benchmarks, the strongest: more names would lie upon one another


def confounding_figure(found: HiddenConfounding, most: float | None = None) -> "Figure":
    """Returns the bound of the average effect that is nearer to 0, over what a hidden confounder explains of both.

    Args:
        found: from `hidden_confounding`; its benchmarks are drawn as points.
        most: the largest share on both axes, above 0 and below 1; None takes in robustness value and benchmarks.

    Returns:
        A figure of matplotlib, with a `savefig`; nothing is shown and no file is written.

    Raises:
        ImportError: matplotlib is not installed; the message names the extra.

    Example:
        >>> found = HiddenConfounding(2.0, 0.5, scale=4.0, scale_error=0.2, covariance=0.0, rows=100)
        >>> confounding_figure(found).axes[0].get_xlabel()
        'share of the treatment that it explains'

    Source: Cinelli, Hazlett, "Making sense of sensitivity", 2020, whose contours these are.
    """
    drawing = figure(8, 6)
    axes = drawing.subplots()
    value, shown = found.robustness_value(), found.benchmarks[:_NAMED]
    ends = [
        min(_WIDEST, 1.3 * max(0.05, value, *shares))
        for shares in ([one.eta_d for one in shown], [one.eta_y for one in shown])
    ]
    right, top = ends if most is None else (most, most)
    eta_d, eta_y = np.linspace(0, right, _STEPS), np.linspace(0, top, _STEPS)
    towards = -1 if found.value >= 0 else 1
    bound = found.value + towards * found.scale * np.sqrt(eta_y[:, None] * eta_d / (1 - eta_d))  # [eta_y, eta_d]
    levels = np.sort(found.value * np.array([0.75, 0.5, 0.25, -0.5, -1, -2, -4])) if found.value else None
    lines = axes.contour(eta_d, eta_y, bound, levels=levels, colors=BLUE, linewidths=0.8, linestyles="solid")
    axes.clabel(lines, fmt="%.3g", fontsize=8)
    if bound.min() < 0 < bound.max():
        axes.contour(eta_d, eta_y, bound, levels=[0], colors=RED, linewidths=2)
        axes.plot([], [], color=RED, linewidth=2, label="the effect is 0")
    if value <= min(right, top):
        axes.plot(value, value, "D", color=RED, label=f"robustness value {100 * value:.3g}%")
    for number, one in enumerate(shown):
        label = "as strong as an observed feature" if number == 0 else None
        axes.plot(one.eta_d, one.eta_y, "o", color=ORANGE, markeredgecolor=GREY, label=label)
        axes.annotate(plain(one.name), (one.eta_d, one.eta_y), (5, 4), textcoords="offset points", fontsize=9)
    axes.plot(0, 0, "^", color=GREY, clip_on=False, label=f"nothing hidden: {found.value:.4g}")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda share, _: f"{100 * share:.3g}%")
    axes.set(xlabel="share of the treatment that it explains", ylabel="share of the outcome that it explains")
    axes.set(xlim=(0, right), ylim=(0, top))
    axes.set_title("Average effect at the worst, by what a hidden confounder explains")
    axes.legend(loc="upper right", framealpha=0.95)
    return drawing


def marginal_figure(found: Sequence[MarginalBounds]) -> "Figure":
    """Returns bounds of the average effect, over the factor by which hidden confounding moves the odds of treatment.

    Args:
        found: from `marginal_bounds`, at several odds ratios.

    Returns:
        A figure of matplotlib, with a `savefig`; nothing is shown and no file is written.

    Raises:
        ImportError: matplotlib is not installed; the message names the extra.
        ValueError: no bounds.

    Example:
        >>> from flax_impl.effects import AverageBounds, MarginalBounds
        >>> ends = AverageBounds(low=1.0, high=3.0, interval_low=0.5, interval_high=3.5)
        >>> marginal_figure([MarginalBounds(lam, ends, ends, ends) for lam in (1.0, 2.0)]).axes[0].get_ylabel()
        'average effect'
    """
    if not found:
        raise ValueError("found: expected bounds at one odds ratio at least, got none")
    found = sorted(found, key=lambda one: one.odds_ratio)
    drawing = figure(8, 5)
    axes = drawing.subplots()
    ratios = [one.odds_ratio for one in found]
    ends = np.array([[one.ate.interval_low, one.ate.low, one.ate.high, one.ate.interval_high] for one in found])
    axes.fill_between(ratios, ends[:, 0], ends[:, 3], color=BLUE, alpha=0.12, label="with its interval")
    axes.fill_between(ratios, ends[:, 1], ends[:, 2], color=BLUE, alpha=0.35, label="bounds of the effect")
    axes.axhline(0, color=GREY, linewidth=0.8, linestyle=":")
    axes.set(xlabel="factor by which a hidden confounder moves the odds of treatment, at most", ylabel="average effect")
    axes.set_title("Average effect under the marginal sensitivity model")
    axes.legend(loc="upper left")
    return drawing


def refutation_figure(found: Refutations) -> "Figure":
    """Returns what each refutation found as dots, beside what an honest analysis finds and how far chance moves it.

    Args:
        found: from `refute`.

    Returns:
        A figure of matplotlib, with a `savefig`; nothing is shown and no file is written.

    Raises:
        ImportError: matplotlib is not installed; the message names the extra.

    Example:
        >>> from flax_impl.effects import Refutation
        >>> one = Refutation("placebo", 0.0, np.array([0.1, -0.2, 0.3, 0.4]), np.ones(4))
        >>> found = Refutations(value=2.0, standard_error=0.5, noise=0.01, found=(one,))
        >>> refutation_figure(found).axes[0].get_xlabel()
        'average effect'
    """
    drawing = figure(9, 1.5 + 0.9 * (1 + len(found.found)))
    axes = drawing.subplots()
    reach = normal_reach(found.found[0].alpha)
    named = {"the table itself": (found.value, reach * found.standard_error, np.array([found.value]), BLUE)}
    for one in found.found:
        verdict = "refuted" if one.accuses else "passed"
        color = RED if one.accuses else BLUE
        named[f"{KINDS[one.kind][0]}\n{one.outside} of {len(one.values)} outside, {verdict}"] = (
            one.expected, reach * float(np.mean(one.errors)), one.values, color,
        )  # fmt: skip
    for row, (expected, half, values, color) in enumerate(named.values()):
        axes.plot([expected - half, expected + half], [row, row], color=GREY, linewidth=8, alpha=0.25)
        axes.plot(expected, row, "|", color=GREY, markersize=18)
        spread = np.linspace(-0.18, 0.18, len(values)) if len(values) > 1 else np.zeros(1)
        axes.plot(values, row + spread, "o", color=color, markersize=4)
    axes.axvline(0, color=GREY, linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(named)), list(named))
    axes.invert_yaxis()
    axes.set(xlabel="average effect")
    axes.set_title("Refutations: found (dots), expected (line) and how far chance moves it (grey)")
    return drawing
