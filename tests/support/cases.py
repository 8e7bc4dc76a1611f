"""Cases for hypothesis: models of any shape, and batches of any pattern; the port in NNX as a side; shared errors."""

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import numpy as np
import pytest
from flax import nnx
from hypothesis import strategies as st

import flax_impl
from flax_impl.commands.sides import FlaxSide, TorchSide
from flax_impl.models.pure import as_pure
from torch_ref.models import ACTIVATIONS
from torch_ref.training import CRITERIA


class Case(NamedTuple):
    """A model, batches for it, all of one shape, and the loss that is asked of it."""

    config: dict[str, Any]
    batches: list[dict[str, np.ndarray]]
    loss: dict[str, Any]
    seed: int


activations = st.sampled_from(sorted(ACTIVATIONS))
criteria = st.sampled_from(sorted(CRITERIA))


def widths(least: int, most: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(1, 8), min_size=least, max_size=most)


@st.composite
def two_head_cases(draw: st.DrawFn) -> Case:
    """Draws depths from none to three, two to five arms, perhaps embeddings; treatments mixed, all 0, all the last."""
    config = {
        "in_features": draw(st.integers(1, 6)),
        "representation_features": draw(widths(0, 3)),
        "head_features": draw(widths(0, 2)),
        "out_features": draw(st.integers(1, 3)),
        "activation": draw(activations),
        "final_activation": draw(activations),
    }
    rows, seed = draw(st.integers(1, 12)), draw(st.integers(0, 2**32 - 1))
    generator = np.random.default_rng(seed)
    more = draw(st.sets(st.sampled_from(("w", "mask"))))
    arms = config["arms"] = draw(st.sampled_from((2, 2, 3, 5)))
    tables = draw(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3)), max_size=2))
    plain = config["in_features"]
    config |= {"in_features": plain + len(tables), "embeddings": tables} if tables else {}
    batches = []
    for t in (generator.integers(0, arms, rows), np.zeros(rows), np.full(rows, arms - 1)):
        codes = [generator.integers(-1, levels + 1, rows) for levels, _ in tables]  # at both ends a level that is none
        x = np.column_stack([generator.normal(size=(rows, plain)), *codes])
        batch = {"x": x, "t": t.astype(np.int32), "y": labels(draw, generator, (rows, config["out_features"]))}
        batches.append(batch | weights_and_mask(generator, rows, more))
    loss = {"criterion": draw(criteria), "reduction": draw(st.sampled_from(("per_head", "batch"))), "arms": arms}
    return Case(config, batches, loss, seed)


@st.composite
def two_in_two_out_cases(draw: st.DrawFn) -> Case:
    """Draws one to three hidden layers."""
    config = {
        "in_features": draw(st.integers(1, 5)),
        "hidden_features": draw(widths(1, 3)),
        "out_features": draw(st.integers(1, 3)),
        "activation": draw(activations),
        "code_activation": draw(activations),
        "final_activation": draw(activations),
    }
    rows, seed = draw(st.integers(1, 12)), draw(st.integers(0, 2**32 - 1))
    generator = np.random.default_rng(seed)
    more = draw(st.sets(st.sampled_from(("w", "mask"))))
    batches = []
    for _ in range(2):
        batch = {name: generator.normal(size=(rows, config["in_features"])) for name in ("x1", "x2")}
        batch |= {name: labels(draw, generator, (rows, config["out_features"])) for name in ("y1", "y2")}
        batches.append(batch | weights_and_mask(generator, rows, more))
    return Case(config, batches, {"criterion": draw(criteria)}, seed)


def labels(draw: st.DrawFn, generator: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Numbers from 0 to 1, which every criterion takes, or 0 and 1 alone."""
    drawn = generator.random(shape)
    return drawn.round() if draw(st.booleans()) else drawn


def weights_and_mask(generator: np.random.Generator, rows: int, wanted: Collection[str]) -> dict[str, np.ndarray]:
    """Weights of the rows and a mask of them, as far as they are wanted."""
    drawn = {"w": generator.exponential(size=rows), "mask": generator.random(rows) < 0.7}
    return {name: array for name, array in drawn.items() if name in wanted}


def nnx_of(model: Any) -> Any:
    """The NNX module of a Linen module's arguments."""
    return getattr(flax_impl.models.nnx, type(model).__name__)(**model.config, rngs=nnx.Rngs(0))


class NNXSide(FlaxSide):
    """The port in NNX, beside the reference and the port in Linen."""

    def _evaluate_jitted(self) -> Any:
        self.model = as_pure(nnx_of(self.model))
        return super()._evaluate_jitted()


def same_error(kind: type[Exception], call: Callable[[Any], object]) -> str:
    """Returns the message with which both sides refuse what `call` does with a side."""
    messages = []
    for side in (TorchSide, FlaxSide):
        with pytest.raises(kind) as caught:
            call(side)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    return messages[0]
