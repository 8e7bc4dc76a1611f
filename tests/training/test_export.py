"""What a training compiles is for any accelerator: this machine, with a CPU only, lowers it for all three."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flax_impl
from flax_impl.training.early_stopping import begin
from flax_impl.training.loop import loop_steps
from flax_impl.training.replicas.vectorised import vectorised_loop
from flax_impl.training.traced_settings import as_pytree
from torch_ref.common.batches import BatchOrder, HeldOut, batch_order

PLATFORMS = ("cpu", "cuda", "tpu")
PRECISIONS = ("float32", "tf32", "bfloat16")


class Training(NamedTuple):
    """A model with all that a step of its training takes."""

    model: Any
    loss: Any
    table: dict[str, jax.Array]


def training(name: str) -> Training:
    if name == "two-head":
        model = flax_impl.TwoHead(5, [8], [6], final_activation="identity")
        loss, data = flax_impl.FactualLoss(), flax_impl.data.synthetic(rows=40, features=5).arrays()
    else:
        model, loss, data = flax_impl.TwoInTwoOut(hidden_features=[6]), flax_impl.JointLoss(), flax_impl.data.curves(40)
    table = {name: jnp.asarray(array, jnp.int32 if name == "t" else jnp.float32) for name, array in data.items()}
    return Training(model, loss, table)


def one_step(made: Training, precision: str) -> tuple[Callable[..., Any], Callable[[], tuple[Any, ...]]]:
    """Returns the program, and what makes its arguments: the programs that follow reuse the memory of theirs."""
    params, optimizer = made.model.init_params(), flax_impl.SGD()

    @jax.jit
    def step(params: Any, state: Any, batch: Any) -> Any:
        return flax_impl.train_step(made.model, params, optimizer, state, batch, made.loss, precision)

    return step, lambda: (params, flax_impl.training.build_optimizer(optimizer).init(params), made.table)


def loop_of_steps(made: Training, precision: str) -> tuple[Callable[..., Any], Callable[[], tuple[Any, ...]]]:
    optimizer = flax_impl.Adam()
    index, mask = batch_order(40, batch_size=16, steps=4, shuffle=True, seed=0)

    @jax.jit
    def steps(state: Any, optimizer: Any, table: Any, index: Any, mask: Any, count: Any, loss: Any) -> Any:
        return loop_steps(made.model, state, optimizer, table, index, mask, (0, count), loss, precision)

    def arguments() -> tuple[Any, ...]:
        params = made.model.init_params()
        state = (params, flax_impl.training.build_optimizer(optimizer).init(params), None)
        return state, optimizer, made.table, index, mask, np.int32(3), as_pytree(made.loss)

    return steps, arguments


def replicas(made: Training, precision: str) -> tuple[Callable[..., Any], Callable[[], tuple[Any, ...]]]:
    """Two of them, with rates and held-out rows of their own, over one table."""
    program = vectorised_loop(made.model, precision, tuple((name, True) for name in made.table), True)
    orders = BatchOrder.stacked([BatchOrder(40, batch_size=16, shuffle=True, seed=seed) for seed in range(2)])
    index, mask = orders.take(4)

    def stacked(*trees: Any) -> Any:
        return jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves), jnp.float32), *trees)

    def arguments() -> tuple[Any, ...]:
        params = made.model.init_params(range(2))
        optimizers = stacked(flax_impl.SGD(lr=0.1), flax_impl.SGD(lr=0.2))
        state = (
            params,
            jax.vmap(lambda optimizer, params: flax_impl.training.build_optimizer(optimizer).init(params))(
                optimizers, params
            ),
        )
        state = (*state, jax.vmap(begin)(params))
        held_out = HeldOut(np.arange(8, dtype=np.int32).reshape(2, 4), 3, 1)
        losses_of = stacked(as_pytree(made.loss), as_pytree(made.loss))
        return state, optimizers, made.table, index, mask, (np.int32(0), np.int32(3)), losses_of, held_out

    return program, arguments


def custom_calls(exported: jax.export.Exported) -> set[str]:
    """Returns what the program calls that is no operation of StableHLO, and that a platform may not know."""
    return set(re.findall(r"custom_call\s*@([\w.$]+)", exported.mlir_module()))


@pytest.mark.parametrize(
    ("name", "called"), [("two-head", "bfloat16"), pytest.param("two-in-two-out", "float32", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    "of", [*(pytest.param(of, marks=pytest.mark.slow) for of in (one_step, loop_of_steps)), replicas]
)
def test_a_training_lowers_for_cpu_cuda_and_tpu(of: Any, name: str, called: str) -> None:
    """In each precision; and the program that was lowered for all gives the numbers of the one that runs here."""
    made = training(name)
    for precision in PRECISIONS:
        program, arguments = of(made, precision)
        exported = jax.export.export(program, platforms=PLATFORMS)(*arguments())
        assert exported.platforms == PLATFORMS
        assert exported.nr_devices == 1
        assert custom_calls(exported) == set()
        assert "stablehlo.dot_general" in exported.mlir_module()
        if precision == called:  # one of them, as it has to be compiled twice
            found, expected = exported.call(*arguments()), program(*arguments())
            assert jax.tree.structure(found) == jax.tree.structure(expected)
            for array, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
                assert array.dtype == other.dtype
                np.testing.assert_allclose(array, other, rtol=1e-6, atol=1e-7)


def test_a_call_that_one_platform_knows_would_be_noticed() -> None:
    exported = jax.export.export(jax.jit(jnp.linalg.qr), platforms=["cpu"])(jnp.ones((3, 3)))
    assert any("lapack" in call for call in custom_calls(exported))
