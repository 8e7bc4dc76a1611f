"""Torch, Linen and NNX compute the same: outputs, losses and gradients, for drawn models and batches, in float64."""

import numpy as np
import pytest
from hypothesis import given, settings

from flax_impl.commands.sides import FlaxSide, TorchSide
from flax_impl.parity import scaled_difference
from tests.support.cases import Case, NNXSide, two_head_cases, two_in_two_out_cases

pytestmark = pytest.mark.usefixtures("x64")

TOLERANCE = 1e-12  # gate A: an honest port sits near 1e-15


class Worst:
    """The largest difference of each phase over all cases of a test."""

    def __init__(self) -> None:
        self.cases = 0
        self.found: dict[str, float] = {}

    def check(self, model: str, loss: str, case: Case) -> None:
        torch = TorchSide(model, case.config, seed=case.seed, dtype="float64")
        tables = {name: array for name, array in torch.weights().items() if name.startswith("embedding.")}
        if tables:  # they start at zero, which would hide the row that is taken
            drawn = {name: np.random.default_rng(case.seed).normal(size=array.shape) for name, array in tables.items()}
            torch = TorchSide(model, case.config, weights=torch.weights() | drawn)
        ports = [side(model, case.config, weights=torch.weights()) for side in (FlaxSide, NNXSide)]
        for batch in case.batches:
            reference, linen, nnx = (
                side.evaluate(getattr(side.package, loss)(**case.loss), batch) for side in (torch, *ports)
            )
            self.cases += 1
            for found, other in ((linen, reference), (nnx, reference), (nnx, linen)):
                assert found.keys() == other.keys()
                largest = max(np.abs(array).max(initial=0.0) for name, array in other.items() if "grad/" in name)
                for name, array in other.items():
                    assert found[name].dtype == array.dtype == np.float64
                    difference = scaled_difference(found[name], array)
                    phase = name.split("/")[0]
                    if phase == "grad":  # one that cancels to nothing is measured by the others, as in the harness
                        size = np.abs(array).max(initial=0.0)
                        difference *= size / max(size, 1e-3 * largest) if size else 1.0
                    self.found[phase] = max(self.found.get(phase, 0.0), difference)
                    assert difference <= TOLERANCE, name

    def __str__(self) -> str:
        phases = ", ".join(f"{phase} {difference:.1e}" for phase, difference in self.found.items())
        return f"{self.cases} cases, largest scaled difference: {phases} (at most {TOLERANCE:.0e})"


def cases(quick: int, slow: int) -> pytest.MarkDecorator:
    """How many models are drawn: each is two programs to compile."""
    return pytest.mark.parametrize("models", [quick, pytest.param(slow, marks=pytest.mark.slow)])


@cases(4, 100)
def test_two_head(models: int, measured: list[str]) -> None:
    worst = Worst()

    @settings(max_examples=models)
    @given(two_head_cases())
    def check(case: Case) -> None:
        worst.check("TwoHead", "FactualLoss", case)

    check()
    measured.append(f"two-head, float64: {worst}")
    assert worst.cases >= 3 * models


@cases(4, 50)
def test_two_in_two_out(models: int, measured: list[str]) -> None:
    worst = Worst()

    @settings(max_examples=models)
    @given(two_in_two_out_cases())
    def check(case: Case) -> None:
        worst.check("TwoInTwoOut", "JointLoss", case)

    check()
    measured.append(f"two-in/two-out, float64: {worst}")
    assert worst.cases >= 2 * models
