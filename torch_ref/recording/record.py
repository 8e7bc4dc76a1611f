"""Records a training of the reference: runs it and writes down everything."""

import copy
import importlib.metadata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from ..common.call_names import summed
from ..common.checks.arguments import check_choice, check_integer, listed, shown
from ..common.progress import Progress
from ..common.record_inputs import config_of, input_names, named_batches
from ..common.settings.optimizers import Adam, Optimizer
from ..common.tape.tape import Tape
from ..common.trace import NOISE, Trace
from ..training.build import build_optimizer
from ..training.losses import FactualLoss
from .one_step import (
    Question,
    buffers_of,
    forward_and_backward,
    is_float,
    optimizer_step,
    trained_of,
    variables_of,
)
from .operations.tape import record_tape
from .rounding import Drift, Noise

MakeOptimizer = Optimizer | torch.optim.Optimizer | Callable[[list[nn.Parameter]], torch.optim.Optimizer]


def record(
    model: nn.Module,
    batches: Iterable[Mapping[str, Any]],
    loss: Callable[..., Any] = FactualLoss(),
    *,
    optimizer: MakeOptimizer = Adam(),
    forward: Callable[..., Any] | None = None,
    inputs: Sequence[str] | None = None,
    row_orders: int = 4,
    tapes: Iterable[int] = (0,),
    recipe: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Trace:
    """Trains a copy of the model, a step for each batch, and returns all that was computed on the way.

    The record is made in float64, also where the model itself computes in float32, as some norms do. Of a model in
    float64 it is the reference of gate A; of one in float32, whose steps each start from parameters rounded to
    float32, that of gate B. Beside every entry stands the largest distance to it that rounding in the model's own
    dtype made, over some orders of the rows.

    Twin: `flax_impl.record`, which takes the parameters as well.

    Args:
        model: any module. It is left as it is.
        batches: a mapping of arrays for each step, by the names that `loss` gives them.
        loss: takes the model and the batch by their names, and returns a number, or several to be added.
        optimizer: settings of ours; or any of torch's, built on the model's parameters; or a function of the
            parameters that builds one.
        forward: takes the model and the batch by their names, and returns what to compare as the outputs; None takes
            those of the model's calls in `loss`. Give it where a loss sends only some rows through the model.
        inputs: entries of the batch that the model is called with, and that gradients are taken by. None takes those
            that its `forward` names, or else the first.
        row_orders: how many orders of the rows are tried to see what rounding does.
        tapes: of which steps every operation is written down, with its line: `check_parity` then names the line of a
            fault that shows in one of them. None for none.
        recipe: what it takes to make the batches again; goes into the trace as it is.
        progress: shows a bar, or plain lines, once it takes long.

    Returns:
        The trace: inputs, activations, outputs, losses, gradients, the optimiser's state and the new parameters of each
        step, by torch's names.

    Raises:
        ValueError: no batch, an unknown input, a step of `tapes` that there is none of, or dropout that is switched on:
            no two frameworks draw alike.

    Example:
        >>> import torch_ref
        >>> batches = [torch_ref.data.curves(points=5, seed=seed) for seed in range(2)]
        >>> model = torch_ref.TwoInTwoOut(hidden_features=2)
        >>> trace = record(model, batches, torch_ref.JointLoss(), progress=False)
        >>> trace.steps, trace.arrays["0/activation/hidden1"].shape
        (2, (5, 2))
    """
    batches = [{name: np.asarray(array) for name, array in batch.items()} for batch in named_batches(batches)]
    _check_dropout(model)
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    check_choice("dtype of the model", dtype, ("float32", "float64"))
    inputs = input_names(model.forward, batches[0], inputs)
    question = Question(loss, forward, inputs)
    exact, built = _copied(model, optimizer, torch.float64)
    row_orders = check_integer("row_orders", row_orders, at_least=1)
    noisy = Noise(*_copied(model, optimizer, getattr(torch, dtype)), question, row_orders)
    copies = [_copied(model, optimizer, torch.float64) for _ in range(2 if dtype == "float64" else 0)]
    drift = Drift(copies, question, noisy.tables)
    groups = _groups(built, exact)
    calls: list[str] = []
    steps = _checked_steps(tapes, len(batches))
    written: dict[int, Tape] = {}
    of_forward: dict[int, Tape] = {}
    untaped = ""
    arrays = {f"0/param/{name}": array for name, array in variables_of(exact).items()}
    rates = []
    with Progress(len(batches), progress) as report:
        for k, batch in enumerate(batches):
            batch = {name: _rounded(array, dtype) for name, array in batch.items()}
            noisy.follow(exact, built)  # before the buffers move
            if k in steps:
                try:
                    rounded = copy.deepcopy(exact).to(noisy.dtype)
                    written[k] = record_tape(rounded, batch, loss)
                    if forward is not None:
                        of_forward[k] = record_tape(rounded, batch, summed(forward))
                except (RuntimeError, NotImplementedError, TypeError) as error:  # torch cannot dispatch all there is
                    untaped = f"step {k}: {type(error).__name__}: {error}"
            found, gradients, calls = forward_and_backward(exact, question, batch)
            noise = noisy.of_rows(batch, found)
            rates.append(built.param_groups[0]["lr"])
            gradients = {name: None if g is None else g.to(noisy.dtype).double() for name, g in gradients.items()}
            moved = optimizer_step(exact, built, gradients)
            noise |= noisy.of_steps(gradients, moved)
            _round_in_place(exact, built, noisy.dtype)
            noise |= drift.of_step(batch, found | moved)
            found |= moved | {f"{NOISE}/{key}": np.asarray(value) for key, value in noise.items()}
            found |= {f"input/{name}": array for name, array in batch.items()}
            arrays |= {f"{k}/{key}": array for key, array in found.items()}
            report(k + 1, [float(found[key]) for key in found if key.startswith("loss/")])
    rates.append(built.param_groups[0]["lr"])
    metadata = {
        "framework": "torch",
        "model": type(model).__name__,
        "config": config_of(model),
        "loss": _text(loss),
        "optimizer": {
            **_options(built),
            "clip_norm": getattr(optimizer, "clip_norm", None),
            "lr": rates,
            "groups": groups,
        },
        "dtype": dtype,
        "modules": {name: type(module).__name__ for name, module in exact.named_modules() if name},
        "calls": calls,
        "inputs": list(inputs),
        "buffers": sorted(buffers_of(exact)),
        "frozen": sorted(set(variables_of(exact)) - set(buffers_of(exact)) - set(trained_of(exact))),
        "tables": sorted(noisy.tables),
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "numpy")},
        "recipe": dict(recipe or {}),
        **({"untaped": untaped} if untaped else {}),
    }
    return Trace(arrays, metadata, written, of_forward)


