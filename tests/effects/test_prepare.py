"""What an ensemble trains on."""

import re
import warnings
from typing import Any

import numpy as np
import pytest

from flax_impl.effects.overlap import examine
from flax_impl.effects.prepare import prepare
from flax_impl.effects.rows import draw_members
from flax_impl.effects.settings import EffectSettings
from tests.support.tables import table
from torch_ref.data import Scales, treatment_weights


def settings(**changed: Any) -> EffectSettings:
    return EffectSettings(**{"members": 2, "dtype": "float64"} | changed)


class TestPreparation:
    def test_defaults(self) -> None:
        made = prepare(data := table(), settings())
        assert made.lengths == {"epochs": 300, "steps": None, "batch_size": 100, "patience": 20}
        assert sorted(made.arrays) == ["t", "x", "y"]
        for name in ("x", "y"):
            np.testing.assert_allclose(made.arrays[name].mean(axis=0), 0, atol=1e-12)
            np.testing.assert_allclose(made.arrays[name].std(axis=0), 1)
        np.testing.assert_array_equal(made.arrays["t"], data.t)
        np.testing.assert_allclose(made.scales.y_mean, data.y.mean(axis=0))
        expected = draw_members(data.t, members=2, validation_share=0.2, bootstrap=False, seed=0)
        np.testing.assert_array_equal(made.rows.train, expected.train)
        assert made.rows.validation is not None
        assert made.rows.validation.shape == (2, 12)

    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            ({"batch_size": 1, "rows": 40}, 16),  # 500 steps are 15.6 epochs of 32 rows
            ({"batch_size": 2}, 20),
            ({"batch_size": 1, "rows": 500}, 12),  # 1.25 epochs
            ({"patience": 7}, 7),
            ({"validation_share": 0}, None),
        ],
    )
    def test_patience(self, change: dict[str, Any], expected: int | None) -> None:
        change = dict(change)
        made = prepare(table(change.pop("rows", 60)), settings(**change))
        assert made.lengths["patience"] == expected

    def test_how_long(self) -> None:
        made = prepare(table(), settings(**{"steps": 9})).lengths
        assert (made["epochs"], made["steps"]) == (None, 9)
        made = prepare(table(), settings(**{"epochs": 4, "batch_size": 7})).lengths
        assert (made["epochs"], made["steps"], made["batch_size"]) == (4, None, 7)

    def test_weights(self) -> None:
        w = np.random.default_rng(1).uniform(1, 2, 60)
        data = table(treated=24, w=w)
        np.testing.assert_array_equal(prepare(data, settings()).arrays["w"], w)
        by_arm = treatment_weights(data.t)
        np.testing.assert_allclose(prepare(data, settings(cfr_weights=True)).arrays["w"], w * by_arm)
        np.testing.assert_allclose(prepare(table(treated=24), settings(cfr_weights=True)).arrays["w"], by_arm)

    def test_binary_outcomes_stay(self) -> None:
        data = table(y=(np.arange(60) % 3 == 0).astype(float)[:, None])
        made = prepare(data, settings(**{"binary": True}))
        np.testing.assert_array_equal(made.arrays["y"], data.y)
        assert made.scales == Scales(made.scales.x_mean, made.scales.x_std, made.scales.y_mean, made.scales.y_std, True)

    def test_doubts_are_warnings(self) -> None:
        data = table(treated=3)
        data.x[:, 1] = 0
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            prepare(data, settings())
        assert [str(warning.message) for warning in caught] == examine(data)
        assert len(caught) == 2
        assert {warning.category for warning in caught} == {UserWarning}

    @pytest.mark.parametrize(
        ("data", "change", "message"),
        [
            ({"treated": 0}, {}, "t: expected treated and untreated rows, got 0 treated of 60"),
            ({"treated": 60}, {}, "t: expected treated and untreated rows, got 60 treated of 60"),
            (
                {"y": np.full((60, 1), 2.0)},
                {"binary": True},
                "y: expected 0 or 1 in every row, got 2.0 in row 0",
            ),
            ({"y": np.full((60, 1), np.nan)}, {}, "y: expected finite numbers, got nan in row 0, column 0 (60 in all)"),
            ({"w": np.zeros(60)}, {}, "w: expected at least one weight that is not zero, got none"),
            (
                {"w": np.full(60, 1e-300)},
                {"dtype": "float32"},
                "w: expected at least one weight that is not zero, got none",
            ),
            (
                {"w": np.full(60, 1e300)},
                {"dtype": "float32"},
                "w: expected numbers that float32 holds, got 1e+300 in row 0 (60 in all)",
            ),
            ({}, {"batch_size": 0}, "batch_size: expected a whole number of at least 1, got 0"),
            ({}, {"members": 0}, "members: expected a whole number of at least 1, got 0"),
        ],
    )
    def test_bad_arguments(self, data: dict[str, Any], change: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
            prepare(table(**data), settings(**change))
