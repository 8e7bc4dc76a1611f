"""Both sides compute the same: outputs, losses and gradients, for drawn models and batches, in float64."""

import numpy as np
import pytest
from cases import Case, two_head_cases, two_in_two_out_cases
from hypothesis import given, settings

from flax_impl.parity import scaled_difference
from sides import FlaxSide, TorchSide

pytestmark = pytest.mark.usefixtures("x64")

TOLERANCE = 1e-12  # gate A: an honest port sits near 1e-15


class Worst:
    """The largest difference of each phase over all cases of a test."""

    def __init__(self) -> None:
        self.cases = 0
        self.found: dict[str, float] = {}

    def check(self, model: str, loss: str, case: Case) -> None:
        torch = TorchSide(model, case.config, seed=case.seed, dtype="float64")
        flax = FlaxSide(model, case.config, weights=torch.weights())
        losses = [getattr(side.package, loss)(**case.loss) for side in (torch, flax)]
        for batch in case.batches:
            reference, found = torch.evaluate(losses[0], batch), flax.evaluate(losses[1], batch)
            assert found.keys() == reference.keys()
            self.cases += 1
            for name, array in reference.items():
                assert found[name].dtype == array.dtype == np.float64
                difference = scaled_difference(found[name], array)
                phase = name.split("/")[0]
                self.found[phase] = max(self.found.get(phase, 0.0), difference)
                assert difference <= TOLERANCE, name

    def __str__(self) -> str:
        phases = ", ".join(f"{phase} {difference:.1e}" for phase, difference in self.found.items())
        return f"{self.cases} cases, largest scaled difference: {phases} (at most {TOLERANCE:.0e})"


def test_two_head(measured: list[str]) -> None:
    worst = Worst()

    @settings(max_examples=100)
    @given(two_head_cases())
    def check(case: Case) -> None:
        worst.check("TwoHead", "FactualLoss", case)

    check()
    measured.append(f"two-head, float64: {worst}")
    assert worst.cases >= 300


def test_two_in_two_out(measured: list[str]) -> None:
    worst = Worst()

    @settings(max_examples=50)
    @given(two_in_two_out_cases())
    def check(case: Case) -> None:
        worst.check("TwoInTwoOut", "JointLoss", case)

    check()
    measured.append(f"two-in/two-out, float64: {worst}")
    assert worst.cases >= 100
