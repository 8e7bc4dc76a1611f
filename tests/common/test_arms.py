"""Treatments of any label as numbers."""

from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from torch_ref.common.data.arms import code_arms


@pytest.mark.parametrize(
    ("values", "control", "numbers", "arms"),
    [
        ([0, 1, 1], None, [0, 1, 1], (0, 1)),
        ([1.0, 0.0], None, [1, 0], (0, 1)),
        ([True, False], None, [1, 0], (False, True)),
        (["b", "a", "b"], None, [1, 0, 1], ("a", "b")),
        (["b", "a", "b"], "b", [0, 1, 0], ("b", "a")),
        ([0, 1, 1], 1, [1, 0, 0], (1, 0)),
        ([0, 1, 1], "1", [1, 0, 0], (1, 0)),
        ([True, False], "true", [0, 1], (True, False)),
        ([True, False], "False", [1, 0], (False, True)),
        ([Decimal(1), Decimal("0.5")], None, [1, 0], (0.5, 1)),
        ([True, False], "TRUE", [0, 1], (True, False)),
        ([0, 1, 1], "1.0", [1, 0, 0], (1, 0)),
        ([10, 2, 5, 10, 2, 5], 5, [2, 1, 0, 2, 1, 0], (5, 2, 10)),
        ([0.5, 1.5, 0.5, 1.5], None, [0, 1, 0, 1], (0.5, 1.5)),
    ],
)
def test_labels_become_numbers(values: list[Any], control: object, numbers: list[int], arms: tuple[Any, ...]) -> None:
    t, found = code_arms(np.array(values), control)
    assert t.dtype == np.int32
    assert t.tolist() == numbers
    assert found == arms
    assert [type(label) for label in found] == [type(label) for label in arms]


def test_the_order_of_a_dtype_is_kept() -> None:
    values = np.array(["high", "none", "low"] * 2, object)
    assert code_arms(values, order=("none", "low", "high", "never"))[1] == ("none", "low", "high")


@given(st.lists(st.sampled_from(["a", "b", "c"]), min_size=6).filter(lambda values: len(set(values)) > 1))
def test_labels_come_back(values: list[str]) -> None:
    t, arms = code_arms(np.array(values), control=values[0])
    assert arms[0] == values[0]
    assert [arms[number] for number in t] == values


MOST = "treatment: expected at most 20 arms, and several rows in each, got"


@pytest.mark.parametrize(
    ("values", "control", "message"),
    [
        (["a", "a"], None, "treatment: expected at least two arms, got 'a' in every row"),
        ([1.0], None, "treatment: expected at least two arms, got 1 in every row"),
        (list("abcdefghijklmnopqrstu") * 2, None, f"{MOST} 21 different values in 42 rows, such as 'a', 'b', 'c'"),
        (
            [0.5, 1.5, 2.5, 3.5],
            None,
            f"{MOST} 4 different values in 4 rows, such as 0.5, 1.5, 2.5; cut a dose into a few arms first",
        ),
        (
            ["drug", "none", " Drug", "none", "drug", "none"],
            None,
            "treatment: expected arms that differ in more than capitals and spaces, got ' Drug' and 'drug'",
        ),
        (["a", "b"], "c", "control: expected one of 'a', 'b', got 'c'"),
        ([0, 1], 2, "control: expected one of 0, 1, got 2"),
        ([0, 1], "true", "control: expected one of 0, 1, got 'true'"),
        (
            np.array([1, "a"], object),
            None,
            "treatment: expected texts only or numbers only, got 1 in row 0 and 'a' in row 1",
        ),
        ([b"a", b"b"], None, "treatment: expected texts, numbers or truth values, got b'a' in row 0"),
        (
            np.array(["2026-01-02", "2026-01-03"], "datetime64[ns]"),
            None,
            "treatment: expected texts, numbers or truth values, got datetime64[ns]",
        ),
        ([0.0, np.nan, 1.0], None, "treatment: expected an arm in every row, got none in row 1"),
        (
            np.array(["a", None, "b", None], object),
            None,
            "treatment: expected an arm in every row, got none in row 1, 3",
        ),
    ],
)
def test_what_are_no_arms(values: Any, control: object, message: str) -> None:
    with pytest.raises(ValueError, match="expected") as caught:
        code_arms(np.asarray(values), control)
    assert str(caught.value) == message
