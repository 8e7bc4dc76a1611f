"""Running a model and writing down everything: a trace, to hold a port against."""

import copy
import importlib.metadata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .capture import Call, Capture, rows_of_calls
from .hub.checks import check_choice, check_integer, listed, shown
from .hub.progress import Progress
from .hub.trace import NOISE, Trace, call_name, input_names
from .losses import FactualLoss
from .optimizers import Adam, Optimizer

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
    recipe: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Trace:
    """Trains a copy of the model, a step for each batch, and returns all that was computed on the way.

    A model in float64 is recorded as it is: the reference of gate A. Of a model in float32 the record is made in
    float64 from float32 numbers (each step starts from rounded parameters), and beside every entry stands the largest
    distance that float32 itself had to it, over some orders of the rows: the noise floor of gate B.

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
        row_orders: of float32, how many orders of the rows are tried.
        recipe: what it takes to make the batches again; goes into the trace as it is.
        progress: shows a bar, or plain lines, once it takes long.

    Raises:
        ValueError: no batch, an unknown input, or dropout that is switched on: no two frameworks draw alike.
    """
    batches = [{name: np.asarray(array) for name, array in batch.items()} for batch in batches]
    if not batches:
        raise ValueError("batches: expected at least one, got none")
    _check_dropout(model)
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    check_choice("dtype of the model", dtype, ("float32", "float64"))
    inputs = input_names(model.forward, batches[0], inputs)
    exact, built = _copied(model, optimizer, torch.float64)
    rounded = dtype == "float32"
    single, single_built = _copied(model, optimizer, torch.float32) if rounded else (None, None)
    orders = check_integer("row_orders", row_orders, at_least=1)
    generator = np.random.default_rng(0)
    calls: list[str] = []
    arrays = {f"0/param/{name}": array for name, array in _variables(exact).items()}
    rates = []
    with Progress(len(batches), progress) as report:
        for step, batch in enumerate(batches):
            batch = {name: _rounded(array, dtype) for name, array in batch.items()}
            calls = []
            found, gradients = _evaluate(exact, batch, loss, forward, inputs, calls)
            rates.append(built.param_groups[0]["lr"])
            noise: dict[str, float] = {}
            moved: list[dict[str, np.ndarray]] = []
            if single is not None and single_built is not None:
                noise = _noise_of_rows(single, exact, batch, loss, forward, inputs, found, orders, generator)
                gradients = {name: None if g is None else g.float().double() for name, g in gradients.items()}
                moved = _steps_of_float(single, single_built, exact, built, gradients, orders, generator)
            found |= _step(exact, built, gradients)
            if single is not None:
                noise |= {key: max(_distance(one[key], found[key]) for one in moved) for key in moved[0]}
                found |= {f"{NOISE}/{key}": np.asarray(value) for key, value in noise.items()}
                _round_in_place(exact, built)
            found |= {f"input/{name}": array for name, array in batch.items()}
            arrays |= {f"{step}/{key}": array for key, array in found.items()}
            report(step + 1, [float(found[key]) for key in found if key.startswith("loss/")])
    rates.append(built.param_groups[0]["lr"])
    metadata = {
        "framework": "torch",
        "model": type(model).__name__,
        "config": dict(getattr(model, "config", {})) if isinstance(getattr(model, "config", {}), Mapping) else {},
        "loss": _text(loss),
        "optimizer": {**_options(built), "clip_norm": getattr(optimizer, "clip_norm", None), "lr": rates},
        "dtype": dtype,
        "modules": {name: type(module).__name__ for name, module in exact.named_modules() if name},
        "calls": calls,
        "inputs": list(inputs),
        "buffers": sorted(_buffers(exact)),
        "frozen": sorted(set(_variables(exact)) - set(_buffers(exact)) - set(_trained(exact))),
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "numpy")},
        "recipe": dict(recipe or {}),
    }
    return Trace(arrays, metadata)


