"""Running a port through the training of its reference, and holding the two against each other."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.errors import InvalidRngError

from torch_ref.common.record_inputs import named_batches
from torch_ref.common.settings.optimizers import Adam
from torch_ref.common.trace import Trace

from ...training.losses import FactualLoss
from ..comparison.compare import compare
from ..report.entries import Report
from ..weight_map.map import WeightMap, propose_map
from .program import Program, Variables
from .run import Layout, Run, from_reference, opened, shapes_of


def check_parity(
    reference: Trace,
    model: Any,
    loss: Callable[..., Any] = FactualLoss(),
    *,
    optimizer: Any = Adam(),
    params: Any = None,
    batches: Iterable[Mapping[str, Any]] | None = None,
    forward: Callable[..., Any] | None = None,
    renames: Mapping[str, str] | None = None,
    progress: bool = True,
) -> Report:
    """Runs the port through the reference's training, both ways, and says whether, where and why the two part.

    Args:
        reference: as `torch_ref.record` or `load_trace` gives it.
        model: any Linen or NNX module.
        loss: takes the model and the batch by their names, and returns a number, or several to be added.
        optimizer: settings of ours, or any of optax's.
        params: the port's own first parameters, to hold its own conversion to account; None takes the reference's.
        batches: the port's own batches, to hold its own order to account; None takes the reference's.
        forward: takes the model and the batch by their names, and returns what to compare as the outputs; None takes
            those of the model's calls in `loss`.
        renames: corrects the weight map, where names alone do not say it: torch's module by the port's.
        progress: shows a bar, or plain lines, once it takes long.

    Returns:
        The report: `passed`, the first divergence and its cause, every entry beside its bound; `print` shows it.

    Raises:
        WeightMapError: two candidates for a weight fit equally well.
        ValueError: a float64 reference while JAX's 64-bit mode is off.

    Example:
        >>> import flax_impl
        >>> import torch_ref
        >>> model = torch_ref.TwoInTwoOut(hidden_features=2)
        >>> reference = torch_ref.record(model, [torch_ref.data.curves(points=5)], torch_ref.JointLoss(), progress=False)
        >>> port = flax_impl.TwoInTwoOut(hidden_features=2)
        >>> check_parity(reference, port, flax_impl.JointLoss(), progress=False).passed
        True
    """
    own = None if batches is None else list(batches)

    def run(forced: bool) -> Trace:
        return replay(
            reference,
            model,
            loss,
            optimizer=optimizer,
            params=params,
            batches=own,
            forward=forward,
            renames=renames,
            forced=forced,
            progress=progress,
        )

    return compare(run(forced=True), reference, run(forced=False))


def replay(
    reference: Trace,
    model: Any,
    loss: Callable[..., Any] = FactualLoss(),
    *,
    optimizer: Any = Adam(),
    params: Any = None,
    batches: Iterable[Mapping[str, Any]] | None = None,
    forward: Callable[..., Any] | None = None,
    renames: Mapping[str, str] | None = None,
    forced: bool = True,
    progress: bool = True,
) -> Trace:
    """Runs the port through the training of a reference, and returns its trace under the reference's names.

    Forced, each step starts from the reference's parameters and moments, and the optimiser gets the reference's
    gradients: so each step, and its optimiser by itself, is judged on its own. Not forced, the port goes its own way
    from the first weights: so it is seen that nothing adds up.

    Args:
        reference: as `torch_ref.record` or `load_trace` gives it.
        model: any Linen or NNX module.
        loss: takes the model and the batch by their names, and returns a number, or several to be added.
        optimizer: settings of ours, or any of optax's.
        params: the port's own first parameters, to hold its own conversion to account; None takes the reference's.
        batches: the port's own batches, to hold its own order to account; None takes the reference's.
        forward: takes the model and the batch by their names, and returns what to compare as the outputs; None takes
            those of the model's calls in `loss`.
        renames: corrects the weight map, where names alone do not say it: torch's module by the port's.
        forced: whether each step starts from the reference's.
        progress: shows a bar, or plain lines, once it takes long.

    Returns:
        The port's trace, with as many steps as the reference or as `batches` has, whichever are fewer.

    Raises:
        WeightMapError: two candidates for a weight fit equally well.
        ValueError: a float64 reference while JAX's 64-bit mode is off.

    Example:
        >>> import flax_impl
        >>> import torch_ref
        >>> model = torch_ref.TwoInTwoOut(hidden_features=2)
        >>> reference = torch_ref.record(model, [torch_ref.data.curves(points=5)], torch_ref.JointLoss(), progress=False)
        >>> port = flax_impl.TwoInTwoOut(hidden_features=2)
        >>> trace = replay(reference, port, flax_impl.JointLoss(), progress=False)
        >>> bool(abs(trace.arrays["0/loss/0"] - reference.arrays["0/loss/0"]) < 1e-6)
        True
    """
    if reference.dtype == "float64" and not jax.config.read("jax_enable_x64"):
        raise ValueError("reference: expected float32 while JAX's 64-bit mode is off, got float64; see jax.enable_x64")
    taken = [reference.batch(k) for k in range(reference.steps)]
    own = taken if batches is None else named_batches(batches)[: len(taken)]
    held, variables = opened(model, _shapes_of(model, loss, own[0]) if params is None else params)
    inputs = reference.metadata["inputs"]
    named = _map_of(reference, variables, renames)
    # Zeros for what the reference does not have; whatever it has replaces them.
    variables = jax.tree.map(lambda leaf: _zeros(leaf, reference.dtype) if _is_shape(leaf) else leaf, variables)
    start = variables if params is not None else from_reference(variables, named, reference, 0)
    program = Program(held, loss, forward, tuple(inputs))
    layout = Layout(reference.metadata["modules"], reference.arrays)
    run = Run(program, start, optimizer, named, layout, reference if forced else None)
    try:
        return run.through(own, recipe=reference.metadata["recipe"], progress=progress, model=model)
    except InvalidRngError as error:
        raise ValueError(
            "model: expected no dropout that draws, as no two frameworks draw alike; call it with deterministic=True, "
            f"or set its rate to 0 ({error})"
        ) from error


def map_weights(
    reference: Trace,
    model: Any,
    loss: Callable[..., Any] = FactualLoss(),
    *,
    params: Any = None,
    renames: Mapping[str, str] | None = None,
) -> WeightMap:
    """Returns which of the reference's weights is which of the port's, as the replay takes them; `print` shows it.

    Args:
        reference: as `torch_ref.record` or `load_trace` gives it.
        model: any Linen or NNX module.
        loss: as for `replay`; it shows what a Linen module is called with.
        params: the port's parameters; None finds out their shapes.
        renames: corrects the map: torch's module by the port's.

    Returns:
        The map, a bijection, but for the entries that it lists as having no counterpart.

    Raises:
        WeightMapError: two candidates for a weight fit equally well.

    Example:
        >>> import flax_impl
        >>> import torch_ref
        >>> model = torch_ref.TwoInTwoOut(hidden_features=2)
        >>> reference = torch_ref.record(model, [torch_ref.data.curves(points=5)], torch_ref.JointLoss(), progress=False)
        >>> port = flax_impl.TwoInTwoOut(hidden_features=2)
        >>> found = map_weights(reference, port, flax_impl.JointLoss())
        >>> found.links[0].torch, found.links[0].paths
        ('hidden1.weight', (('params', 'hidden1', 'kernel'),))
    """
    _, variables = opened(model, _shapes_of(model, loss, reference.batch(0)) if params is None else params)
    return _map_of(reference, variables, renames)


def _map_of(reference: Trace, variables: Variables, renames: Mapping[str, str] | None) -> WeightMap:
    shapes = {name: array.shape for name, array in reference.phase(0, "param").items()}
    kinds = reference.metadata["modules"]
    return propose_map(shapes, shapes_of(variables), kinds=kinds, renames=renames, partial=True)


def _shapes_of(model: Any, loss: Callable[..., Any], batch: Mapping[str, Any]) -> Any:
    """Returns the shapes of a Linen module's variables, from what the loss calls it with."""
    if not isinstance(model, nn.Module):
        return None
    first = {name: jnp.asarray(array) for name, array in batch.items()}
    init = nn.init(lambda module, batch: loss(module, **batch), model)
    keys = {name: jax.random.key(0) for name in ("params", "dropout")}
    with jax.numpy_dtype_promotion("standard"):  # Linen draws float32 whatever comes in; only shapes matter here
        return jax.eval_shape(init, keys, first)


def _zeros(leaf: Any, dtype: str) -> jax.Array:
    return jnp.zeros(leaf.shape, dtype if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf.dtype)


def _is_shape(leaf: Any) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct)
