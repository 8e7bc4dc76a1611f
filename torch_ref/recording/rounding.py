"""Measures how far rounding alone moves each entry: below that, no difference is a fault."""

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ..common.trace import FREE
from .one_step import Question, forward_and_backward, is_float, optimizer_step

_SINGLE = 2.0**-22  # what a few roundings to float32 move, of a table's largest number
_LARGE = 1e4  # no angle, and no position: a mask


class Noise:
    """Repeats each step in the model's own dtype, to see how far rounding moves each entry.

    Every repetition starts where the exact step does. All but the first change each number by a rounding, and the order
    of the rows: the order alone leaves the rounding within a row as it is.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, question: Question, orders: int) -> None:
        self.model, self.optimizer, self.question, self.orders = model, optimizer, question, orders
        self.dtype = next(model.parameters()).dtype
        self.generator = np.random.default_rng(0)
        self.jitter = Jitter(self.dtype, self.generator)
        self.tables = tables_of(model) if self.dtype is torch.float64 else {}

    def follow(self, exact: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Keeps the parameters, the buffers and the optimiser's state that the step starts from."""
        self.start = copy.deepcopy(exact.state_dict())
        self.rates = [group["lr"] for group in optimizer.param_groups]
        self.states = copy.deepcopy([dict(optimizer.state.get(parameter, {})) for parameter in exact.parameters()])

    def of_rows(self, batch: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Returns the largest distance of each entry up to the gradients."""
        rows = len(batch[self.question.inputs[0]])
        noise: dict[str, float] = {}
        for i in range(self.orders):
            order = np.arange(rows) if i == 0 else self.generator.permutation(rows)
            found = self._repeated(batch, order, i > 0)
            if i and not _same_loss(found, expected, self.dtype):  # the first axis is not that of the rows
                order = np.arange(rows)
                found = self._repeated(batch, order, True)
            for key, array in found.items():
                # Which axis holds the rows is seen from which one has to be put back.
                back = [np.take(array, np.argsort(order), axis) for axis, n in enumerate(array.shape) if n == rows]
                distance = min(_distance(candidate, expected[key]) for candidate in [array, *back])
                noise[key] = max(noise.get(key, 0.0), distance)
        return noise

    def of_steps(self, gradients: Mapping[str, Tensor | None], expected: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Returns the largest distance of each entry of the optimiser's step."""
        noise: dict[str, float] = {}
        for i in range(self.orders):
            self._return()
            near = self.jitter.tensor if i else lambda gradient: gradient.to(self.dtype)
            tried = {name: None if g is None else near(g) for name, g in gradients.items()}
            for key, array in optimizer_step(self.model, self.optimizer, tried).items():
                noise[key] = max(noise.get(key, 0.0), _distance(array, expected[key]))
        return noise

    def _repeated(self, batch: Mapping[str, np.ndarray], order: np.ndarray, near: bool) -> dict[str, np.ndarray]:
        self._return()
        tried = {name: array[order] if array.shape[:1] == order.shape else array for name, array in batch.items()}
        if near:
            tried |= self.jitter.inputs(tried, self.question.inputs)
            self.jitter.parameters(self.model, self.tables)
        return forward_and_backward(self.model, self.question, tried)[0]

    def _return(self) -> None:
        """Goes back to where the step starts."""
        self.model.load_state_dict(self.start)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate
        for parameter, state in zip(self.model.parameters(), self.states, strict=True):
            self.optimizer.state[parameter] = {
                key: value.to(value.dtype if key == "step" else self.dtype, copy=True) if is_float(value) else value
                for key, value in copy.deepcopy(state).items()
            }


class Drift:
    """Trains copies that start a rounding away, to see how far rounding leads a training over its steps.

    Args:
        copies: models with their optimisers.
        question: what to compute from each batch.
        tables: of each of them, as `tables_of` gives them.
    """

    def __init__(
        self,
        copies: Sequence[tuple[nn.Module, torch.optim.Optimizer]],
        question: Question,
        tables: Mapping[str, Tensor],
    ) -> None:
        self.copies, self.question = copies, question
        self.jitter = [Jitter(torch.float64, np.random.default_rng(seed)) for seed in range(len(copies))]
        for (model, _), jitter in zip(copies, self.jitter, strict=True):
            jitter.parameters(model, tables)

    def of_step(self, batch: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Returns the largest distance of losses, buffers and parameters after the next step."""
        noise: dict[str, float] = {}
        for (model, optimizer), jitter in zip(self.copies, self.jitter, strict=True):
            tried = dict(batch) | jitter.inputs(batch, self.question.inputs)
            found, gradients, _ = forward_and_backward(model, self.question, tried)
            found |= optimizer_step(model, optimizer, gradients)
            for key, array in found.items():
                if key.startswith(("loss/", "buffer/", "update/")):
                    name = f"{FREE}/{key}"
                    noise[name] = max(noise.get(name, 0.0), _distance(array, expected[key]))
        return noise


class Jitter:
    """Moves numbers by a rounding.

    Args:
        dtype: that they are rounded to.
        generator: draws by how much.
    """

    def __init__(self, dtype: torch.dtype, generator: np.random.Generator) -> None:
        self.dtype, self.generator = dtype, generator

    def inputs(self, batch: Mapping[str, np.ndarray], names: Sequence[str]) -> dict[str, np.ndarray]:
        """Returns the inputs of a batch, each number moved."""
        return {name: self.tensor(torch.tensor(batch[name])).numpy() for name in names}

    def parameters(self, model: nn.Module, tables: Mapping[str, Tensor]) -> None:
        """Moves the parameters of a model in place; its tables as far as float32 does."""
        for parameter in model.parameters():
            parameter.data = self.tensor(parameter.data)
        for name, table in tables.items():
            path, _, own = name.rpartition(".")
            angles = table.abs() <= _LARGE
            by = _SINGLE * table[angles].abs().max() * angles
            getattr(model.get_submodule(path), own).data = table + by * self._drawn(table)

    def tensor(self, tensor: Tensor) -> Tensor:
        """Returns numbers in the dtype, each moved."""
        if not tensor.is_floating_point():
            return tensor
        tensor = tensor.to(self.dtype)
        return tensor * (1 + torch.finfo(self.dtype).eps * self._drawn(tensor)).to(self.dtype)

    def _drawn(self, tensor: Tensor) -> Tensor:
        return torch.tensor(self.generator.uniform(-1, 1, tuple(tensor.shape)), device=tensor.device)


def tables_of(model: nn.Module) -> dict[str, Tensor]:
    """Returns what a float64 model holds with the digits of float32 only, and does not train: angles, positions.

    A port makes them itself, so they may differ from the reference's by that rounding. What torch's own modules hold
    is not meant: a port takes it over.

    Args:
        model: any module.
    """
    trained = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    found: dict[str, Tensor] = {}
    for path, module in model.named_modules():
        if type(module).__module__.startswith("torch.nn"):
            continue
        held = {
            **vars(module),
            **dict(module.named_parameters(recurse=False)),
            **dict(module.named_buffers(recurse=False)),
        }
        for name, tensor in held.items():
            if isinstance(tensor, Tensor) and id(tensor) not in trained and _is_single(tensor.detach()):
                found[f"{path}.{name}".lstrip(".")] = tensor.detach().double().clone()
    return found


def _is_single(tensor: Tensor) -> bool:
    """Returns whether numbers have the digits of float32, and no fewer, as counts and masks have."""
    if tensor.dtype not in (torch.float32, torch.float64):
        return False
    tensor = tensor[tensor.abs() <= _LARGE]
    return bool((tensor.float() == tensor).all()) and not bool((tensor.bfloat16() == tensor).all())


def _same_loss(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], dtype: torch.dtype) -> bool:
    near = torch.finfo(dtype).eps ** 0.5
    losses = [key for key in expected if key.startswith("loss/")]
    return all(np.allclose(found[key], expected[key], rtol=near, atol=near, equal_nan=True) for key in losses)


def _distance(array: np.ndarray, exact: np.ndarray) -> float:
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.abs(array.astype(np.float64) - exact.astype(np.float64))
    same = (array == exact) | (np.isnan(array) & np.isnan(exact))
    return float(np.where(same, 0, np.where(np.isnan(apart), np.inf, apart)).max(initial=0.0))
