"""Runs one step of a training in torch and returns every value that a trace records."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..common.call_names import call_name, leaves
from .calls import Call, Capture, rows_of_calls
from .dtype import all_in_float64


@dataclass(frozen=True)
class Question:
    """What to compute from each batch."""

    loss: Callable[..., Any]  # takes the model and the batch by their names
    forward: Callable[..., Any] | None  # likewise, for the outputs; None takes those of the model's calls in `loss`
    inputs: Sequence[str]  # entries of the batch to take gradients by


def forward_and_backward(
    model: nn.Module, question: Question, batch: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, Tensor | None], list[str]]:
    """Returns a step's entries up to the gradients, the gradients by parameter as tensors, and the calls by name.

    A model in float64 is run in float64 throughout, also where it computes in float32.

    Twin: `flax_impl.parity.recording.program.forward_and_backward`.
    """
    dtype = next(model.parameters()).dtype
    with all_in_float64() if dtype is torch.float64 else nullcontext():
        return _forward_and_backward(model, question, batch, dtype)


def _forward_and_backward(
    model: nn.Module, question: Question, batch: Mapping[str, np.ndarray], dtype: torch.dtype
) -> tuple[dict[str, np.ndarray], dict[str, Tensor | None], list[str]]:
    loss, forward, inputs = question.loss, question.forward, question.inputs
    device = next(model.parameters()).device
    tensors = {name: torch.tensor(array, device=device) for name, array in batch.items()}
    tensors = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    by_input = {name: tensors[name].requires_grad_() for name in inputs if tensors[name].is_floating_point()}
    found: dict[str, np.ndarray] = {}
    calls: list[Call] = []
    if forward is not None:
        kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
        with Capture(model) as seen, torch.no_grad():
            outputs = forward(model, **tensors)
        calls = seen.calls
        found |= _entries(calls)
        found |= {f"output/{i}": _numpy(output) for i, output in enumerate(_flat(outputs))}
        for name, buffer in model.named_buffers():  # BatchNorm's statistics move in the loss's own call
            buffer.copy_(kept[name])
    with Capture(model) as seen:
        losses = _flat(loss(model, **tensors))
    trained = trained_of(model)
    wanted = [*trained.values(), *by_input.values()]
    gradients = torch.autograd.grad(sum(losses, torch.zeros(())).to(dtype), wanted, allow_unused=True)
    rows = rows_of_calls(seen.roots, loss, tensors, inputs) if seen.roots else None
    if forward is None and (rows is None or len(rows) == 1):  # else no call had the whole batch
        calls = seen.calls
        found |= _entries(calls)
        outputs = [tensor for call in seen.roots for tensor in call.outputs.values()]
        found |= {f"output/{i}": _numpy(output) for i, output in enumerate(outputs)}
    found |= {f"buffer/{name}": array for name, array in buffers_of(model).items()}
    found |= {f"loss/{i}": _numpy(value) for i, value in enumerate(losses)}
    found |= _cotangents(seen.calls, rows, len(tensors[inputs[0]]))
    by_parameter: dict[str, Tensor | None] = dict(zip(trained, gradients, strict=False))
    every = by_parameter | dict(zip(by_input, gradients[len(trained) :], strict=True))
    values = trained | by_input
    found |= {
        f"grad/{name}": _numpy(torch.zeros_like(values[name]) if gradient is None else gradient)
        for name, gradient in every.items()
    }
    return found, by_parameter, [name for name, _ in _named(calls)]


def _named(calls: Sequence[Call]) -> Iterator[tuple[str, Call]]:
    """Yields the calls with their names, numbered over all calls of the model."""
    counts: dict[str, int] = {}
    for call in calls:
        index = counts.get(call.module, 0)
        counts[call.module] = index + 1
        yield call_name(call.module, index), call


def _entries(calls: Sequence[Call]) -> dict[str, np.ndarray]:
    """Returns what each call took and returned."""
    found = {}
    for name, call in _named(calls):
        found |= {f"module_input/{name}{leaf}": _numpy(tensor) for leaf, tensor in call.inputs.items()}
        found |= {f"activation/{name}{leaf}": _numpy(tensor) for leaf, tensor in call.outputs.items()}
    return found


def _cotangents(calls: Sequence[Call], rows: Sequence[Tensor] | None, length: int) -> dict[str, np.ndarray]:
    """Returns the gradients that arrived at the outputs; a call that the loss did not use got zeros.

    Calls that had different rows of the batch become one call, with zeros for the rows that none of them had.
    """
    found: dict[str, Tensor] = {}
    for numbered, call in _named(calls):
        called = numbered if rows is None else call_name(call.module, call.index)
        for leaf, output in call.outputs.items():
            if not output.is_floating_point():
                continue
            gradient = call.cotangents.get(leaf, torch.zeros_like(output))
            name = f"cotangent/{called}{leaf}"
            if rows is not None and output.dim() and len(output) == len(rows[call.outer]):
                whole = found.setdefault(name, output.new_zeros(length, *output.shape[1:]))
                whole[rows[call.outer]] += gradient
            elif rows is None or len(rows) == 1:
                found[name] = gradient
    return {name: _numpy(tensor) for name, tensor in found.items()}


def optimizer_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, gradients: Mapping[str, Tensor | None]
) -> dict[str, np.ndarray]:
    """Takes the optimiser's step and returns the state and the parameters; skips parameters without a gradient."""
    trained = trained_of(model)
    for name, parameter in trained.items():
        gradient = gradients[name]
        parameter.grad = None if gradient is None else gradient.clone()
    optimizer.step()
    found = {
        f"state/{name}.{key}": _numpy(value)
        for name, parameter in trained.items()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor) and value.shape == parameter.shape and key != "step"
    }
    buffers = buffers_of(model)
    return found | {f"update/{name}": array for name, array in variables_of(model).items() if name not in buffers}


def variables_of(model: nn.Module) -> dict[str, np.ndarray]:
    """Returns parameters and buffers; leaves out second names of tied ones, counters and what is not saved."""
    saved = model.state_dict()
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: _numpy(tensor) for name, tensor in named.items() if name in saved and tensor.is_floating_point()}


def buffers_of(model: nn.Module) -> dict[str, np.ndarray]:
    """Returns the buffers."""
    parameters = dict(model.named_parameters())
    return {name: array for name, array in variables_of(model).items() if name not in parameters}


def trained_of(model: nn.Module) -> dict[str, nn.Parameter]:
    """Returns the parameters that are trained."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def is_float(value: Any) -> bool:
    """Returns whether a value is a tensor of floating numbers."""
    return isinstance(value, Tensor) and value.is_floating_point()


def _flat(value: Any) -> list[Tensor]:
    return list(leaves(value).values())


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy().copy()
