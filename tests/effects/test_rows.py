"""The rows of an ensemble's members."""

import math
import re
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings as examples, strategies as st

from flax_impl.effects.rows import MemberRows, draw_folds, draw_members

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


class TestHeldOutRowsGoRound:
    @examples(max_examples=60)
    @given(st.integers(3, 70), st.integers(3, 70), st.sampled_from([2, 3, 4, 5, 10]), st.integers(0, 2**31 - 1))
    def test_every_row_is_held_out_once_round(self, untreated: int, treated: int, folds: int, seed: int) -> None:
        t = np.repeat([0, 1], [untreated, treated])
        for bootstrap in (False, True):
            rows = draw(t, members=2 * folds, validation_share=1 / folds, seed=seed, bootstrap=bootstrap)
            assert rows.validation is not None
            for held_out in (rows.validation[:folds], rows.validation[folds:]):
                assert set(held_out.ravel().tolist()) == set(range(len(t)))
            sizes = [-(-count // folds) for count in (untreated, treated)]
            assert rows.validation.shape == (2 * folds, sum(sizes))
            assert rows.train.shape == (2 * folds, len(t) - sum(sizes))

    def test_folds_of_equal_size_hold_each_row_out_once(self) -> None:
        rows = draw(np.arange(100) % 2, members=5, validation_share=0.2)
        assert rows.validation is not None
        assert sorted(rows.validation.ravel()) == list(range(100))

    def test_a_second_round_is_drawn_anew(self) -> None:
        rows = draw(np.arange(100) % 2, members=10, validation_share=0.2)
        assert rows.validation is not None
        assert not np.array_equal(rows.validation[:5], rows.validation[5:])

    @pytest.mark.parametrize("share", [0.3, 0.66, 0.9, 0.97])
    def test_a_share_that_no_folds_make(self, share: float) -> None:
        rows = draw(np.arange(200) % 2, members=2, validation_share=share)
        assert rows.validation is not None
        assert rows.validation.shape == (2, 200 * share)


CLUSTERS = st.integers(0, 2**31 - 1).map(np.random.default_rng)


def clustered(generator: np.random.Generator, *, whole: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Returns a treatment, of whole clusters or not, and clusters, each arm in four of them at least."""
    clusters = int(generator.integers(8, 15))
    groups = np.concatenate([np.arange(clusters), generator.integers(clusters, size=int(generator.integers(8, 100)))])
    of_clusters = np.arange(clusters) % 2
    t = of_clusters[groups] if whole else generator.integers(2, size=len(groups))
    t[:clusters] = of_clusters
    return t, groups


class TestClusters:
    @examples(max_examples=40)
    @given(CLUSTERS, st.booleans(), st.booleans(), st.sampled_from([0.1, 0.2, 0.5, 0.9]))
    def test_a_cluster_is_not_on_both_sides(
        self, generator: np.random.Generator, whole: bool, bootstrap: bool, share: float
    ) -> None:
        t, groups = clustered(generator, whole=whole)
        rows = draw(t, members=4, groups=groups, bootstrap=bootstrap, validation_share=share)
        assert rows.validation is not None
        assert len(rows.train) == len(rows.validation) == 4
        assert rows.train.dtype == rows.validation.dtype == np.int32
        for train, held_out in zip(rows.train, rows.validation, strict=True):
            assert not np.intersect1d(groups[train], groups[held_out]).size
            assert set(t[train]) == {0, 1}
            # A cluster as a whole.
            assert set(held_out) == set(np.flatnonzero(np.isin(groups, groups[held_out])))
            assert set(train) == set(np.flatnonzero(np.isin(groups, groups[train])))
            if not bootstrap:
                assert set(train) | set(held_out) == set(range(len(t)))

    @examples(max_examples=20)
    @given(CLUSTERS, st.booleans())
    def test_every_cluster_is_held_out(self, generator: np.random.Generator, whole: bool) -> None:
        t, groups = clustered(generator, whole=whole)
        rows = draw(t, members=5, groups=groups, validation_share=0.2)
        assert rows.validation is not None
        assert set(rows.validation.ravel()) == set(range(len(t)))

    @pytest.mark.parametrize("share", [0, 0.2])
    def test_a_bootstrap_draws_whole_clusters(self, share: float) -> None:
        groups = np.repeat(np.arange(50), 4)
        t = np.arange(200) % 2
        rows = draw(t, members=6, groups=groups, bootstrap=True, validation_share=share)
        assert (rows.validation is None) == (share == 0)
        assert rows.train.shape == (6, 200 - 200 * share)
        for train in rows.train:
            times = np.bincount(train, minlength=200)
            assert (times.reshape(50, 4) == times[::4, None]).all()
            assert 0.5 < len(np.unique(groups[train])) / (50 - 50 * share) < 0.75  # 63 % of them, on average

    def test_labels_of_any_type(self) -> None:
        places = np.arange(60) % 6
        t = np.arange(60) // 6 % 2
        names = np.array(["a", "b", "c", "d", "e", "f"])
        expected = draw(t, groups=places)
        mixed = np.array(["a", 1, ("b",), 2.5, "x", "c"], object)
        for labels in (names[places], mixed[places], np.datetime64("2020-01-01") + places):
            np.testing.assert_array_equal(draw(t, groups=labels).train, expected.train)

    @pytest.mark.parametrize(
        ("groups", "message"),
        [
            (np.zeros(6), "groups: expected at least 2 clusters with rows of each arm, got 1"),
            (np.array([0, 1, 0, 2, 0, 3]), "groups: expected at least 2 clusters with rows of each arm, got 1"),
            (np.arange(5), "groups: expected shape [6], got [5]"),
            (np.array([1, 2, np.nan, 4, 5, 6]), "groups: expected a label in every row, got nan in row 2"),
        ],
    )
    def test_bad_clusters(self, groups: np.ndarray, message: str) -> None:
        with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
            draw(np.arange(6) % 2, groups=groups)


class TestFolds:
    @examples(max_examples=60)
    @given(CLUSTERS, st.booleans(), st.booleans(), st.integers(2, 7))
    def test_each_row_is_in_one_fold(
        self, generator: np.random.Generator, whole: bool, in_groups: bool, folds: int
    ) -> None:
        t, groups = clustered(generator, whole=whole)
        found = draw_folds(t, seed=1, groups=groups if in_groups else None, folds=folds)
        assert 2 <= len(found) <= folds
        np.testing.assert_array_equal(np.sum(found, axis=0), 1)
        for unseen in found:
            assert unseen.dtype == bool
            assert unseen.any()
            assert set(t[~unseen]) == {0, 1}
            if in_groups:
                assert not np.intersect1d(groups[unseen], groups[~unseen]).size
            else:
                treated = [t[unseen].sum() for unseen in found]
                assert max(treated) - min(treated) <= 1
        again, other = (draw_folds(t, seed=seed, folds=folds) for seed in (1, 2))
        if not in_groups:
            np.testing.assert_array_equal(found, again)
        assert not np.array_equal(again, other)

    def test_an_arm_of_few_rows_makes_fewer_folds(self) -> None:
        t = np.array([1, 1, 1, 0, 0, 0, 0, 0, 0, 0])
        assert len(draw_folds(t, seed=0)) == 3
        assert all(t[unseen].sum() == 1 for unseen in draw_folds(t, seed=0))

    def test_all_clusters_of_an_arm_in_one_fold_are_no_folds(self) -> None:
        """Treated rows are in two clusters; however the others are dealt out, no fold has both."""
        generator = np.random.default_rng(0)
        for seed in range(200):
            groups = np.append([0, 1], generator.integers(6, size=30))
            t = (groups < 2).astype(int)
            for unseen in draw_folds(t, seed=seed, groups=groups):
                assert set(t[~unseen]) == {0, 1}

    def test_an_arm_with_a_single_row(self) -> None:
        for t in (np.array([1, 0, 0, 0]), np.array([0, 1, 1]), np.zeros(4, int)):
            with pytest.raises(
                ValueError, match=r"^t: expected at least 2 rows of each arm for folds, got [01] of one$"
            ):
                draw_folds(t, seed=0)

    def test_without_scikit_learn(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "sklearn.model_selection", None)
        with pytest.raises(ImportError, match=r"^folds need scikit-learn: pip install 'twohead\[estimator\]'$"):
            draw_folds(np.arange(8) % 2, seed=0)
