"""Pictures of the effects in a table."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .report import EffectReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS = ("#104080", "#f0a030", "#2a9d6f", "#b03060", "#7a5ab0", "#5090c0", "#909020", "#804020")
BLUE, ORANGE, RED, GREY = *COLORS[:2], "#c02020", "#555555"
_MOST = 5000  # points in a cloud: more would only make it darker


def figure(width: float, height: float) -> "Figure":
    """Returns an empty figure of that many inches.

    Raises:
        ImportError: matplotlib is not installed; the message names the extra.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'twohead[plots]'") from error
    return Figure(figsize=(width, height), layout="constrained")


def plain(name: str) -> str:
    """Returns a name from a table so that a picture shows it as it is: between two dollar signs would be a formula."""
    return name.replace("$", r"\$")


def effect_figures(report: EffectReport, only: Sequence[str] = ()) -> dict[str, "Figure"]:
    """Returns pictures by name: `losses`, `effects`, `outcomes`, `qini`, and `overlap` where there are propensities.

    Args:
        report: what to draw: of a table, from `EffectReport.of`.
        only: the names of those to draw; none for all.

    Returns:
        Figures of matplotlib by name, each with a `savefig`; nothing is shown and no file is written.

    Raises:
        ImportError: matplotlib is not installed; the message names the extra.

    Example:
        >>> from flax_impl.data import synthetic
        >>> from flax_impl.effects import EffectSettings, fit_effects
        >>> data = synthetic(rows=80, features=4)
        >>> small = EffectSettings(representation_features=[4], head_features=[4], members=2, steps=3)
        >>> report = EffectReport.of(fit_effects(data, small, progress=False), data)
        >>> sorted(effect_figures(report))
        ['effects', 'losses', 'outcomes', 'overlap', 'qini']
    """
    drawn = {"losses": _losses, "effects": _effects, "outcomes": _outcomes, "overlap": _overlap, "qini": _qini}
    if report.score is None:
        del drawn["overlap"]
    figures = {}
    for name, draw in drawn.items():
        if only and name not in only:
            continue
        wide = {"outcomes": len(report.arms), "effects": len(report.arms) - 1}.get(name, 1)
        figures[name] = figure(8 if wide == 1 else 5.5 * wide, 5)
        draw(report, figures[name])
    return figures


def _losses(report: EffectReport, drawing: Any) -> None:
    """The loss of each net on its held-out rows, the mean of its batches in an epoch, and where it was stopped."""
    losses, held_out = report.training.losses, report.training.held_out
    axes = drawing.subplots()
    for number, history in enumerate(losses):
        steps = np.flatnonzero(np.isfinite(history[:, 0])) + 1
        if held_out is None:
            axes.plot(steps, history[steps - 1].sum(axis=1), color=BLUE, linewidth=0.5)
            continue
        looks = np.flatnonzero(np.isfinite(history[:, -1]))
        parts = history[: looks[-1] + 1, :-1].sum(axis=1)
        epochs = parts.reshape(len(looks), -1).mean(axis=1)  # a look ends an epoch, and epochs are equally long
        best = report.training.best[number]
        label = {"train": "rows trained on, mean of an epoch", "held": "rows held out", "best": "kept"}
        label = label if number == 0 else dict.fromkeys(label)
        axes.plot(looks + 1, epochs, color=BLUE, linewidth=0.8, alpha=0.5, label=label["train"])
        axes.plot(looks + 1, history[looks, -1], color=ORANGE, linewidth=0.8, label=label["held"])
        axes.plot(best, history[best - 1, -1], "o", color=RED, markersize=4, label=label["best"])
    axes.set(xlabel="step", ylabel="loss", yscale="log", title=f"Losses of {len(losses)} nets, and where each was best")
    if held_out is not None:
        axes.legend(loc="upper right")


def _effects(report: EffectReport, drawing: Any) -> None:
    """The distribution of each arm's effects against the first, with the average and its interval."""
    pairs = report.against_first()
    for pair, axes in zip(pairs, np.ravel(drawing.subplots(1, len(pairs), sharex=True)), strict=True):
        axes.hist(pair.effect, bins=60, color="#b0b8c8")
        axes.axvline(pair.ate, color=RED, label=f"average {pair.ate:.4g}")
        if pair.ate_interval is not None:
            low, high = pair.ate_interval
            axes.axvspan(low, high, color=RED, alpha=0.15, label=f"95% interval {low:.4g} to {high:.4g}")
        axes.axvline(0, color=GREY, linewidth=0.8, linestyle=":")
        of = "" if len(pairs) == 1 else plain(f": {report.names[pair.treatment]} against {report.names[0]}")
        axes.set(xlabel="effect of the treatment", ylabel="rows", title=f"Estimated effects{of}")
        axes.legend()


