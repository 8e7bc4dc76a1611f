"""Opens a port beside its reference once, and runs it through the reference's training."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax import nnx
from flax.errors import InvalidRngError

from torch_ref.common.call_names import summed
from torch_ref.common.memory import release
from torch_ref.common.progress import Progress
from torch_ref.common.record_inputs import named_batches
from torch_ref.common.settings.optimizers import Adam
from torch_ref.common.tape.tape import Tape
from torch_ref.common.trace import Trace

from ...training.losses import FactualLoss
from ..alignment.divergence import find_divergences
from ..alignment.partners import find_partners
from ..alignment.proof.draws import forced_draws
from ..conversion.conversion import Conversion, of_links
from ..conversion.entries import entries_of
from ..conversion.find import search
from ..conversion.match import match
from ..naming.names import moved, name_causes
from ..report.entries import Finding
from ..report.step_report import StepReport
from ..weight_map.map import WeightMap, WeightMapError, propose_map
from .operations.numbers import exact_numbers
from .operations.tape import TracedStep
from .program import Program
from .run import Run
from .variables import Variables, cast, linen_shapes, open_model


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

    def _batch(self, step: int) -> dict[str, np.ndarray]:
        return {name: cast(np.asarray(array), self.reference.dtype) for name, array in self.batches[step].items()}

    def operations(self, step: int) -> StepReport | None:
        """Compares the operations of a step with those of the reference, from its parameters and on the port's batch.

        Where those of the loss agree, those of `forward` are compared.

        Args:
            step: of the training; None is returned where the reference has no tape of it.
        """
        tape, of_forward, forward = (
            self.reference.tapes.get(step),
            self.reference.forward_tapes.get(step),
            self.program.forward,
        )
        if tape is None:
            return None
        found = self._compared(tape, step, self.program.loss)
        if not found.passed or of_forward is None or forward is None:
            return found
        other = self._compared(of_forward, step, summed(forward))
        return found if other.passed else other

    def _compared(self, tape: Tape, step: int, loss: Callable[..., Any]) -> StepReport:
        own = self.start if step == 0 else self.start.at_step(step, self.weight_map, self.reference)
        model, params = self.model, None
        if isinstance(model, nnx.Module):
            model = nnx.merge(self.program.model, own.params, own.buffers, own.others)
        else:
            rest = {"batch_stats": own.buffers} if own.buffers else {}
            params = {"params": own.params, **rest, **own.others}
        return compared(tape, TracedStep(model, params, self._batch(step), loss))


def compared(reference: Tape, step: TracedStep, weight_map: Conversion | None = None) -> StepReport:
    """Returns where a step leaves a tape, with the proofs and the causes.

    Args:
        reference: the tape.
        step: of the port.
        weight_map: how its weights are made of the reference's, to be shown.
    """
    step.numbers = step.numbers or exact_numbers(reference)
    tape = step.tape()
    if drawn := forced_draws(reference, tape):
        tape = step.tape(exchanges=drawn)
    partners = find_partners(reference, tape)
    with Progress(None, step.progress, "run") as report:
        places = find_divergences(partners, step, put_in=drawn, report=report)
    guessed = () if weight_map is None else weight_map.guessed
    causes = tuple(tuple(_doubted(cause, guessed) for cause in name_causes(place, step)) for place in places)
    places = tuple(moved(place, named) for place, named in zip(places, causes, strict=True))
    return StepReport(partners, places, weight_map, causes)


def _doubted(cause: Finding, guessed: Sequence[str]) -> Finding:
    """Returns a cause that speaks of a weight as not proved, where it was guessed which weight that is."""
    return replace(cause, certain=cause.certain and not any(name in cause.text for name in guessed))


def opened_step(
    tape: Tape,
    model: Any,
    batch: Mapping[str, Any],
    loss: Callable[..., Any],
    *,
    params: Any = None,
    shapes: Any = None,
    renames: Mapping[str, str] | None = None,
    progress: bool = False,
) -> tuple[TracedStep, Conversion]:
    """Returns a port's step with the weights that a tape's reference had, and how they are made of them.

    A module's weights are mapped by names and shapes where those say enough, and by their values else.

    Args:
        tape: the reference's.
        model: this, `batch` and `loss` as for `check_step`.
        batch: arrays by name.
        loss: takes the model and the batch.
        params: the port's own parameters; None takes the reference's.
        shapes: of a function's parameters, where those are to be taken from the reference.
        renames: corrects the map by names.
        progress: shows a bar, or plain lines, once it takes long.

    Raises:
        ValueError: neither `params` nor `shapes` of a function, or the port has weights that the reference does not.
    """
    entries = entries_of(tape)
    is_module = isinstance(model, nn.Module | nnx.Module)
    if params is not None:
        step = TracedStep(model, params, batch, loss, progress=progress)
        return step, match(entries, step.weights)
    if shapes is None and not is_module:
        raise ValueError("params: expected the port's parameters, or their shapes in `shapes`, got None")
    shapes = linen_shapes(model, loss, batch) if shapes is None else shapes
    step = TracedStep(model, _zeros(shapes), batch, loss, progress=progress)
    step.numbers = exact_numbers(tape)
    made = _by_name(tape, entries, model, shapes, renames) if is_module else None
    found = search(tape, step.structure(), step, progress=progress) if made is None else made
    step.fill(found.arrays(entries))
    release(sum(array.nbytes for array in entries.values()))
    return step, replace(found, unflatten=lambda arrays: step.params(dict(zip(found.made, arrays, strict=True))))


def state_of(
    tape: Tape, model: Any, params: Any, batch: Mapping[str, Any], loss: Callable[..., Any], **settings: Any
) -> dict[str, np.ndarray]:
    """Returns the state of a torch module with a model's weights; see `flax_impl.parity.torch_state`.

    Args:
        tape: of the torch module, with any weights.
        model: this and the rest as for `opened_step`.
        params: the model's own.
        batch: arrays by name.
        loss: takes the model and the batch.
        settings: `renames` and `progress`.
    """
    own = TracedStep(model, params, batch, loss).weights
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), np.asarray(leaf).dtype), params)
    return opened_step(tape, model, batch, loss, shapes=shapes, **settings)[1].state(own)


def _by_name(
    tape: Tape, entries: Mapping[str, Any], model: Any, own: Any, renames: Mapping[str, str] | None
) -> Conversion | None:
    """Returns what names and shapes say of a module's weights; None where that is not all, or not clear."""
    _, variables = open_model(model, own)
    shapes = {name: array.shape for name, array in entries.items()}
    try:
        found = propose_map(
            shapes, variables.shapes(), kinds=tape.metadata.get("modules", {}), renames=renames, partial=True
        )
    except WeightMapError:
        return None
    if found.flax_only:
        return None
    made = of_links(found.links)
    if isinstance(model, nnx.Module):  # whose tree has no collections
        made = {name.partition(".")[2]: expression for name, expression in made.items()}
    return Conversion(made, shapes, None, (), (*found.ignored, *found.torch_only))


def _zeros(shapes: Any) -> Any:
    """Returns zeros in place of shapes; arrays stay as they are."""
    return jax.tree.map(
        lambda leaf: np.zeros(leaf.shape, leaf.dtype) if isinstance(leaf, jax.ShapeDtypeStruct) else leaf, shapes
    )


def check_mode(reference: Trace) -> None:
    """Raises ValueError for a float64 reference while JAX's 64-bit mode is off."""
    if reference.dtype == "float64" and not jax.config.read("jax_enable_x64"):
        raise ValueError("reference: expected float32 while JAX's 64-bit mode is off, got float64; see jax.enable_x64")
