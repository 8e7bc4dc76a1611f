"""Records one step of the reference, operation by operation."""

import copy
import importlib.metadata
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...common.call_names import leaves
from ...common.memory import release
from ...common.progress import Progress
from ...common.tape.fingerprint import Fingerprint
from ...common.tape.tape import Tape
from ...common.tape.writer import TapeWriter
from .mode import Operations, plain_kernels

KEEP = 256_000_000
_LARGEST = 1 << 20  # numbers of a value whose noise is measured: it takes long, and many numbers cancel it
_NEAR = 4 * float(np.finfo(np.float64).eps)  # how far the second run's numbers are from the first one's


def record_tape(
    model: nn.Module,
    batch: Mapping[str, Any],
    loss: Callable[..., Any],
    *,
    keep: int = KEEP,
    noise: bool = True,
    progress: bool = True,
) -> Tape:
    """Runs one forward and backward pass in float64 and returns every operation of it.

    The model runs as it is written, but in float64, whatever it casts to; the dtypes as written are kept. A second run
    on numbers that differ in their last digits shows how far rounding moves each value. What the model draws at random,
    as dropout in training mode does, is drawn from a seed, and kept: `check_step` gives it to the port.

    Twin: `flax_impl.parity.record_tape`, which takes the parameters as well.

    Args:
        model: any module. It is left as it is.
        batch: arrays by the names that `loss` gives them.
        loss: takes the model and the batch by their names, and returns a number, or several to be added.
        keep: how many bytes of the values themselves are kept, for a divergence to be repaired.
        noise: whether the second run is made.
        progress: shows a bar, or plain lines, once it takes long.

    Returns:
        The tape: operations with their lines, fingerprints of all values, losses, outputs and gradients.

    Raises:
        ValueError: `loss` returns no tensor.

    Example:
        >>> import torch_ref
        >>> model = torch_ref.TwoInTwoOut(hidden_features=2)
        >>> tape = record_tape(model, torch_ref.data.curves(points=5), torch_ref.JointLoss())
        >>> tape.framework, [name for name in tape.results if name.startswith("loss/")]
        ('torch', ['loss/0', 'loss/1'])
    """
    with Progress(None, progress, "value") as report:
        writer = _run(model, batch, loss, keep, 0.0, report)
    release(writer.seen)
    found = None
    if noise:
        with Progress(len(writer.values), progress, "value") as report:
            again = _run(model, batch, loss, 0, _NEAR, report)
        release(again.seen)
        if len(again.values) == len(writer.values):
            pairs = zip(writer.values, again.values, strict=True)
            found = np.array([_apart(a, b) if a.size <= _LARGEST else 0.0 for a, b in pairs])
    versions = {name: importlib.metadata.version(name) for name in ("torch", "numpy")}
    modules = {name: type(module).__name__ for name, module in model.named_modules() if name}
    return writer.finish("torch", found, versions=versions, modules=modules)


def _run(
    model: nn.Module,
    batch: Mapping[str, Any],
    loss: Callable[..., Any],
    keep: int,
    near: float,
    report: Callable[[int], None],
) -> TapeWriter:
    written = {name: tensor.dtype for name, tensor in model.state_dict().items()}
    copied = copy.deepcopy(model).double()
    device = next((parameter.device for parameter in copied.parameters()), None)
    drawn = torch.Generator().manual_seed(0)

    def moved(tensor: Tensor) -> Tensor:
        """Moves the numbers of a tensor in place; autograd does not count it, as views made later would not know."""
        if near and tensor.is_floating_point():
            by = torch.rand(tensor.shape, generator=drawn, dtype=torch.float64).mul_(2).sub_(1)
            tensor.data.mul_(by.mul_(near).add_(1).to(tensor.device))
        return tensor

    with torch.no_grad():
        for tensor in (*copied.parameters(), *copied.buffers()):
            moved(tensor)
    tensors = {name: _tensor(array).to(device) for name, array in batch.items()}
    dtypes = {name: tensor.dtype for name, tensor in tensors.items()}
    tensors = {
        name: moved(tensor.double()) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()
    }
    trained = {name: p for name, p in copied.named_parameters() if p.requires_grad}
    by_input = {name: tensor.requires_grad_() for name, tensor in tensors.items() if tensor.is_floating_point()}
    writer = TapeWriter(keep, _LARGEST if near else None, report)
    mode = Operations(writer, copied)
    parameters = dict(copied.named_parameters())
    originals = {} if near else {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, tensor in (parameters | dict(copied.named_buffers())).items():
        phase = "param" if name in parameters else "buffer"
        mode.leaf(f"{phase}/{name}", tensor, written.get(name, tensor.dtype), originals.get(name))
    for name, tensor in tensors.items():
        mode.leaf(f"input/{name}", tensor, dtypes[name])
    outputs: list[Tensor] = []

    def returned(module: nn.Module, args: Any, output: Any) -> None:
        outputs.extend(leaf for leaf in leaves(output).values() if isinstance(leaf, Tensor))

    handle = copied.register_forward_hook(returned)
    try:
        with torch.random.fork_rng(), plain_kernels(), mode, mode.paths():
            torch.manual_seed(0)  # the second run draws what the first one drew
            losses = [leaf for leaf in leaves(loss(copied, **tensors)).values() if isinstance(leaf, Tensor)]
            if not losses:
                raise ValueError("loss: expected a number, or several to be added, got none")
            for i, output in enumerate(outputs):
                mode.result(f"output/{i}", output)
            for i, value in enumerate(losses):
                mode.result(f"loss/{i}", value)
            for name, buffer in copied.named_buffers():
                if name in written and buffer.is_floating_point():
                    mode.result(f"buffer/{name}", buffer)  # BatchNorm's statistics have moved
            wanted = trained | by_input
            total = losses[0]
            for value in losses[1:]:
                total = total + value
            gradients = torch.autograd.grad(total, list(wanted.values()), allow_unused=True)
            for name, gradient in zip(wanted, gradients, strict=True):
                # None reaches what is behind a detach() or a no_grad(): a port without it has a gradient there.
                mode.result(f"grad/{name}", torch.zeros_like(wanted[name]) if gradient is None else gradient)
    finally:
        handle.remove()
    return writer


def _tensor(array: Any) -> Tensor:
    return array.detach().clone() if isinstance(array, Tensor) else torch.tensor(np.asarray(array))


def _apart(a: Fingerprint, b: Fingerprint) -> float:
    """Returns how far two fingerprints of the same value are apart."""
    if a.shape != b.shape:
        return float("inf")
    pairs = [(a.moments, b.moments)]
    pairs += [(x, y) for x, y in zip(a.marginals, b.marginals, strict=True) if x is not None and y is not None]
    return float(max(np.abs(x - y).max(initial=0.0) for x, y in pairs))
