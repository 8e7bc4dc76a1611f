"""Dropout and noise: the port gets what the reference drew, so that a step with them is compared to the last digit."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import torch_ref
from flax_impl.parity import StepReport, check_step, compare_tapes, record_tape

X = np.random.default_rng(0).normal(size=(3, 4, 6)).astype(np.float32)


class Net(torch.nn.Module):
    """Dropout of its attention and of its residual, and noise on the latent."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.into, self.out = torch.nn.Linear(6, 8), torch.nn.Linear(8, 6)
        self.dropout = torch.nn.Dropout(0.25)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.into(x).unsqueeze(1)
        h = torch.nn.functional.scaled_dot_product_attention(h, h, h, dropout_p=0.1 if self.training else 0.0)
        h = self.dropout(h.squeeze(1))
        h = h + torch.randn_like(h) * torch.exp(0.5 * h) if self.training else h
        return x + self.dropout(torch.tanh(self.out(h)))


class Port(nn.Module):
    """The same, and a fault of choice."""

    fault: str = ""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = True) -> jax.Array:
        h = nn.Dense(8, name="into")(x)
        scores = jax.nn.softmax(jnp.einsum("bqd,bkd->bqk", h, h) / np.sqrt(8))
        if train:
            heads = (1, *scores.shape[1:]) if self.fault == "shared" else scores.shape
            keep = jax.random.bernoulli(self.make_rng("dropout"), 0.9, heads)
            scores = jnp.where(keep, scores if self.fault == "unscaled" else scores / 0.9, 0)
        h = jnp.einsum("bqk,bkd->bqd", scores, h)
        h = nn.Dropout(0.2 if self.fault == "rate" else 0.25, deterministic=not train)(h)
        if train:
            noise = jax.random.normal(self.make_rng("dropout"), h.shape)
            h = h + noise * jnp.exp(h if self.fault == "variance" else 0.5 * h)
        out = nn.Dropout(0.25, deterministic=not train or self.fault == "none")
        h = nn.Dense(6, name="out")(h)
        return x + (jnp.tanh(out(h)) if self.fault == "before" else out(jnp.tanh(h)))


def squares(model: Any, x: Any) -> Any:
    return (model(x) ** 2).mean()


def checked(port: nn.Module, *, train: bool = True) -> StepReport:
    reference = torch_ref.recording.record_tape(Net().train(train), {"x": X}, squares, progress=False)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return check_step(reference, port, {"x": X}, squares, progress=False)


def test_a_step_that_draws_is_compared_to_the_last_digit() -> None:
    report = checked(Port())
    assert report.passed, report
    ours, theirs = report.partners.reference, report.partners.port
    for name in ("loss/0", "grad/x", "output/0"):
        a, b = ours.arrays[ours.results[name]], theirs.arrays[theirs.results[name]]
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("rate", "the rate of dropout is 0.2 in the port, 0.25 in the reference: pass rate=0.25"),
        pytest.param(
            "unscaled",
            "the port does not divide what dropout keeps by 0.9, the share that it keeps",
            marks=pytest.mark.slow,
        ),
        pytest.param("variance", "the port does not multiply by 0.5, which the reference does", marks=pytest.mark.slow),
        ("none", "the reference draws at random here, as dropout does, and the port does not"),
        pytest.param("before", "tanh", marks=pytest.mark.slow),
    ],
)
def test_a_fault_of_dropout_is_named(fault: str, words: str) -> None:
    report = checked(Port(fault))
    assert not report.passed
    assert words in " ".join(str(report).split()), report


def test_a_mask_that_rows_share_is_said() -> None:
    """As Flax's attention has it: the reference's masks fit all the same, so that the rest is compared."""
    report = checked(Port("shared"))
    assert report.passed, report
    assert "a mask of [1, 4, 4] for [3, 4, 4], where the reference draws each" in str(report)
    assert len(report.to_json()["shared_masks"]) == 1
    assert not checked(Port()).to_json()["shared_masks"]


def test_only_one_side_draws() -> None:
    report = checked(Port(), train=False)
    assert "the port draws at random here, which the reference does not" in " ".join(str(report).split()), report


class OfNNX(nnx.Module):
    """A layer with dropout, under remat: the mask is drawn again on the way back."""

    def __init__(self) -> None:
        self.layer = nnx.Linear(6, 8, rngs=nnx.Rngs(0))
        self.dropout = nnx.Dropout(0.25, rngs=nnx.Rngs(1))

    def __call__(self, x: jax.Array) -> jax.Array:
        return nnx.remat(lambda model, x: jnp.tanh(model.dropout(model.layer(x))))(self, x)


def test_a_mask_that_is_drawn_again_is_the_same() -> None:
    class OfTorch(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer = torch.nn.Linear(6, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tanh(torch.nn.functional.dropout(self.layer(x), 0.25))

    reference = torch_ref.recording.record_tape(OfTorch(), {"x": X}, squares, progress=False)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        report = check_step(reference, OfNNX(), {"x": X}, squares, progress=False)
    assert report.passed, report


def test_a_reference_is_recorded_twice_alike() -> None:
    tapes = [torch_ref.recording.record_tape(Net().train(), {"x": X}, squares, progress=False) for _ in range(2)]
    for a, b in zip(*(tape.arrays.values() for tape in tapes), strict=True):
        np.testing.assert_array_equal(a, b)
    before = torch.get_rng_state()
    torch_ref.recording.record_tape(Net().train(), {"x": X}, squares, progress=False)
    assert torch.equal(torch.get_rng_state(), before)


def test_two_tapes_that_draw_cannot_be_compared() -> None:
    tape = torch_ref.recording.record_tape(Net().train(), {"x": X}, squares, progress=False)
    with pytest.raises(ValueError, match="reference: expected nothing drawn at random, as nothing is run again here"):
        compare_tapes(tape, tape)
    assert record_tape
