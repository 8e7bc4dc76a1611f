"""Pictures that the commands draw: loss curves, and errors of effects."""

from collections.abc import Mapping, Sequence
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


def effect_errors(errors: Mapping[str, Sequence[float]], numbers: Sequence[int]) -> "Figure":
    """Draws each contestant's square root of PEHE by replication; leaves out what is NaN.

    Args:
        errors: for each replication, by contestant.
        numbers: of the replications.

    Raises:
        ImportError: matplotlib is not installed; the message names the extra.
    """
    figure = empty_figure(10, 5)
    axes = figure.subplots()
    looks = (("o", "#f0a030"), ("o", "#c02020"), ("s", "#104080"), ("^", "#5080c0"), ("x", "#555555"))
    for (name, values), (marker, color) in zip(errors.items(), looks, strict=False):
        axes.plot(range(len(numbers)), values, marker, color=color, label=name, markersize=6)
    axes.set_xticks(range(len(numbers)), [str(number) for number in numbers])
    axes.set(yscale="log", xlabel="replication", ylabel="sqrt PEHE on test rows")
    axes.grid(axis="y", which="both", alpha=0.3)
    axes.legend()
    return figure
