"""Pictures of doubt: that they show the numbers they are made of."""

import numpy as np
import pytest

from flax_impl.effects import (
    AverageBounds,
    Benchmark,
    HiddenConfounding,
    MarginalBounds,
    Refutation,
    Refutations,
    confounding_figure,
    marginal_figure,
    refutation_figure,
)

FOUND = HiddenConfounding(2.0, 0.5, 4.0, 0.2, 0.0, 100, benchmarks=(Benchmark("age", 0.04, 0.1, 0.2),))


@pytest.mark.parametrize("sign", [1, -1])
def test_the_contour_shows_benchmarks_and_the_robustness_value(sign: int) -> None:
    found = HiddenConfounding(sign * 2.0, 0.5, 4.0, 0.2, 0.0, 100, benchmarks=FOUND.benchmarks)
    axes = confounding_figure(found).axes[0]
    drawn = [np.asarray(line.get_xydata()) for line in axes.get_lines()]
    points = [tuple(line[0].tolist()) for line in drawn if len(line) == 1]
    assert (0.1, 0.04) in points  # the treatment to the right, the outcome upwards
    assert (found.robustness_value(), found.robustness_value()) in points
    assert "age" in [text.get_text() for text in axes.texts]
    assert axes.get_legend() is not None
    narrow = confounding_figure(found, most=0.05).axes[0]
    assert narrow.get_xlim()[1] == pytest.approx(0.05)


def test_the_bounds_widen_to_the_right() -> None:
    one, two = AverageBounds(2.0, 2.0, 1.0, 3.0), AverageBounds(1.0, 3.0, 0.0, 4.0)
    bounds = [MarginalBounds(ratio, ends, ends, ends) for ratio, ends in ((2.0, two), (1.0, one))]
    axes = marginal_figure(bounds).axes[0]
    outline = axes.collections[0].get_paths()[0].vertices
    assert {(1.0, 1.0), (1.0, 3.0), (2.0, 0.0), (2.0, 4.0)} <= {tuple(point) for point in np.asarray(outline).tolist()}
    with pytest.raises(ValueError, match=r"^found: expected bounds at one odds ratio at least, got none$"):
        marginal_figure([])


def test_refutations_are_dots() -> None:
    passed = Refutation("placebo", 0.0, np.array([0.1, -0.2, 0.3]), np.ones(3))
    refuted = Refutation("subset", 2.0, np.array([7.0, 8.0, 9.0]), np.ones(3))
    axes = refutation_figure(Refutations(2.0, 0.5, 0.1, (passed, refuted))).axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == [
        "the table itself", "placebo treatment\n0 of 3 outside, passed", "subset of the rows\n3 of 3 outside, refuted",
    ]  # fmt: skip
    dots = [np.asarray(line.get_xdata()).tolist() for line in axes.get_lines() if line.get_marker() == "o"]
    assert dots == [[2.0], [0.1, -0.2, 0.3], [7.0, 8.0, 9.0]]