def _evaluate(
    model: nn.Module,
    batch: Mapping[str, np.ndarray],
    loss: Callable[..., Any],
    forward: Callable[..., Any] | None,
    inputs: Sequence[str],
    calls: list[str],
) -> tuple[dict[str, np.ndarray], dict[str, Tensor | None]]:
    """Returns all entries from the first module's input to the gradients, and the latter as tensors, by parameter."""
    dtype = next(model.parameters()).dtype
    device = next(model.parameters()).device
    tensors = {name: torch.tensor(array, device=device) for name, array in batch.items()}
    tensors = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    by_input = {name: tensors[name].requires_grad_() for name in inputs if tensors[name].is_floating_point()}
    found: dict[str, np.ndarray] = {}
    if forward is not None:
        kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
        with Capture(model) as seen, torch.no_grad():
            outputs = forward(model, **tensors)
        found |= _entries(seen.calls, calls)
        found |= {f"output/{i}": _numpy(output) for i, output in enumerate(_flat(outputs))}
        for name, buffer in model.named_buffers():  # BatchNorm's statistics move in the loss's own call
            buffer.copy_(kept[name])
    with Capture(model) as seen:
        losses = _flat(loss(model, **tensors))
    trained = _trained(model)
    wanted = [*trained.values(), *by_input.values()]
    gradients = torch.autograd.grad(sum(losses, torch.zeros(())).to(dtype), wanted, allow_unused=True)
    rows = rows_of_calls(seen.roots, loss, tensors, inputs) if seen.roots else None
    if forward is None:
        whole = rows is None or len(rows) == 1
        found |= _entries(seen.calls if whole else [], calls)
        if whole:
            outputs = [tensor for call in seen.roots for tensor in call.outputs.values()]
            found |= {f"output/{i}": _numpy(output) for i, output in enumerate(outputs)}
    found |= {f"buffer/{name}": array for name, array in _buffers(model).items()}
    found |= {f"loss/{i}": _numpy(value) for i, value in enumerate(losses)}
    found |= _cotangents(seen.calls, rows, len(tensors[inputs[0]]))
    by_parameter: dict[str, Tensor | None] = dict(zip(trained, gradients, strict=False))
    every = by_parameter | dict(zip(by_input, gradients[len(trained) :], strict=True))
    values = trained | by_input
    found |= {
        f"grad/{name}": _numpy(torch.zeros_like(values[name]) if gradient is None else gradient)
        for name, gradient in every.items()
    }
    return found, by_parameter


def _entries(calls: Sequence[Call], names: list[str]) -> dict[str, np.ndarray]:
    """Returns what each call took and returned, and appends its name to `names`."""
    found = {}
    counts: dict[str, int] = {}
    for call in calls:
        index = counts.get(call.module, 0)
        counts[call.module] = index + 1
        name = call_name(call.module, index)
        names.append(name)
        found |= {f"module_input/{name}{leaf}": _numpy(tensor) for leaf, tensor in call.inputs.items()}
        found |= {f"activation/{name}{leaf}": _numpy(tensor) for leaf, tensor in call.outputs.items()}
    return found


def _cotangents(calls: Sequence[Call], rows: Sequence[Tensor] | None, length: int) -> dict[str, np.ndarray]:
    """Returns the gradients that arrived at the outputs; a call that the loss did not use got zeros.

    Calls that had different rows of the batch become one call, with zeros for the rows that none of them had.
    """
    found: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    for call in calls:
        index = call.index
        if rows is None:
            index = counts.get(call.module, 0)
            counts[call.module] = index + 1
        for leaf, output in call.outputs.items():
            if not output.is_floating_point():
                continue
            gradient = call.cotangents.get(leaf, torch.zeros_like(output))
            name = f"cotangent/{call_name(call.module, index)}{leaf}"
            if rows is None:
                found[name] = gradient
            elif output.dim() and len(output) == len(rows[call.outer]):
                whole = found.setdefault(name, output.new_zeros(length, *output.shape[1:]))
                whole[rows[call.outer]] += gradient
            elif len(rows) == 1:
                found[name] = gradient
    return {name: _numpy(tensor) for name, tensor in found.items()}


def _step(
    model: nn.Module, optimizer: torch.optim.Optimizer, gradients: Mapping[str, Tensor | None]
) -> dict[str, np.ndarray]:
    """Takes the optimiser's step; a parameter without a gradient is left out, as in any training in torch."""
    trained = _trained(model)
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
    buffers = _buffers(model)
    return found | {f"update/{name}": array for name, array in _variables(model).items() if name not in buffers}


def _noise_of_rows(
    model: nn.Module,
    exact: nn.Module,
    batch: Mapping[str, np.ndarray],
    loss: Callable[..., Any],
    forward: Callable[..., Any] | None,
    inputs: Sequence[str],
    expected: Mapping[str, np.ndarray],
    orders: int,
    generator: np.random.Generator,
) -> dict[str, float]:
    """Returns how far float32 is off, for each entry: the largest distance over some orders of the batch's rows.

    But for the first, each also starts from parameters and inputs that are a rounding away, since the order alone
    leaves the rounding within a row as it is.
    """
    rows = len(batch[inputs[0]])
    noise: dict[str, float] = {}
    for i in range(orders):
        model.load_state_dict(exact.state_dict())
        order, tried = np.arange(rows), dict(batch)
        if i:
            order = generator.permutation(rows)
            tried |= {name: _a_rounding_away(batch[name], generator) for name in inputs}
            tried = {name: array[order] if array.shape[:1] == (rows,) else array for name, array in tried.items()}
            for parameter in model.parameters():
                parameter.data.copy_(torch.tensor(_a_rounding_away(_numpy(parameter), generator)))
        found, _ = _evaluate(model, tried, loss, forward, inputs, [])
        for key, array in found.items():
            # Which axis holds the rows is seen from which one has to be put back.
            back = [np.take(array, np.argsort(order), axis) for axis, size in enumerate(array.shape) if size == rows]
            distance = min(_distance(candidate, expected[key]) for candidate in [array, *back])
            noise[key] = max(noise.get(key, 0.0), distance)
    return noise