def _checked_steps(tapes: Iterable[int], count: int) -> set[int]:
    steps = {check_integer("tapes", step, at_least=0) for step in tapes}
    if steps and max(steps) >= count:
        raise ValueError(f"tapes: expected steps from 0 to {count - 1}, got {listed(sorted(steps))}")
    return steps


def _round_in_place(model: nn.Module, optimizer: torch.optim.Optimizer, dtype: torch.dtype) -> None:
    with torch.no_grad():
        of_state = [value for state in optimizer.state.values() for value in state.values()]
        for tensor in (*model.parameters(), *model.buffers(), *of_state):
            if is_float(tensor):
                tensor.copy_(tensor.to(dtype))


def _options(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    group = optimizer.param_groups[0]
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in group.items()}
    kept = {key: value for key, value in plain.items() if isinstance(value, bool | int | float | list | type(None))}
    return {"name": type(optimizer).__name__} | {key: kept[key] for key in kept if key not in ("params", "initial_lr")}


def _groups(optimizer: torch.optim.Optimizer, model: nn.Module) -> list[dict[str, Any]]:
    """Returns the names, the rate and the decay of each group of parameters; nothing where there is one."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [
        {
            "names": sorted(names[id(parameter)] for parameter in group["params"] if id(parameter) in names),
            "lr": float(group["lr"]),
            "weight_decay": float(group.get("weight_decay", 0.0)),
        }
        for group in (optimizer.param_groups if len(optimizer.param_groups) > 1 else ())
    ]


def _check_dropout(model: nn.Module) -> None:
    drawing = [name for name, module in model.named_modules() if module.training and _dropout_rate(module) > 0]
    if drawing:
        raise ValueError(
            f"model: expected no dropout that draws, as no two frameworks draw alike, got {listed(drawing)}; "
            "set its rate to 0, or call eval() on it"
        )


def _dropout_rate(module: nn.Module) -> float:
    rate = module.p if isinstance(module, nn.modules.dropout._DropoutNd) else getattr(module, "dropout", 0)
    return rate if isinstance(rate, int | float) else 0.0


def _rounded(array: np.ndarray, dtype: str) -> np.ndarray:
    """Returns floating numbers in float64, after a way through the dtype."""
    return array.astype(dtype).astype(np.float64) if array.dtype.kind == "f" else array


def _text(value: object) -> str:
    text = getattr(value, "__name__", None) or repr(value)
    return shown(text)


def _copied(model: nn.Module, optimizer: Any, dtype: torch.dtype) -> tuple[nn.Module, torch.optim.Optimizer]:
    if isinstance(optimizer, torch.optim.Optimizer):
        model, built = copy.deepcopy((model, optimizer))
        return model.to(dtype), built
    model = copy.deepcopy(model).to(dtype)
    parameters = list(trained_of(model).values())
    return model, build_optimizer(optimizer, parameters) if isinstance(optimizer, Optimizer) else optimizer(parameters)
