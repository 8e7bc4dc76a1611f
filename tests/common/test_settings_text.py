"""A setting has the same text in every process, and another one has another."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from torch_ref import FactualLoss
from torch_ref.common.files.settings_text import text_of
from torch_ref.common.stream.statistics import ColumnStatistics


@dataclass
class Named:
    """A setting of a user."""

    name: str


class Plain:
    """An object without a text of its own."""

    def __init__(self, held: Any) -> None:
        self.held = held

    def call(self, x: Any) -> Any:
        return self.held, x


class Module(torch.nn.Module):
    """Shows nothing of what it holds."""

    def __init__(self, held: float) -> None:
        super().__init__()
        self.held, self.weight = held, torch.nn.Parameter(torch.full((2,), held))


def around(held: Any) -> Callable[[Any], Any]:
    return lambda x: (held, x)


def default(held: Any) -> Callable[[Any], Any]:
    def call(x: Any, held: Any = held) -> Any:
        return held, x

    return call


def compiled(number: float) -> Any:
    """Returns a function without a source, with another inside."""
    return eval(f"lambda x: (lambda: x * {number} + (x in {{'a', 'b'}}))()")


def measured(number: float) -> ColumnStatistics:
    return ColumnStatistics.of(("a",), [np.full((2, 1), number)])


LOSSES = {1.0: FactualLoss(), 2.0: FactualLoss(reduction="batch")}
LAMBDAS = {1.0: lambda x: x * 1.0, 2.0: lambda x: x * 2.0}  # on one line
MAKERS: dict[str, Callable[[float], Any]] = {
    "a loss in a function": lambda number: around(LOSSES[number]),
    "a loss as default": lambda number: default(LOSSES[number]),
    "measures in a function": lambda number: around({"x": measured(number)}),
    "a function in a function": lambda number: around(around(number)),
    "a method in a function": lambda number: around(Plain(number).call),
    "an object in an object": lambda number: Plain(Plain([number])),
    "a loss in an object": lambda number: Plain([LOSSES[number]]),
    "lambdas on a line": LAMBDAS.__getitem__,
    "no source": compiled,
    "a field called name": lambda number: Named(str(number)),
    "a module": Module,
    "texts in an array": lambda number: np.array([f"{number} and more", None], object),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_others_have_another_text(kind: str) -> None:
    make = MAKERS[kind]
    assert text_of(make(1.0)) == text_of(make(1.0))
    assert text_of(make(1.0)) != text_of(make(2.0))


def test_what_holds_itself_has_a_text() -> None:
    one, other = Plain(None), Plain(None)
    one.held, other.held = one, other
    assert text_of(around(one)) == text_of(around(other))
