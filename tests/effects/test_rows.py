"""The rows of an ensemble's members."""

import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings as examples, strategies as st

from flax_impl.effects.rows import MemberRows, draw_members

DRAW: dict[str, Any] = {"members": 3, "validation_share": 0.3, "bootstrap": False, "seed": 0}


def draw(t: np.ndarray, **changes: Any) -> MemberRows:
    return draw_members(**{"t": t, **DRAW, **changes})


class TestDrawnRows:
    @examples(max_examples=40)
    @given(
        st.lists(st.integers(0, 1), min_size=4, max_size=60),
        st.sampled_from([0.2, 0.5, 0.9]),
        st.integers(1, 4),
        st.integers(0, 2**31 - 1),
    )
    def test_arms_are_kept(self, arms: list[int], share: float, members: int, seed: int) -> None:
        t = np.array(arms)
        counts = np.bincount(t, minlength=2)
        of_arms = [round(share * count) if share == 0.9 else math.ceil(share * count) for count in counts]
        expected = [min(held_out, count - 1) if count else 0 for held_out, count in zip(of_arms, counts, strict=True)]
        settings: dict[str, Any] = {"members": members, "validation_share": share, "seed": seed}
        if not sum(expected):
            with pytest.raises(ValueError, match=r"^validation_share: expected a share that holds a row out, got "):
                draw_members(t, bootstrap=False, **settings)
            return
        rows, drawn = (draw_members(t, bootstrap=bootstrap, **settings) for bootstrap in (False, True))
        for of_all in (rows, drawn):
            assert of_all.validation is not None
            assert of_all.train.dtype == of_all.validation.dtype == np.int32
            assert len(of_all.train) == len(of_all.validation) == members
            for train, held_out in zip(of_all.train, of_all.validation, strict=True):
                assert np.bincount(t[held_out], minlength=2).tolist() == expected
                assert np.bincount(t[train], minlength=2).tolist() == (np.bincount(t, minlength=2) - expected).tolist()
                assert not np.intersect1d(train, held_out).size
                assert len(np.unique(held_out)) == len(held_out)
                if of_all is rows:
                    assert sorted([*train, *held_out]) == list(range(len(t)))

    def test_a_bootstrap_draws_from_the_kept_rows(self) -> None:
        t = np.arange(200) % 2
        drawn = draw(t, bootstrap=True)
        assert drawn.validation is not None
        for train, held_out in zip(drawn.train, drawn.validation, strict=True):
            different = len(np.unique(train))
            assert 0.5 * len(train) < different < 0.75 * len(train)  # 63 % of them, on average
            assert not np.isin(train, held_out).any()

    def test_members_and_seeds_differ(self) -> None:
        t = np.arange(60) % 2
        for bootstrap in (False, True):
            first, again, other = (draw(t, bootstrap=bootstrap, seed=seed) for seed in (1, 1, 2))
            np.testing.assert_array_equal(first.train, again.train)
            assert not np.array_equal(first.train, other.train)
            assert first.validation is not None
            assert not np.array_equal(np.sort(first.validation[0]), np.sort(first.validation[1]))

    def test_nothing_is_held_out(self) -> None:
        rows = draw(np.arange(7) % 2, validation_share=0)
        assert rows.validation is None
        np.testing.assert_array_equal(np.sort(rows.train), [np.arange(7)] * 3)

    def test_held_out_rows_are_capped(self) -> None:
        t = (np.arange(100_000) % 4 == 0).astype(np.int32)
        rows = draw(t, members=1)
        assert rows.validation is not None
        assert rows.validation.shape == (1, 16_384)
        assert t[rows.validation].mean() == 0.25
        assert rows.train.shape == (1, 100_000 - 16_384)

    def test_an_arm_keeps_a_row(self) -> None:
        rows = draw(np.array([1, 0, 0, 0, 0, 0]), validation_share=0.99)
        assert rows.validation is not None
        assert rows.validation.shape == (3, 4)
        assert (rows.train == 0).any(axis=1).all()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"members": 0}, "members: expected a whole number of at least 1, got 0"),
            ({"validation_share": 1}, "validation_share: expected a finite number of at least 0 and below 1, got 1"),
            ({"validation_share": -0.1}, "validation_share: expected a finite number of at least 0 and below 1"),
            ({"validation_share": 0.01}, "validation_share: expected a share that holds a row out, got 0.01 of 6"),
            ({"seed": -1}, "seed: expected a whole number of at least 0, got -1"),
            ({"t": np.array([0, 2])}, "t: expected 0 or 1 in every row, got 2 in row 1"),
        ],
    )
    def test_bad_arguments(self, change: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
            draw(**{"t": np.arange(6) % 2, **change})
