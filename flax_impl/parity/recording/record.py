"""Records a training of the port: runs it and writes down everything."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch_ref.common.record_inputs import input_names, named_batches
from torch_ref.common.settings.optimizers import Adam
from torch_ref.common.trace import Trace

from ...training.losses import FactualLoss
from ..weight_map.map import WeightMap
from .program import Program
from .run import Run
from .variables import open_model, own_names


def record(
    model: Any,
    params: Any,
    batches: Iterable[Mapping[str, Any]],
    loss: Callable[..., Any] = FactualLoss(),
    *,
    optimizer: Any = Adam(),
    forward: Callable[..., Any] | None = None,
    inputs: Sequence[str] | None = None,
    weight_map: WeightMap | None = None,
    recipe: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Trace:
    """Trains the model, a step for each batch, and returns all that was computed on the way.

    Every submodule is looked into while one jitted call computes everything; nothing of the model changes. What runs
    under a lifted transformation (`nn.scan`, `nn.remat`) is computed, but not looked into.

    Twin: `torch_ref.record`, whose model holds its parameters, and which knows the noise of float32.

    Args:
        model: any Linen or NNX module. It is left as it is.
        params: a Linen module's parameters, or all its variables by collection; None for an NNX module, which has them.
        batches: a mapping of arrays for each step, by the names that `loss` gives them.
        loss: takes the model and the batch by their names, and returns a number, or several to be added.
        optimizer: settings of ours, or any of optax's.
        forward: takes the model and the batch by their names, and returns what to compare as the outputs; None takes
            those of the model's calls in `loss`.
        inputs: entries of the batch that the model is called with, and that gradients are taken by. None takes those
            that its call names, or else the first.
        weight_map: torch's names and layout for what the model holds; None turns its own names into torch's.
        recipe: what it takes to make the batches again; goes into the trace as it is.
        progress: shows a bar, or plain lines, once it takes long.

    Returns:
        The trace: inputs, activations, outputs, losses, gradients, the optimiser's state and the new parameters of each
        step, by torch's names.

    Raises:
        ValueError: no batch, or an unknown input.

    Example:
        >>> import flax_impl
        >>> batches = [flax_impl.data.curves(points=5, seed=seed) for seed in range(2)]
        >>> model = flax_impl.TwoInTwoOut(hidden_features=2)
        >>> trace = record(model, model.init_params(seed=0), batches, flax_impl.JointLoss(), progress=False)
        >>> trace.steps, trace.arrays["0/activation/hidden1"].shape
        (2, (5, 2))
    """
    batches = named_batches(batches)
    held, variables = open_model(model, params)
    program = Program(held, loss, forward, tuple(input_names(model.__call__, batches[0], inputs)))
    run = Run(program, variables, optimizer, weight_map or own_names(variables.shapes()))
    return run.through(batches, recipe=recipe, progress=progress, model=model)
