"""Which features move the effect: by known shares, by property, and by Shapley values of linear effects."""

import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings as examples, strategies as st

from flax_impl.effects import effect_importance, shap_importance

X = np.random.default_rng(0).normal(size=(3000, 4))


def linear(x: np.ndarray) -> np.ndarray:
    return x[:, 0] + 2 * x[:, 1]


def test_shares_of_known_effects() -> None:
    found = effect_importance(linear, X, columns=["a", "b", "c", "d"], rows=3000)
    np.testing.assert_allclose(found.share, [0.2, 0.8, 0, 0], atol=0.03)
    assert (found.share[2:] == 0).all()
    assert [found.names[i] for i in found.order] == ["b", "a", "c", "d"]
    assert (found.method, found.rows, found.values) == ("permutation", 3000, None)
    # What acts only together counts for both: each alone loses everything.
    product = effect_importance(lambda x: x[:, 0] * x[:, 1], X, rows=3000)
    np.testing.assert_allclose(product.share, [1, 1, 0, 0], atol=0.12)


def test_columns_that_are_permuted_together() -> None:
    twin = X[:, [0, 0, 1, 2]]  # the first two say the same
    columns = ["a", "again", "b", "c"]

    def of_both(x: np.ndarray) -> np.ndarray:
        return (x[:, 0] + x[:, 1]) / 2 + x[:, 2]

    alone = effect_importance(of_both, twin, columns=columns)
    assert alone.share[0] < 0.2
    found = effect_importance(of_both, twin, columns=columns, together={"both": ["again", "a"]})
    assert found.names == ("both", "b", "c")
    np.testing.assert_allclose(found.share, [0.5, 0.5, 0], atol=0.05)


def test_few_rows_are_drawn_and_parts_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def counted(x: np.ndarray) -> np.ndarray:
        seen.append(len(x))
        return linear(x)

    found = effect_importance(counted, X, rows=100, repeats=3)
    assert found.rows == 100
    assert sum(seen) == 100 * (1 + 3 * 4)
    from flax_impl.effects.decisions import importance

    monkeypatch.setattr(importance, "_PART", 7)
    np.testing.assert_array_equal(effect_importance(linear, X, rows=100, repeats=3).share, found.share)


def test_an_effect_that_is_the_same_in_all_rows_has_no_shares() -> None:
    for constant in (0.0, 0.1):
        found = effect_importance(lambda x, constant=constant: np.full(len(x), constant), X, rows=50)
        assert not found.share.any()
        assert not found.standard_error.any()


@examples(max_examples=20)
@given(st.integers(0, 2**31 - 1), st.floats(0.1, 10), st.floats(-5, 5))
def test_properties(seed: int, scale: float, shift: float) -> None:
    """A unit and an offset of the effect change nothing, nor does the unit of a feature that the effect knows."""
    x = np.random.default_rng(seed).normal(size=(60, 3))
    found = effect_importance(linear, x, seed=seed)
    other = effect_importance(lambda x: scale * linear(x) + shift, x, seed=seed)
    np.testing.assert_allclose(other.share, found.share, atol=1e-9)
    unit = effect_importance(lambda x: linear(x / [1, 7, 1]), x * [1, 7, 1], seed=seed)
    np.testing.assert_allclose(unit.share, found.share, atol=1e-9)


def test_categories_and_gaps_are_permuted_as_they_are() -> None:
    x = X[:200, :2].copy()
    x[::3, 0] = np.nan
    found = effect_importance(lambda x: np.where(np.isnan(x[:, 0]), 1.0, 0.0), x)
    np.testing.assert_allclose(found.share, [1, 0], atol=0.15)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"repeats": 1}, "repeats: expected a whole number of at least 2, got 1"),
        ({"rows": 1}, "rows: expected a whole number of at least 2, got 1"),
        ({"x": X[:1]}, "x: expected at least 2 rows, got 1"),
        ({"together": {"both": ["a", "x"]}}, "together: expected names among a, b, c, d, got 'x'"),
        ({"together": {"one": ["a"], "two": ["a"]}}, "together: expected each column in one group, got 'a' in several"),
        ({"together": {"c": ["a"]}}, "together: expected a name that no other column has, got 'c'"),
        ({"columns": ["a", "b", "a", "d"]}, "columns: expected a name of its own for each, got 'a' twice"),
        ({"effect": lambda x: x}, r"effect: expected shape \[10\], got \[10, 4\]"),
        ({"effect": lambda x: np.log(0 * x[:, 0] - 1)}, "effect: expected finite numbers, got nan in row 0 .*"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_bad_arguments(change: dict[str, Any], message: str) -> None:
    arguments = {"effect": linear, "x": X[:10], "columns": ["a", "b", "c", "d"], **change}
    with pytest.raises(ValueError, match=f"^{message}$"):
        effect_importance(**arguments)


@pytest.mark.slow
def test_shapley_values_of_a_linear_effect() -> None:
    """Each is the coefficient times how far the feature is from its mean in the background."""
    pytest.importorskip("shap")
    found = shap_importance(linear, X[:40], rows=40, background=40)
    assert found.values is not None
    expected = (X[:40] - X[:40].mean(axis=0)) * [1, 2, 0, 0]
    np.testing.assert_allclose(found.values, expected, atol=1e-9)
    size = np.abs(expected).mean(axis=0)
    np.testing.assert_allclose(found.share, size / size.sum(), atol=1e-9)
    assert found.share.sum() == pytest.approx(1)
    assert (found.standard_error[:2] > 0).all()
    assert (found.method, found.rows) == ("shap", 40)
    state = np.random.get_state()  # noqa: NPY002
    nothing = shap_importance(lambda x: np.ones(len(x)), X[:10], rows=5)
    assert not nothing.share.any()
    assert str(np.random.get_state()) == str(state)  # noqa: NPY002


@pytest.mark.slow
def test_the_cost_of_shapley_values_is_as_stated() -> None:
    pytest.importorskip("shap")
    seen: list[int] = []

    def counted(x: np.ndarray) -> np.ndarray:
        seen.append(len(x))
        return linear(x)

    shap_importance(counted, X, rows=10, background=20, permutations=2)
    assert sum(seen) <= 1.5 * 10 * 2 * (2 * 4 + 1) * 20


def test_shap_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shap", None)
    with pytest.raises(ImportError, match=r"^Shapley values need shap: pip install 'twohead\[shap\]'$"):
        shap_importance(linear, X)
