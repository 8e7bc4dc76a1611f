"""Checks a port against its reference, in either direction: runs JAX's side, compares, and names the cause."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from torch_ref.common.checks.arguments import check_choice
from torch_ref.common.settings.optimizers import Adam
from torch_ref.common.tape.tape import Tape
from torch_ref.common.trace import Trace

from ..training.losses import FactualLoss
from .recording.port import Port, check_mode, compared, opened_step, state_of
from .report.direction import exchanged, of_torch
from .report.report import Report
from .report.step_report import StepReport, check_tape
from .verdict import compare
from .weight_map.map import WeightMap

_SIDES = ("jax", "torch")


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
    port: str = "jax",
    progress: bool = True,
) -> Report:
    """Runs the port through the reference's training, both ways, and says whether, where and why the two part.

    Args:
        reference: as `torch_ref.record` or `load_trace` gives it.
        model: any Linen or NNX module.
        loss: takes the model and the batch by their names, and returns a number, or several to be added.
        optimizer: settings of ours, or any of optax's.
        params: the port's own first parameters, to check its own conversion; None takes the reference's.
        batches: the port's own batches, to check its own order; None takes the reference's.
        forward: takes the model and the batch by their names, and returns what to compare as the outputs; None takes
            those of the model's calls in `loss`.
        renames: corrects the weight map, where names alone do not say it: torch's module by the port's.
        port: which side is the port: `jax`; or `torch`, where `reference` is what torch's side did, and `model`, `loss`
            and the rest are of the reference, in JAX. The report and its advice are for torch then.
        progress: shows a bar, or plain lines, once it takes long.

    Returns:
        The report: `passed`, the first divergence and its cause, every entry beside its bound; `print` shows it.

    Raises:
        WeightMapError: two candidates for a weight fit equally well.
        ValueError: a float64 reference while JAX's 64-bit mode is off, or an unknown `port`.

    Example:
        >>> import flax_impl
        >>> import torch_ref
        >>> model = torch_ref.TwoInTwoOut(hidden_features=2)
        >>> batches = [torch_ref.data.curves(points=5)]
        >>> reference = torch_ref.record(model, batches, torch_ref.JointLoss(), progress=False)
        >>> port = flax_impl.TwoInTwoOut(hidden_features=2)
        >>> check_parity(reference, port, flax_impl.JointLoss(), progress=False).passed
        True
    """
    check_choice("port", port, _SIDES)
    check_mode(reference)
    settings = {"optimizer": optimizer, "params": params, "batches": batches, "forward": forward, "renames": renames}
    opened = Port.opened(reference, model, loss, **settings)
    forced, free = (opened.replay(forced=forced, progress=progress) for forced in (True, False))
    report = compare(forced, reference, free, operations=lambda step: _guarded(opened.operations, step))
    if port == "jax":
        return report
    entries, loose = (tuple(replace(e, note=exchanged(e.note)) for e in of) for of in (report.entries, report.free))
    found, step = tuple(map(of_torch, report.diagnosis)), report.operations
    step = _of_torch(step) if isinstance(step, StepReport) else step
    return replace(report, entries=entries, free=loose, diagnosis=found, operations=step, port=port)


def _of_torch(report: StepReport) -> StepReport:
    """Returns a report of a step in the words of a port in torch."""
    return replace(report, port="torch", causes=tuple(tuple(map(of_torch, causes)) for causes in report.causes))


def _guarded(operations: Callable[[int], StepReport | None], step: int) -> StepReport | None:
    """Returns the report of a step; None where it fails, which costs the lines, never the report."""
    try:
        return operations(step)
    except Exception:
        return None


def replay(
    reference: Trace,
    model: Any,
    loss: Callable[..., Any] = FactualLoss(),
    *,
    forced: bool = True,
    progress: bool = True,
    **settings: Any,
) -> Trace:
    """Runs the port through the training of a reference, and returns its trace under the reference's names.

    Args:
        reference: this and what is not named below as for `check_parity`.
        model: any Linen or NNX module.
        loss: takes the model and the batch by their names.
        forced: whether each step starts from the reference's parameters, gradients and moments, so that it is judged
            by itself; else the port goes its own way from the first weights, which shows what adds up.
        progress: shows a bar, or plain lines, once it takes long.
        settings: `optimizer`, `params`, `batches`, `forward` and `renames`.

    Returns:
        The port's trace, with as many steps as the reference or as `batches` has, whichever are fewer.

    Raises:
        WeightMapError: two candidates for a weight fit equally well.
        ValueError: a float64 reference while JAX's 64-bit mode is off.

    Example:
        >>> import flax_impl
        >>> import torch_ref
        >>> model = torch_ref.TwoInTwoOut(hidden_features=2)
        >>> batches = [torch_ref.data.curves(points=5)]
        >>> reference = torch_ref.record(model, batches, torch_ref.JointLoss(), progress=False)
        >>> port = flax_impl.TwoInTwoOut(hidden_features=2)
        >>> trace = replay(reference, port, flax_impl.JointLoss(), progress=False)
        >>> bool(abs(trace.arrays["0/loss/0"] - reference.arrays["0/loss/0"]) < 1e-6)
        True
    """
    check_mode(reference)
    return Port.opened(reference, model, loss, **settings).replay(forced=forced, progress=progress)


def map_weights(
    reference: Trace,
    model: Any,
    loss: Callable[..., Any] = FactualLoss(),
    *,
    params: Any = None,
    renames: Mapping[str, str] | None = None,
) -> WeightMap:
    """Returns which of the reference's weights is which of the port's, as `check_parity` maps them; `print` shows it.

    Args:
        reference: this and `model` as for `check_parity`.
        model: any Linen or NNX module.
        loss: shows what a Linen module is called with.
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
        >>> batches = [torch_ref.data.curves(points=5)]
        >>> reference = torch_ref.record(model, batches, torch_ref.JointLoss(), progress=False)
        >>> port = flax_impl.TwoInTwoOut(hidden_features=2)
        >>> found = map_weights(reference, port, flax_impl.JointLoss())
        >>> found.links[0].torch, found.links[0].paths
        ('hidden1.weight', (('params', 'hidden1', 'kernel'),))
    """
    return Port.opened(reference, model, loss, params=params, renames=renames).weight_map


def check_step(
    reference: Tape,
    model: Any,
    batch: Mapping[str, Any],
    loss: Callable[..., Any],
    *,
    params: Any = None,
    shapes: Any = None,
    renames: Mapping[str, str] | None = None,
    port: str = "jax",
    progress: bool = True,
) -> StepReport:
    """Runs one step of a port, and says at which line it leaves its reference, and at which line of the reference.

    Modules need not correspond: values are compared, not names. Where the two part, the reference's value is put in the
    port's place. If what comes after agrees, that is a proof, and the search goes on for the next place.

    Args:
        reference: as `torch_ref.recording.record_tape` or `load_tape` gives it.
        model: a Linen or NNX module, or a function of the parameters and the inputs.
        batch: the reference's batch: arrays by the names that `loss` gives them.
        loss: takes the model and the batch by their names, and returns a number, or several to be added.
        params: the port's parameters, converted from the reference's; None takes the reference's.
        shapes: the parameters of a function as it would be initialised, or their shapes as `jax.eval_shape` gives
            them, where its values are to be taken from the reference.
        renames: corrects the map of a module's weights by their names, as for `check_parity`.
        port: which side is the port: `jax`; or `torch`, where `reference` is the tape of torch's side, and `model`,
            `params` and `loss` are of the reference, in JAX. `torch_state` gives torch's side those parameters.
        progress: shows a bar, or plain lines, once it takes long.

    Returns:
        The report: `passed`, `places`, `weight_map`, `convert`; `print` shows it.

    Raises:
        ValueError: `reference` is no tape, `model` is neither a module nor a function, `loss` returns no array, a
            function has neither `params` nor `shapes`, the port has weights that the reference does not have, or an
            unknown `port`.

    Example:
        >>> import flax_impl
        >>> import torch_ref
        >>> batch = torch_ref.data.curves(points=5)
        >>> model = torch_ref.TwoInTwoOut(hidden_features=2)
        >>> reference = torch_ref.recording.record_tape(model, batch, torch_ref.JointLoss())
        >>> port = flax_impl.TwoInTwoOut(hidden_features=2)
        >>> check_step(reference, port, batch, flax_impl.JointLoss()).passed
        True
    """
    check_tape("reference", reference)
    check_choice("port", port, _SIDES)
    settings = {"params": params, "shapes": shapes, "renames": renames, "progress": progress}
    step, weight_map = opened_step(reference, model, batch, loss, **settings)
    report = compared(reference, step, weight_map)
    return report if port == "jax" else _of_torch(report)


def torch_state(
    port: Tape,
    model: Any,
    params: Any,
    batch: Mapping[str, Any],
    loss: Callable[..., Any],
    *,
    renames: Mapping[str, str] | None = None,
    progress: bool = True,
) -> dict[str, np.ndarray]:
    """Returns the state of a torch module that has the weights of a model in JAX, for a port in torch.

    Which weight is which is found as `check_step` finds it, and then turned round.

    Args:
        port: as `torch_ref.recording.record_tape` gives it, of the torch module with any weights: best with those of
            `with_drawn_state`, as fresh ones are zeros and ones here and there.
        model: a Linen or NNX module, or a function of the parameters and the inputs.
        params: its parameters; None for an NNX module, which has them.
        batch: arrays by the names that `loss` gives them.
        loss: takes the model and the batch by their names.
        renames: corrects the map of a module's weights by their names, as for `check_parity`.
        progress: shows a bar, or plain lines, once it takes long.

    Returns:
        Arrays by torch's names, in torch's shapes, for `load_state_dict(..., strict=False)`. Entries that the model in
        JAX does not have are left out. Of two biases that torch adds up, the second is zero.

    Raises:
        ValueError: `port` is no tape, the two sides' weights do not go together, or two of JAX's are one in torch and
            differ.

    Example:
        >>> import flax_impl
        >>> import torch_ref
        >>> batch, model = torch_ref.data.curves(points=5), flax_impl.TwoInTwoOut(hidden_features=2)
        >>> port = torch_ref.TwoInTwoOut(hidden_features=2)
        >>> drawn = torch_ref.recording.with_drawn_state(port)
        >>> tape = torch_ref.recording.record_tape(drawn, batch, torch_ref.JointLoss())
        >>> state = torch_state(tape, model, model.init_params(seed=0), batch, flax_impl.JointLoss())
        >>> state["hidden1.weight"].shape
        (2, 1)
    """
    check_tape("port", port)
    return state_of(port, model, params, batch, loss, renames=renames, progress=progress)
