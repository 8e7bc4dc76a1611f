"""Trains a pair of transformers in both frameworks, with the optimiser or with dropout, as a user would check it."""

import copy
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import jax
import numpy as np
import torch

import torch_ref
from flax_impl.parity import StepReport, check_parity, check_step
from torch_ref.common.settings.optimizers import SGD, Adam, AdamW
from torch_ref.recording import record_tape

from . import huggingface
from .pair import Pair

OPTIMIZERS = (SGD(), Adam(), AdamW())
_STEPS = 2


def reports(name: str, seed: int, stirred: bool) -> Iterator[tuple[str, Any]]:
    """Yields what was trained, and its report: each optimiser in float64 and float32.

    Args:
        name: of a pair of transformers.
        seed: of weights and inputs.
        stirred: whether the fresh weights are moved a little.
    """
    for dtype in ("float64", "float32"):
        with jax.enable_x64(dtype == "float64"):
            pair = huggingface.pair(name, seed, stirred, dtype)
            module, loss = linen(pair)
            reference = getattr(pair.reference, "double" if dtype == "float64" else "float")()
            for optimizer in OPTIMIZERS:
                batches = [pair.batch] * _STEPS
                settings = {"optimizer": optimizer, "progress": False}
                trace = torch_ref.record(copy.deepcopy(reference), batches, of_all_outputs, **settings)
                yield f"{dtype}, {type(optimizer).__name__}", check_parity(trace, module, loss, **settings)


def with_dropout(name: str, rates: tuple[float, float], steps: int) -> Iterator[tuple[StepReport, float, float]]:
    """Trains a pair with dropout on; yields each step's report, and how far losses and gradients are apart.

    Args:
        name: of a pair of transformers.
        rates: of dropout, in the reference and in the port.
        steps: how many; every one has other tokens.
    """
    pair = huggingface.pair(name, rates=rates)
    drawn = np.random.default_rng(0)
    for _ in range(steps):
        batch = {**pair.batch, "input_ids": drawn.integers(3, 60, pair.batch["input_ids"].shape)}
        tape = record_tape(pair.reference, batch, pair.loss, progress=False)
        params = huggingface.converted(pair.reference, _port_of(pair))
        report = check_step(tape, pair.model, batch, pair.port_loss, params=params, progress=False)
        yield report, _apart(report, "loss/"), _apart(report, "grad/")
        with torch.no_grad():
            for own, parameter in pair.reference.named_parameters():
                if f"grad/{own}" in tape.results:
                    parameter -= 0.1 * torch.tensor(tape.arrays[tape.results[f"grad/{own}"]]).to(parameter.dtype)


def _apart(report: StepReport, kind: str) -> float:
    """Returns how far results of a kind are apart, as a share of the largest number; infinite without a partner."""
    ours, theirs = report.partners.reference, report.partners.port
    results = {name: number for name, number in ours.results.items() if name.startswith(kind)}
    largest = max(float(np.abs(ours.arrays[number]).max()) for number in results.values())
    found = 0.0
    for number in results.values():
        twins = [theirs.arrays[n] for n in report.partners.of_reference.get(number, ()) if n in theirs.arrays]
        own = np.sort(ours.arrays[number].ravel())
        apart = [np.abs(np.sort(twin.ravel()) - own).max() for twin in twins if twin.size == own.size]
        found = max(found, min(apart, default=np.inf) / max(np.abs(own).max(), 1e-3 * largest))
    return float(found)


def _port_of(pair: Pair) -> Any:
    """Returns the port of transformers that a pair's function runs."""
    held = [cell.cell_contents for cell in pair.model.__closure__]
    return next(value for value in held if hasattr(value, "module"))


def linen(pair: Pair) -> tuple[Any, Callable[..., Any]]:
    """Returns the Linen module within a port, and a loss that calls it as the port does."""
    port = _port_of(pair)
    kind, seen = type(port.module), []
    apply = kind.apply

    def watched(module: Any, variables: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append((args, {name: value for name, value in kwargs.items() if name not in ("rngs", "mutable")}))
        return apply(module, variables, *args, **kwargs)

    with mock.patch.object(kind, "apply", watched):
        pair.model(pair.params, **pair.batch)
    args, kwargs = seen[0]
    by_place = [_taken(array, pair.batch) for array in args]
    by_name = {name: _taken(array, pair.batch) for name, array in kwargs.items()}

    def loss(model: Any, **batch: Any) -> Any:
        return _sum(model(*(take(batch) for take in by_place), **{name: take(batch) for name, take in by_name.items()}))

    return port.module, loss


def _taken(array: Any, batch: Any) -> Callable[[Any], Any]:
    """Returns how an argument is made of a batch: an entry, perhaps with the channels last, or no part of it."""
    for name, entry in batch.items():
        if np.shape(array) == entry.shape and np.array_equal(array, entry):
            return lambda arrays, name=name: arrays[name]
        if np.ndim(array) == entry.ndim == 4 and np.array_equal(array, entry.transpose(0, 2, 3, 1)):
            return lambda arrays, name=name: arrays[name].transpose(0, 2, 3, 1)
    return lambda arrays: array


def of_all_outputs(model: Any, **batch: Any) -> Any:
    """Returns a loss of a reference's, in which every parameter has a part."""
    return _sum(model(**batch))


def _sum(output: Any) -> Any:
    """Returns a loss in which every parameter has a part: torch leaves out those that have none, and optax does not."""
    first = output.logits_per_image if hasattr(output, "logits_per_image") else output[0]
    pooled = getattr(output, "pooler_output", None)
    return (first**2).mean() + (0.0 if pooled is None else (pooled**2).mean())
