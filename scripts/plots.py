"""Pictures of trainings."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Two colours that stay apart in grey and for the colour-blind; the second is drawn thin and dashed on the first.
_LINES = ({"color": "#f0a030", "linewidth": 4.0}, {"color": "#104080", "linewidth": 1.2, "linestyle": "--"})


def loss_curves(curves: Mapping[str, np.ndarray], outputs: tuple[str, str], title: str) -> "Figure":
    """Draws the losses [steps, 2] of one training, or of two laid over each other with their difference beside them.

    Args:
        curves: the losses by the name of who computed them.
        outputs: what the two losses are called.
        title: over the picture.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'twohead[plots]'") from error
    compared = len(curves) == 2
    figure = Figure(figsize=(12 if compared else 8, 6), layout="constrained")
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