def _outcomes(report: EffectReport, drawing: Any) -> None:
    """Expected against observed outcomes of rows that the nets did not see; binary ones in ten groups."""
    for arm, axes in enumerate(drawing.subplots(1, len(report.arms), sharex=True, sharey=True)):
        rows = np.flatnonzero(report.t[report.held_out] == arm)
        expected, observed = report.factual[rows], report.y[report.held_out][rows]
        color = COLORS[arm % len(COLORS)]
        if report.binary:
            groups = np.array_split(np.argsort(expected), min(10, max(1, len(rows))))
            w = np.ones(len(rows)) if report.w is None else report.w[report.held_out][rows]
            points = [[np.average(of[g], weights=w[g]) for of in (expected, observed)] for g in groups if w[g].any()]
            axes.plot(*np.reshape(points, (-1, 2)).T, "o-", color=color)
        else:
            shown = np.random.default_rng(0).permutation(len(rows))[:_MOST]
            axes.plot(expected[shown], observed[shown], ".", color=color, markersize=3, alpha=0.5)
        limits = [min(axes.get_xlim()[0], axes.get_ylim()[0]), max(axes.get_xlim()[1], axes.get_ylim()[1])]
        axes.plot(limits, limits, color=GREY, linewidth=0.8, linestyle="--")
        axes.set(xlabel="expected", ylabel="observed" if arm == 0 else "")
        of_arm = int((report.t == arm).sum())  # the others were seen by every net
        share = report.explained(arm)
        explained = "" if np.isnan(share) else f", R2 {share:.3f}"
        axes.set_title(f"{plain(report.names[arm])}, {len(rows)} of {of_arm} rows{explained}")


def _overlap(report: EffectReport, drawing: Any) -> None:
    """The propensities of an arm: of its own rows above the line, of all others below; of two arms, of the second."""
    assert report.score is not None
    bins, two = np.linspace(0, 1, 41), len(report.arms) == 2
    shown = [1] if two else list(range(len(report.arms)))
    for arm, axes in zip(shown, np.ravel(drawing.subplots(len(shown), 1, sharex=True)), strict=True):
        for rows, color, sign, name in (
            (report.t != arm, BLUE, -1, plain(report.names[0]) if two else "other arms"),
            (report.t == arm, COLORS[arm % len(COLORS)], 1, plain(report.names[arm])),
        ):
            heights, _ = np.histogram(report.score[arm][rows], bins)
            shares = sign * heights / max(heights.sum(), 1)
            axes.bar(bins[:-1], shares, width=np.diff(bins), align="edge", color=color, label=name)
        axes.axhline(0, color=GREY, linewidth=0.8)
        axes.yaxis.set_major_formatter(lambda value, _: f"{abs(value):.0%}")
        axes.set(ylabel="share of the arm" if two else "share")
        axes.legend()
    of = "treatment" if two else "the arm"
    drawing.supxlabel(f"propensity: probability of {of}", fontsize="medium")
    drawing.suptitle("Overlap of the arms")


def _qini(report: EffectReport, drawing: Any) -> None:
    """What treating the rows with the largest effects first would bring, against treating at random."""
    axes, two = drawing.subplots(), len(report.arms) == 2
    for pair in report.against_first():
        share, gain = report.qini(pair)
        of = "" if two else plain(f", {report.names[pair.treatment]} against {report.names[0]}")
        color = COLORS[pair.treatment % len(COLORS)]
        axes.plot(share, gain, color=color, label=f"largest estimated effects first{of}")
        axes.plot([0, 1], [0, gain[-1]], color=GREY if two else color, linestyle="--", label=f"at random{of}")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    weighted = "" if report.score is None else ", weighted by propensity"
    axes.set(xlabel="share of rows treated", ylabel="gain in the outcome per row")
    axes.set_title(f"Uplift (Qini) on {len(report.held_out)} of {len(report.t)} rows{weighted}")
    axes.legend()