def _steps_of_float(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    exact: nn.Module,
    exact_optimizer: torch.optim.Optimizer,
    gradients: Mapping[str, Tensor | None],
    orders: int,
    generator: np.random.Generator,
) -> list[dict[str, np.ndarray]]:
    """Returns what float32 makes of the optimiser's step, also from gradients that are a rounding away."""
    found = []
    for i in range(orders):
        _follow(model, optimizer, exact, exact_optimizer)
        tried = {name: None if g is None else g.float() for name, g in gradients.items()}
        if i:
            tried = {
                name: None if g is None else torch.tensor(_a_rounding_away(_numpy(g), generator), device=g.device)
                for name, g in tried.items()
            }
        found.append(_step(model, optimizer, tried))
    return found


def _a_rounding_away(array: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    if array.dtype.kind != "f":
        return array
    return array * (1 + np.finfo(np.float32).eps * generator.uniform(-1, 1, array.shape)).astype(array.dtype)


def _distance(array: np.ndarray, exact: np.ndarray) -> float:
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.abs(array.astype(np.float64) - exact.astype(np.float64))
    same = (array == exact) | (np.isnan(array) & np.isnan(exact))
    return float(np.where(same, 0, np.where(np.isnan(apart), np.inf, apart)).max(initial=0.0))


def _copied(model: nn.Module, optimizer: Any, dtype: torch.dtype) -> tuple[nn.Module, torch.optim.Optimizer]:
    if isinstance(optimizer, torch.optim.Optimizer):
        model, built = copy.deepcopy((model, optimizer))
        return model.to(dtype), built
    model = copy.deepcopy(model).to(dtype)
    parameters = list(_trained(model).values())
    return model, optimizer.build(parameters) if isinstance(optimizer, Optimizer) else optimizer(parameters)


def _follow(
    model: nn.Module, optimizer: torch.optim.Optimizer, exact: nn.Module, exact_optimizer: torch.optim.Optimizer
) -> None:
    """Gives the float32 model and its optimiser the exact ones' parameters, buffers and state."""
    model.load_state_dict(exact.state_dict())
    for group, leading in zip(optimizer.param_groups, exact_optimizer.param_groups, strict=True):
        group["lr"] = leading["lr"]
    for parameter, leader in zip(model.parameters(), exact.parameters(), strict=True):
        for key, value in exact_optimizer.state.get(leader, {}).items():
            if isinstance(value, Tensor):
                kept = optimizer.state[parameter].get(key)
                optimizer.state[parameter][key] = value.to(value.dtype if key == "step" else parameter.dtype, copy=True)
                if kept is not None:
                    optimizer.state[parameter][key] = optimizer.state[parameter][key].to(kept.dtype)


def _round_in_place(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    with torch.no_grad():
        of_state = [
            value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)
        ]
        for tensor in (*model.parameters(), *model.buffers(), *of_state):
            if tensor.is_floating_point():
                tensor.copy_(tensor.float())


def _variables(model: nn.Module) -> dict[str, np.ndarray]:
    """Returns parameters and buffers; what is tied has one name, and what is not saved, or counts, has none."""
    saved = model.state_dict()
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: _numpy(tensor) for name, tensor in named.items() if name in saved and tensor.is_floating_point()}


def _buffers(model: nn.Module) -> dict[str, np.ndarray]:
    parameters = dict(model.named_parameters())
    return {name: array for name, array in _variables(model).items() if name not in parameters}


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _options(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    group = optimizer.param_groups[0]
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in group.items()}
    kept = {key: value for key, value in plain.items() if isinstance(value, bool | int | float | list | type(None))}
    return {"name": type(optimizer).__name__} | {key: kept[key] for key in kept if key not in ("params", "initial_lr")}


def _check_dropout(model: nn.Module) -> None:
    drawing = [
        name
        for name, module in model.named_modules()
        if module.training
        and (getattr(module, "dropout", 0) or (getattr(module, "p", 0) and "Drop" in repr(type(module))))
        if isinstance(getattr(module, "dropout", 0.0), float)
    ]
    if drawing:
        raise ValueError(
            f"model: expected no dropout that draws, as no two frameworks draw alike, got {listed(drawing)}; "
            "set its rate to 0, or call eval() on it"
        )


def _flat(value: Any) -> list[Tensor]:
    return list(value) if isinstance(value, tuple | list) else [value]


def _rounded(array: np.ndarray, dtype: str) -> np.ndarray:
    """Returns floating numbers in float64, after a way through the dtype."""
    return array.astype(dtype).astype(np.float64) if array.dtype.kind == "f" else array


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy().copy()


def _text(value: object) -> str:
    text = getattr(value, "__name__", None) or repr(value)
    return shown(text)
