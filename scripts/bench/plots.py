"""Pictures of how fast trainings are, and of how they grow."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flax_impl.effects.plots import figure as empty_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def speed_bars(measured: Mapping[str, Mapping[str, Any]], lines: Mapping[str, str]) -> "Figure":
    """Draws milliseconds per step: a bar for each median, a line over its range, the floor across all.

    Args:
        measured: median, min and max by name.
        lines: what to draw, and what to call it.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure = empty_figure(9, 5)
    axes = figure.subplots()
    shown = {name: words for name, words in lines.items() if name in measured and name != "floor"}
    for place, (name, words) in enumerate(reversed(shown.items())):
        of = measured[name]
        axes.barh(place, of["median"], color="#104080" if words.startswith("ours") else "#b0b8c8")
        axes.plot([of["min"], of["max"]], [place, place], color="#f0a030", linewidth=2)
        axes.annotate(f" {of['median']:.2f}", (of["max"], place), va="center")
    floor = measured["floor"]["median"]
    axes.axvline(floor, color="#555555", linestyle="--", linewidth=1)
    axes.annotate(" the matrix products alone", (floor, len(shown) - 0.4), va="bottom", color="#555555")
    axes.set_yticks(range(len(shown)), list(reversed(shown.values())))
    axes.set(xlabel="ms per step: median, and range over the rounds", ylim=(-0.6, len(shown) + 0.1))
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def growth_curves(growth: Mapping[str, Sequence[Mapping[str, Any]]], slopes: Mapping[str, float | None]) -> "Figure":
    """Draws how time and memory grow, each with the slope of its line, in logarithms.

    Args:
        growth: the points of each sweep: the value under the sweep's name, seconds, and bytes under memory.
        slopes: by "seconds by rows" and the like.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure = empty_figure(14, 7)
    axes = figure.subplots(2, len(growth), sharex="col", squeeze=False)
    takes = {"rows": "an epoch", "width": "a step", "batch_size": "a step", "replicas": "a step of all replicas"}
    for column, (sweep, points) in enumerate(growth.items()):
        values = [point[sweep] for point in points]
        for row, (what, label) in enumerate((("seconds", f"seconds of {takes[sweep]}"), ("memory", "peak memory, MB"))):
            heights = [point[what] / (1 if what == "seconds" else 2**20) for point in points]
            axis = axes[row, column]
            axis.loglog(values, heights, "o-", color="#104080", linewidth=1.2)
            name = f"added by {sweep}" if what == "memory" and f"added by {sweep}" in slopes else f"{what} by {sweep}"
            slope = slopes.get(name)
            if slope is not None:
                where = " from 100,000 rows on" if sweep == "rows" else ""
                of = "of what fit adds, " if name.startswith("added") else ""
                axis.set_title(f"{of}slope {slope:.2f}{where}", fontsize=9)
            axis.set_ylabel(label)
            axis.grid(alpha=0.3)
            if what == "memory":
                axis.set_ylim(100, 2 * max(*heights, 1000))
        axes[1, column].set_xlabel(sweep.replace("_", " "))
    return figure
