"""A reference that splits its batch between two heads, and a port that masks: places, proofs and names."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from flax_impl.parity import StepReport, check_step
from torch_ref.recording import record_tape

ROWS, WIDTH = 9, 4
_DRAWN = np.random.default_rng(3)
BATCH = {
    "x": _DRAWN.normal(size=(ROWS, WIDTH)).astype(np.float32),
    "t": np.array([0, 1, 1, 0, 1, 0, 1, 1, 0]),
    "y": _DRAWN.normal(size=ROWS).astype(np.float32),
    "w": _DRAWN.uniform(0.5, 2, size=ROWS).astype(np.float32),
}


class TwoHeads(torch.nn.Module):
    """Two shared layers and two heads, each of them activated by the same line."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.shared = torch.nn.ModuleList([torch.nn.Linear(WIDTH, 5), torch.nn.Linear(5, 5)])
        self.heads = torch.nn.ModuleList([torch.nn.Linear(5, 1), torch.nn.Linear(5, 1)])

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        for layer in self.shared:
            x = torch.tanh(layer(x))
        y0, y1 = (torch.sigmoid(head(x))[:, 0] for head in self.heads)
        return y0, y1


def split_loss(model: Any, x: Any, t: Any, y: Any, w: Any) -> Any:
    losses = []
    for arm in (0, 1):
        rows = t == arm
        error = (model(x[rows])[arm] - y[rows]) ** 2
        losses.append((error * w[rows]).sum() / len(error))
    return tuple(losses)


def port(params: Any, x: Any, act: Any = jnp.tanh) -> Any:
    for i in (0, 1):
        x = act(x @ params[f"shared.{i}.weight"].T + params[f"shared.{i}.bias"])
    return tuple(
        jax.nn.sigmoid(x @ params[f"heads.{arm}.weight"].T + params[f"heads.{arm}.bias"])[:, 0] for arm in (0, 1)
    )


def masked_loss(model: Any, x: Any, t: Any, y: Any, w: Any, fault: str = "") -> Any:
    treated = t == (0 if fault == "inverted" else 1)
    outcomes = model(x)
    losses = []
    for arm, rows in ((0, ~treated), (1, treated)):
        error = (outcomes[arm] - y) ** 2
        error = error / 2 if fault == "half" else error
        weighted = error if fault == "unweighted" else error * w
        count = (t == arm).sum() if fault != "all rows" else ROWS
        losses.append(jnp.where(rows, weighted, 0).sum() / count)
    return tuple(losses)


@pytest.fixture(autouse=True)
def allowed() -> Iterator[None]:
    """As in most people's code."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def checked(fault: str = "", act: Any = jnp.tanh) -> StepReport:
    model = TwoHeads()
    reference = record_tape(model, BATCH, split_loss)
    params = {name: value.detach().numpy() for name, value in model.named_parameters()}
    return check_step(
        reference,
        lambda p, x: port(p, x, act),
        BATCH,
        lambda model, x, t, y, w: masked_loss(model, x, t, y, w, fault),
        params=params,
    )


def test_an_honest_port_agrees() -> None:
    assert checked().passed


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("inverted", "the port's mask is the other way round"),
        ("unweighted", "the port does not multiply by the input `w`, which the reference does"),
        ("half", "the port divides by 2, which the reference does not"),
        ("all rows", "the port divides by 9 where the reference has 4"),
    ],
)
def test_a_fault_of_the_loss_is_one_place_with_a_proof(fault: str, words: str) -> None:
    report = checked(fault)
    assert len(report.places) == 1, report
    assert report.places[0].proved
    assert report.causes[0], report
    assert words in report.causes[0][0].text
    assert report.causes[0][0].certain


def test_a_function_that_all_layers_share_is_one_place() -> None:
    report = checked(act=jax.nn.relu)
    assert len(report.places) == 1, report
    assert report.places[0].proved
    assert report.places[0].calls == 1
    assert "the same at one further call of these lines" in str(report)
    assert "the port applies jax.nn.relu where the reference applies jnp.tanh" in report.causes[0][0].text
