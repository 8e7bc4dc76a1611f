"""Pictures that the commands draw: loss curves, and errors of effects."""

from collections.abc import Container, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..effects.plots import figure as empty_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Two colours that differ in grey and for the colour-blind; the second line is thin, dashed and above the first.
_LINES = ({"color": "#f0a030", "linewidth": 4.0}, {"color": "#104080", "linewidth": 1.2, "linestyle": "--"})


def loss_curves(curves: Mapping[str, np.ndarray], outputs: tuple[str, str], title: str) -> "Figure":
    """Draws the losses of one training, or of two with the difference between them.

    Args:
        curves: losses [steps, 2] by the name of the framework.
        outputs: the names of the two losses.
        title: above the picture.

    Raises:
        ImportError: matplotlib is not installed; the message names the extra.
    """
    compared = len(curves) == 2
    figure = empty_figure(12 if compared else 8, 6)
    axes = figure.subplots(2, 1 + compared, sharex=True, squeeze=False)
    for output, row in enumerate(axes):
        for (name, losses), line in zip(curves.items(), _LINES, strict=False):
            row[0].plot(losses[:, output], label=name, **line)
        row[0].set(yscale="log", ylabel=outputs[output])
        row[0].legend(loc="upper right")
        if compared:
            one, other = curves.values()
            apart = np.abs(one - other)[:, output]
            row[1].plot(np.where(apart > 0, apart, np.nan), ".", color="#555555", markersize=2)
            row[1].set(yscale="log", ylabel="absolute difference, where not zero")
    for axis in axes[-1]:
        axis.set_xlabel("step")
    figure.suptitle(title, parse_math=False)  # a file's name may hold dollar signs
    return figure


def effect_errors(errors: Mapping[str, Sequence[float]], *, ours: Container[str] = ()) -> "Figure":
    """Draws each contestant's square roots of PEHE as dots in a row, and its mean and median; leaves out what is NaN.

    Args:
        errors: for each replication, by contestant.
        ours: the contestants to set apart by colour.

    Raises:
        ImportError: matplotlib is not installed; the message names the extra.
    """
    figure = empty_figure(10, 1.5 + 0.32 * len(errors))
    from matplotlib.ticker import LogLocator, NullFormatter

    axes = figure.subplots()
    labels = []
    for row, (name, values) in enumerate(errors.items()):
        kept = np.array([value for value in values if np.isfinite(value)])
        labels.append(name + (f", NaN on {len(values) - len(kept)}" if len(kept) < len(values) else ""))
        if not len(kept):
            continue
        first = {} if axes.collections else {"one": "a replication", "mean": "mean", "median": "median"}
        axes.scatter(
            kept, np.full(len(kept), row), s=22, c="#f0a030" if name in ours else "#80a8d8", label=first.get("one")
        )
        axes.scatter(np.median(kept), row, s=150, c="#104080", marker="|", linewidths=2, label=first.get("median"))
        axes.scatter(
            kept.mean(), row, s=50, facecolors="none", edgecolors="#c02020", marker="D", label=first.get("mean")
        )
    axes.set_yticks(range(len(labels)), labels)
    axes.set(xscale="log", xlabel="sqrt PEHE on test rows")
    axes.invert_yaxis()
    axes.grid(axis="x", which="both", alpha=0.3)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
    return figure
