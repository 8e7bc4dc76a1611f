"""A picture of how far the arms' mean features lie apart."""

from typing import TYPE_CHECKING

import numpy as np

from ..judging.balance import UNLIKE, Balance
from ..plots import BLUE, GREY, ORANGE, figure, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST = 25  # features in the picture


def balance_figure(balance: Balance) -> "Figure":
    """Returns a line for each feature: the difference of the means as they are, and weighed (a love plot).

    Args:
        balance: from `covariate_balance`; of more than 25 features those that differ most are drawn.

    Returns:
        A figure of matplotlib, with a `savefig`; nothing is shown and no file is written.

    Raises:
        ImportError: matplotlib is not installed; the message names the extra.

    Example:
        >>> figure = balance_figure(Balance(("age",), before=np.array([0.5]), after=np.array([0.02])))
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['age']
    """
    largest = np.maximum(np.abs(balance.before), np.abs(balance.after))
    order = np.argsort(-largest, kind="stable")[:_MOST][::-1]
    drawing = figure(8, 1.6 + 0.27 * len(order))
    axes = drawing.subplots()
    places = np.arange(len(order))
    axes.axvspan(-UNLIKE, UNLIKE, color="#e6e9ee")
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.hlines(places, balance.before[order], balance.after[order], color="#b0b8c8", linewidth=1)
    axes.plot(balance.before[order], places, "o", color=ORANGE, label="as they are")
    axes.plot(balance.after[order], places, "o", color=BLUE, label="weighed by propensity")
    axes.set_yticks(places, [plain(_short(balance.names[i])) for i in order])
    more = f", {len(order)} of {len(balance.names)} features" if len(order) < len(balance.names) else ""
    axes.set(xlabel="difference of the arms' means, in standard deviations", title=f"Balance of the arms{more}")
    axes.legend(loc="best")
    return drawing


def _short(name: str) -> str:
    return name if len(name) <= 30 else f"{name[:29]}…"
