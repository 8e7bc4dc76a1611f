"""What makes the effects of a table doubtful, and propensities."""

import sys

import numpy as np
import pytest

from flax_impl.effects.overlap import examine, examine_overlap, feature_names
from flax_impl.effects.propensities import propensity
from tests.support.tables import table


class TestDoubts:
    def test_none_where_all_is_well(self) -> None:
        assert examine(table()) == []
        assert examine(table(40)) == []  # 20 in each arm

    @pytest.mark.parametrize("arm", ["treated", "untreated"])
    def test_few_rows_in_an_arm(self, arm: str) -> None:
        made = table(treated=19 if arm == "treated" else 41)
        assert examine(made) == [f"only 19 of 60 rows are {arm}: their outcome is little more than a guess"]
        assert examine(table(treated=20 if arm == "treated" else 40)) == []

    def test_a_constant_outcome(self) -> None:
        assert examine(table(y=np.full((60, 1), 7.0))) == ["the outcome is 7 in all rows: no effect can show"]

    def test_constant_columns(self) -> None:
        made = table()
        made.x[:, 1] = 3
        assert examine(made) == ["constant columns tell nothing: x2"]
        named = table(x=made.x, feature_names=("age", "sex", "income"))
        assert examine(named) == ["constant columns tell nothing: sex"]

    @pytest.mark.parametrize("sign", [1, -1])
    def test_features_that_determine_the_treatment(self, sign: int) -> None:
        made = table(feature_names=("age", "sex", "income"))
        made.x[:, 0] = made.x[:, 2] = sign * made.t
        assert examine(made) == [
            "the treatment is determined by age, income: no row says what it would have had in the other arm"
        ]
        made.x[0] = sign  # one row is enough, if it is in the other arm
        assert examine(made) == []

    def test_all_at_once(self) -> None:
        made = table(treated=3)
        made.x[:, 0], made.x[:, 1] = made.t, 0
        named = [sentence.split(":")[0] for sentence in examine(made)]
        assert named == [
            "only 3 of 60 rows are treated", "constant columns tell nothing", "the treatment is determined by x1"
        ]  # fmt: skip

    def test_one_arm_determines_nothing(self) -> None:
        assert examine(table(treated=0)) == ["only 0 of 60 rows are treated: their outcome is little more than a guess"]

    def test_overlap(self) -> None:
        score = np.full(100, 0.5)
        score[:6], score[6:10] = 0.01, 0.99
        assert examine_overlap(np.stack([1 - score, score])) == []  # a tenth of them may
        score[10] = 0.981
        assert examine_overlap(np.stack([1 - score, score])) == [
            "poor overlap: 11 of 100 rows have a propensity below 0.02 or above 0.98; their effects are extrapolated, "
            "or a feature tells what came after the treatment"
        ]
        assert examine_overlap(np.stack([np.full(100, 0.98), np.full(100, 0.02)])) == []

    def test_names(self) -> None:
        assert feature_names(table()) == ("x1", "x2", "x3")
        assert feature_names(table(feature_names=("a", "b", "c"))) == ("a", "b", "c")


class TestPropensity:
    def test_a_logistic_relation_is_found(self, measured: list[str]) -> None:
        generator = np.random.default_rng(0)
        z = generator.normal(size=(4000, 2))
        true = 1 / (1 + np.exp(-(2 * z[:, 0] - 1)))
        t = (generator.random(4000) < true).astype(np.int32)
        x = z * [1e4, 1e-4] + [5e4, 0]  # whatever the scale
        error = np.abs(propensity(x, t) - true).mean()
        measured.append(f"propensities of a logistic relation: off by {error:.3f} (at most 0.03)")
        assert error <= 0.03
        assert np.abs(t.mean() - true).mean() > 0.2  # what a constant would be off by

    def test_a_rare_arm_of_a_large_table(self) -> None:
        """The one treated row is not among those that are drawn to fit on."""
        rows = 20_100
        drawn = np.random.default_rng(0).choice(rows, 20_000, replace=False)
        t, x = np.zeros(rows, np.int32), np.zeros((rows, 2))
        alone = np.setdiff1d(np.arange(rows), drawn)[0]
        t[alone], x[alone, 0] = 1, 1
        score = propensity(x, t)
        assert score.shape == (rows,)
        assert score.argmax() == alone

    def test_what_is_not_installed_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
        with pytest.raises(ImportError, match=r"^propensities need scikit-learn: pip install 'twohead\[estimator\]'$"):
            propensity(np.zeros((2, 1)), np.array([0, 1]))
