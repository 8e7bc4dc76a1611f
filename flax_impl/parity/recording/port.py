"""Opens a port beside its reference once, and runs it through the reference's training."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from flax import nnx
from flax.errors import InvalidRngError

from torch_ref.common.checks.arguments import listed
from torch_ref.common.record_inputs import named_batches
from torch_ref.common.settings.optimizers import Adam
from torch_ref.common.tape.tape import Tape
from torch_ref.common.trace import Trace

from ...training.losses import FactualLoss
from ..weight_map.map import WeightMap, propose_map
from .program import Program
from .run import Run
from .variables import Variables, linen_shapes, open_model


@dataclass(frozen=True)
class Port:
    """A port beside its reference: the model opened, the weights mapped, the batches and the first variables ready.

    `opened` makes it.
    """

    reference: Trace
    model: Any
    program: Program
    start: Variables
    optimizer: Any
    weight_map: WeightMap
    batches: Sequence[Mapping[str, Any]]

    @classmethod
    def opened(
        cls,
        reference: Trace,
        model: Any,
        loss: Callable[..., Any] = FactualLoss(),
        *,
        optimizer: Any = Adam(),
        params: Any = None,
        batches: Iterable[Mapping[str, Any]] | None = None,
        forward: Callable[..., Any] | None = None,
        renames: Mapping[str, str] | None = None,
    ) -> "Port":
        """Returns the port, ready to run; arguments as `check_parity`."""
        taken = [reference.batch(k) for k in range(reference.steps)]
        own = taken if batches is None else named_batches(batches)[: len(taken)]
        held, variables = open_model(model, linen_shapes(model, loss, own[0]) if params is None else params)
        shapes = {name: array.shape for name, array in reference.phase(0, "param").items()}
        kinds = reference.metadata["modules"]
        weight_map = propose_map(shapes, variables.shapes(), kinds=kinds, renames=renames, partial=True)
        # Zeros for what the reference does not have; whatever it has replaces them.
        start = variables.filled(reference.dtype)
        if params is None:
            start = start.at_step(0, weight_map, reference)
        program = Program(held, loss, forward, tuple(reference.metadata["inputs"]))
        return cls(reference, model, program, start, optimizer, weight_map, own)

    def replay(self, *, forced: bool, progress: bool) -> Trace:
        """Returns the port's trace under the reference's names.

        Args:
            forced: whether each step starts from the reference's parameters, gradients and moments, so that it is
                judged by itself; else the port goes its own way from the first weights, which shows what adds up.
            progress: shows a bar, or plain lines, once it takes long.
        """
        run = Run(self.program, self.start, self.optimizer, self.weight_map, self.reference, forced)
        try:
            return run.through(
                self.batches, recipe=self.reference.metadata["recipe"], progress=progress, model=self.model
            )
        except InvalidRngError as error:
            raise ValueError(
                "model: expected no dropout that draws, as no two frameworks draw alike; call it with "
                f"deterministic=True, or set its rate to 0 ({error})"
            ) from error


def with_weights(
    tape: Tape, model: Any, batch: Mapping[str, Any], loss: Callable[..., Any], renames: Mapping[str, str] | None
) -> tuple[Any, Any]:
    """Returns a Linen or NNX model and its parameters with the weights that a tape's reference had.

    Raises:
        WeightMapError: two candidates for a weight fit equally well.
        ValueError: the port has weights that the reference does not have, or the tape was recorded without values.
    """
    arrays = {
        name.partition("/")[2]: tape.arrays[number]
        for name, number in tape.leaves.items()
        if not name.startswith("input/") and number in tape.arrays
    }
    held, variables = open_model(model, linen_shapes(model, loss, batch))
    shapes = {name: array.shape for name, array in arrays.items()}
    kinds = tape.metadata.get("modules", {})
    weight_map = propose_map(shapes, variables.shapes(), kinds=kinds, renames=renames, partial=True)
    if weight_map.flax_only:
        raise ValueError(
            f"params: expected the port's parameters, as the reference has no {listed(weight_map.flax_only)}; got None"
        )
    known = {name: array for name, array in arrays.items() if name not in weight_map.torch_only}
    found = variables.filled("float32").replaced(weight_map.to_flax(known))
    if isinstance(model, nnx.Module):
        return nnx.merge(held, found.params, found.buffers, found.others), None
    rest = {"batch_stats": found.buffers} if found.buffers else {}
    return model, {"params": found.params, **rest, **found.others}


def check_mode(reference: Trace) -> None:
    """Raises ValueError for a float64 reference while JAX's 64-bit mode is off."""
    if reference.dtype == "float64" and not jax.config.read("jax_enable_x64"):
        raise ValueError("reference: expected float32 while JAX's 64-bit mode is off, got float64; see jax.enable_x64")
