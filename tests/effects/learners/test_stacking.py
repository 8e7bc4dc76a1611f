"""Weights of learners: a share each, and the largest to the one that is right."""

import re
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from flax_impl.effects.learners.stacking import stack_effects, stack_outcomes


def made_up(rows: int = 400, seed: int = 0) -> dict[str, Any]:
    """Returns a table with a known effect, and outcomes and propensities as they truly are."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=rows)
    score = 1 / (1 + np.exp(-x))
    t = (generator.random(rows) < score).astype(int)
    mu0, effect = np.sin(x), 1 + x
    y = mu0 + t * effect + 0.1 * generator.normal(size=rows)
    return {"effect": effect, "t": t, "y": y, "mu0": mu0, "mu1": mu0 + effect, "score": score}


def weighed(table: dict[str, Any], effects: list[np.ndarray], w: np.ndarray | None = None) -> np.ndarray:
    columns = {name: table[name] for name in ("t", "y", "mu0", "mu1", "score")}
    return stack_effects(np.stack(effects, axis=1), **columns, w=w)


class TestOutcomes:
    def test_hand_values(self) -> None:
        y = np.array([0.0, 1.0, 2.0])
        # A fourth of the way from the first to the second, and no row that says so better.
        found = stack_outcomes(np.stack([y - 1, y + 3], axis=1), y, None)
        np.testing.assert_allclose(found, [0.75, 0.25], atol=1e-6)

    def test_a_mixture_is_found(self) -> None:
        each = np.random.default_rng(0).normal(size=(200, 3))
        np.testing.assert_allclose(stack_outcomes(each, each @ [0.5, 0.2, 0.3], None), [0.5, 0.2, 0.3], atol=1e-6)

    def test_the_truth_wins(self) -> None:
        table = made_up()
        generator = np.random.default_rng(1)
        y = np.where(table["t"] == 1, table["mu1"], table["mu0"])
        wrong = [generator.normal(size=400), y + generator.normal(size=400)]
        np.testing.assert_allclose(
            stack_outcomes(np.stack([wrong[0], y, wrong[1]], axis=1), table["y"], None)[1], 1, atol=0.02
        )

    def test_never_below_0(self) -> None:
        y = np.arange(4.0)
        np.testing.assert_allclose(stack_outcomes(np.stack([y + 1, y + 2], axis=1), y, None), [1, 0], atol=1e-6)

    def test_weights_of_rows(self) -> None:
        y = np.zeros(10)
        each = np.stack([np.where(np.arange(10) < 5, 0, 1), np.where(np.arange(10) < 5, 1, 0)], axis=1)
        for w, expected in (
            (None, [0.5, 0.5]),
            (np.repeat([1.0, 0], 5), [1, 0]),
            (np.repeat([1.0, 3], 5), [0.25, 0.75]),
        ):
            np.testing.assert_allclose(stack_outcomes(each, y, w), expected, atol=1e-6)

    @pytest.mark.parametrize("w", [None, np.zeros(3)])
    def test_where_nothing_is_told_all_weigh_the_same(self, w: np.ndarray | None) -> None:
        rows = 0 if w is None else 3
        np.testing.assert_array_equal(stack_outcomes(np.ones((rows, 2)), np.zeros(rows), w), [0.5, 0.5])
        np.testing.assert_array_equal(stack_outcomes(np.zeros((5, 4)), np.zeros(5), None), [0.25] * 4)

    @given(
        st.integers(1, 30),
        st.integers(1, 4),
        st.integers(0, 2**31 - 1),
        st.sampled_from([1e-200, 1e-20, 1.0, 1e20, 1e200]),
        st.sampled_from([0.0, 1e-14, 1e-6, 1.0]),
    )
    def test_weights_are_shares(self, rows: int, learners: int, seed: int, unit: float, apart: float) -> None:
        """Of any number of learners, alike or not, in any unit."""
        generator = np.random.default_rng(seed)
        each = generator.normal(size=(rows, 1)) + apart * generator.normal(size=(rows, learners))
        y = generator.normal(size=rows)
        found = stack_outcomes(each * unit, y * unit, None)
        assert (found >= 0).all()
        assert found.sum() == pytest.approx(1)
        if apart == 1:
            np.testing.assert_allclose(found, stack_outcomes(each, y, None), atol=1e-6)

    def test_no_learner_alone_is_better(self) -> None:
        generator = np.random.default_rng(0)
        y = generator.normal(size=100)
        each = y[:, None] + generator.normal(size=(100, 4)) * [0.5, 1, 2, 4]
        found = stack_outcomes(each, y, None)
        assert np.mean((each @ found - y) ** 2) <= np.mean((each - y[:, None]) ** 2, axis=0).min()
        assert found[0] == max(found)

    def test_bad_weights(self) -> None:
        for w, message in ((np.array([1.0, -1]), "w: expected weights of at least 0, got -1.0"), (np.ones(3), "w: ")):
            with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
                stack_outcomes(np.ones((2, 2)), np.ones(2), w)

    def test_without_scipy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "scipy.optimize", None)
        with pytest.raises(ImportError, match=r"^learners need scipy: pip install 'twohead\[jax\]'$"):
            stack_outcomes(np.ones((2, 2)), np.ones(2), None)


class TestEffects:
    @pytest.mark.parametrize("place", [0, 1, 2])
    def test_the_truth_wins(self, place: int) -> None:
        table = made_up()
        x = table["effect"] - 1
        effects = [np.ones(400), 1 - x]
        effects.insert(place, table["effect"])
        found = weighed(table, effects)
        assert (found >= 0).all()
        assert found.sum() == pytest.approx(1)
        assert found[place] == pytest.approx(1, abs=0.05)

    def test_it_wins_where_outcomes_are_wrong(self) -> None:
        """The propensities are right, and the rows many, so the expected outcomes need not be."""
        table = made_up(20_000)
        table |= {"mu0": np.zeros(20_000), "mu1": np.zeros(20_000)}
        assert weighed(table, [table["effect"], np.ones(20_000)])[0] > 0.8

    def test_rows_of_weight_0_do_not_count(self) -> None:
        table, effects = made_up(), [made_up()["effect"], np.ones(400)]
        w = (np.arange(400) < 200).astype(float)
        half = {name: column[:200] for name, column in table.items()}
        spoilt = table | {"y": np.where(w == 0, 1e3, table["y"])}
        expected = weighed(half, [effect[:200] for effect in effects])
        np.testing.assert_allclose(weighed(spoilt, effects, w), expected, atol=1e-6)

    def test_a_single_learner(self) -> None:
        table = made_up()
        np.testing.assert_allclose(weighed(table, [np.ones(400)]), [1])
