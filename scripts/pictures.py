"""Draws the README's picture: the two-head model, and how torch splits a batch where JAX masks it."""

import argparse
import sys
from pathlib import Path
from typing import Any

from flax_impl.effects.plots import figure as empty_figure
from torch_ref.common.files.array_file import replacing

UNTREATED, TREATED, SHARED, EMPTY, INK = "#4477aa", "#cc6677", "#666677", "#e4e4ea", "#222233"
TREATMENT = (0, 1, 1, 0, 1)  # of the rows in the picture, from the top


def main() -> int:
    """Draws it and writes it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/two_head.png"), help="default: out/two_head.png")
    arguments = parser.parse_args()
    figure = draw()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(arguments.out) as path:
        figure.savefig(path, dpi=160, format="png")
    print(arguments.out)
    return 0


def draw() -> Any:
    """Returns the figure."""
    figure = empty_figure(13.5, 3.6)
    axes = figure.subplots(1, 3)
    for axis, title in zip(axes, ("the model", "torch: split the batch", "JAX: mask it"), strict=True):
        axis.set(xlim=(0, 10), ylim=(0, 6.6), aspect="equal")
        axis.axis("off")
        axis.set_title(title, color=INK, fontsize=13)
    model(axes[0])
    split(axes[1])
    mask(axes[2])
    return figure


def model(axis: Any) -> None:
    """Draws features, representation, heads and outcomes."""
    box(axis, 0.2, 2.7, 1.2, 1.6, "x", SHARED)
    box(axis, 2.2, 2.7, 2.9, 1.6, "representation", SHARED)
    for y, color, name, outcome in ((4.7, UNTREATED, "head0", "y0"), (0.9, TREATED, "head1", "y1")):
        box(axis, 6.1, y, 1.7, 1.4, name, color)
        arrow(axis, 5.1, 3.5, 6.1, y + 0.7)
        arrow(axis, 7.8, y + 0.7, 8.9, y + 0.7)
        axis.text(9.35, y + 0.7, outcome, ha="center", va="center", fontsize=13, color=color)
    arrow(axis, 1.4, 3.5, 2.2, 3.5)
    axis.text(9.35, 3.5, "t says which\nof the two\nwas observed", ha="center", va="center", fontsize=8, color=INK)


def split(axis: Any) -> None:
    """Draws rows that are gathered by arm, go through their head, and are put back."""
    rows(axis, 0.3, TREATMENT)
    for y, color, name, arm in ((4.6, UNTREATED, "head0", 0), (1.0, TREATED, "head1", 1)):
        own = [t for t in TREATMENT if t == arm]
        rows(axis, 3.0, own, middle=y + 0.7)
        box(axis, 5.4, y, 1.7, 1.4, name, color)
        arrow(axis, 1.6, 3.5, 2.9, y + 0.7)
        arrow(axis, 4.3, y + 0.7, 5.4, y + 0.7)
        arrow(axis, 7.1, y + 0.7, 8.4, 3.5)
    rows(axis, 8.5, TREATMENT)
    axis.text(5, 0.1, "each head has the rows of its arm; shapes follow the data", ha="center", fontsize=9, color=INK)


def mask(axis: Any) -> None:
    """Draws rows that all go through both heads, empty where they are the other's, and are picked."""
    rows(axis, 0.3, TREATMENT)
    for y, color, name, arm in ((4.4, UNTREATED, "head0", 0), (0.9, TREATED, "head1", 1)):
        rows(axis, 3.0, [t if t == arm else None for t in TREATMENT], middle=y + 0.8)
        box(axis, 5.4, y + 0.1, 1.7, 1.4, name, color)
        arrow(axis, 1.6, 3.5, 2.9, y + 0.8)
        arrow(axis, 4.3, y + 0.8, 5.4, y + 0.8)
        arrow(axis, 7.1, y + 0.8, 8.4, 3.5)
    axis.text(7.2, 3.5, "where", ha="center", va="center", fontsize=10, color=INK, family="monospace")
    rows(axis, 8.5, TREATMENT)
    axis.text(5, 0.1, "both heads have all rows; one shape, compiled once", ha="center", fontsize=9, color=INK)


def rows(axis: Any, x: float, treatment: Any, middle: float = 3.5) -> None:
    """Draws a batch: a bar for each row, in the colour of its arm; None is a row of zeros."""
    height = 0.42
    top = middle + len(treatment) * height / 2
    for number, t in enumerate(treatment):
        color = EMPTY if t is None else (UNTREATED, TREATED)[t]
        axis.broken_barh([(x, 1.2)], (top - (number + 1) * height, height * 0.8), color=color)


def box(axis: Any, x: float, y: float, width: float, height: float, text: str, color: str) -> None:
    """Draws a part of the model."""
    axis.broken_barh([(x, width)], (y, height), color=color)
    axis.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=11, color="white")


def arrow(axis: Any, x0: float, y0: float, x1: float, y1: float) -> None:
    """Draws what flows."""
    axis.annotate("", (x1, y1), (x0, y0), arrowprops={"arrowstyle": "->", "color": INK, "lw": 1.2, "shrinkA": 2})


if __name__ == "__main__":
    sys.exit(main())
