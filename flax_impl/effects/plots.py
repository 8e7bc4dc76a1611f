"""Pictures of the effects in a table."""

from typing import TYPE_CHECKING, Any

import numpy as np

from .report import EffectReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_UNTREATED, _TREATED, _GREY = "#104080", "#f0a030", "#555555"
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


def effect_figures(report: EffectReport) -> dict[str, "Figure"]:
    """Returns pictures by name: `losses`, `effects`, `outcomes`, `qini`, and `overlap` where there are propensities.

    Args:
        report: what to draw: of a table, from `EffectReport.of`.

    Returns:
        Figures of matplotlib by name, each with a `savefig`; nothing is shown and no file is written.

    Raises:
        ImportError: matplotlib is not installed; the message names the extra.

    Example:
        >>> from flax_impl.effects.effect_model import TrainingRecord
        >>> training = TrainingRecord(losses=np.ones((1, 3, 1)), held_out=None)  # of a model: `model.training`
        >>> t, y0, y1 = np.array([0, 1, 0, 1]), np.array([1.0, 1.0, 2.0, 2.0]), np.array([3.0, 3.0, 4.0, 4.0])
        >>> y, rows = np.where(t == 1, y1, y0), np.arange(4)
        >>> report = EffectReport(t, y, y0, y1, None, None, 2.0, None, rows, y, y1 - y0, None, training, False)
        >>> sorted(effect_figures(report))
        ['effects', 'losses', 'outcomes', 'qini']
    """
    drawn = {"losses": _losses, "effects": _effects, "outcomes": _outcomes, "overlap": _overlap, "qini": _qini}
    if report.score is None:
        del drawn["overlap"]
    figures = {}
    for name, draw in drawn.items():
        figures[name] = figure(8, 5) if name != "outcomes" else figure(11, 5)
        draw(report, figures[name])
    return figures


def _losses(report: EffectReport, drawing: Any) -> None:
    """The loss of each net on its held-out rows, the mean of its batches in an epoch, and where it was stopped."""
    losses, held_out = report.training.losses, report.training.held_out
    axes = drawing.subplots()
    for number, history in enumerate(losses):
        steps = np.flatnonzero(np.isfinite(history[:, 0])) + 1
        if held_out is None:
            axes.plot(steps, history[steps - 1].sum(axis=1), color=_UNTREATED, linewidth=0.5)
            continue
        looks = np.flatnonzero(np.isfinite(history[:, -1]))
        parts = history[: looks[-1] + 1, :-1].sum(axis=1)
        epochs = parts.reshape(len(looks), -1).mean(axis=1)  # a look ends an epoch, and epochs are equally long
        best = report.training.best[number]
        label = {"train": "rows trained on, mean of an epoch", "held": "rows held out", "best": "kept"}
        label = label if number == 0 else dict.fromkeys(label)
        axes.plot(looks + 1, epochs, color=_UNTREATED, linewidth=0.8, alpha=0.5, label=label["train"])
        axes.plot(looks + 1, history[looks, -1], color=_TREATED, linewidth=0.8, label=label["held"])
        axes.plot(best, history[best - 1, -1], "o", color="#c02020", markersize=4, label=label["best"])
    axes.set(xlabel="step", ylabel="loss", yscale="log", title=f"Losses of {len(losses)} nets, and where each was best")
    if held_out is not None:
        axes.legend(loc="upper right")


def _effects(report: EffectReport, drawing: Any) -> None:
    """The distribution of the effects, with the average and its interval."""
    axes = drawing.subplots()
    axes.hist(report.y1 - report.y0, bins=60, color="#b0b8c8")
    axes.axvline(report.ate, color="#c02020", label=f"average {report.ate:.4g}")
    if report.ate_interval is not None:
        low, high = report.ate_interval
        axes.axvspan(low, high, color="#c02020", alpha=0.15, label=f"95% interval {low:.4g} to {high:.4g}")
    axes.axvline(0, color=_GREY, linewidth=0.8, linestyle=":")
    axes.set(xlabel="effect of the treatment", ylabel="rows", title="Estimated effects")
    axes.legend()


def _outcomes(report: EffectReport, drawing: Any) -> None:
    """Expected against observed outcomes of rows that the nets did not see; binary ones in ten groups."""
    both = drawing.subplots(1, 2, sharex=True, sharey=True)
    for arm, axes in enumerate(both):
        rows = np.flatnonzero(report.t[report.held_out] == arm)
        expected, observed = report.factual[rows], report.y[report.held_out][rows]
        color = (_UNTREATED, _TREATED)[arm]
        if report.binary:
            groups = np.array_split(np.argsort(expected), min(10, max(1, len(rows))))
            points = np.array([(expected[g].mean(), observed[g].mean()) for g in groups if len(g)]).reshape(-1, 2)
            axes.plot(*points.T, "o-", color=color)
        else:
            shown = np.random.default_rng(0).permutation(len(rows))[:_MOST]
            axes.plot(expected[shown], observed[shown], ".", color=color, markersize=3, alpha=0.5)
        limits = [min(axes.get_xlim()[0], axes.get_ylim()[0]), max(axes.get_xlim()[1], axes.get_ylim()[1])]
        axes.plot(limits, limits, color=_GREY, linewidth=0.8, linestyle="--")
        axes.set(xlabel="expected", ylabel="observed" if arm == 0 else "")
        of_arm = int((report.t == arm).sum())  # the others were seen by every net
        axes.set_title(f"{('untreated', 'treated')[arm]}, {len(rows)} of {of_arm} rows, R2 {report.explained(arm):.3f}")


def _overlap(report: EffectReport, drawing: Any) -> None:
    """The propensities of both arms, one above the line and one below."""
    axes = drawing.subplots()
    bins = np.linspace(0, 1, 41)
    for arm, color, sign in ((0, _UNTREATED, -1), (1, _TREATED, 1)):
        heights, _ = np.histogram(report.score[report.t == arm], bins)  # pyright: ignore[reportOptionalSubscript]
        shares = sign * heights / max(heights.sum(), 1)
        axes.bar(bins[:-1], shares, width=np.diff(bins), align="edge", color=color, label=("untreated", "treated")[arm])
    axes.axhline(0, color=_GREY, linewidth=0.8)
    axes.yaxis.set_major_formatter(lambda value, _: f"{abs(value):.0%}")
    axes.set(xlabel="propensity: probability of treatment", ylabel="share of the arm", title="Overlap of the arms")
    axes.legend()


def _qini(report: EffectReport, drawing: Any) -> None:
    """What treating the rows with the largest effects first would bring, against treating at random."""
    axes = drawing.subplots()
    share, gain = report.qini()
    axes.plot(share, gain, color=_TREATED, label="largest estimated effects first")
    axes.plot([0, 1], [0, gain[-1]], color=_GREY, linestyle="--", label="at random")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    weighted = "" if report.score is None else ", weighted by propensity"
    axes.set(xlabel="share of rows treated", ylabel="gain in the outcome per row")
    axes.set_title(f"Uplift (Qini) on {len(report.held_out)} of {len(report.t)} rows{weighted}")
    axes.legend()
