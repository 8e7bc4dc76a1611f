"""Measures how far rounding alone moves each entry: below that, no difference is a fault."""

import copy
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from .one_step import Question, forward_and_backward, is_float, optimizer_step


class Noise:
    """Repeats each step in the model's own dtype, to see how far rounding moves each entry.

    Every repetition starts where the exact step does. All but the first change each number by a rounding, and the order
    of the rows: the order alone leaves the rounding within a row as it is.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, question: Question, orders: int) -> None:
        self.model, self.optimizer, self.question, self.orders = model, optimizer, question, orders
        self.dtype = next(model.parameters()).dtype
        self.generator = np.random.default_rng(0)

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
            tried = {name: None if g is None else self._near(g, i > 0) for name, g in gradients.items()}
            for key, array in optimizer_step(self.model, self.optimizer, tried).items():
                noise[key] = max(noise.get(key, 0.0), _distance(array, expected[key]))
        return noise

    def _repeated(self, batch: Mapping[str, np.ndarray], order: np.ndarray, near: bool) -> dict[str, np.ndarray]:
        self._return()
        tried = {name: array[order] if array.shape[:1] == order.shape else array for name, array in batch.items()}
        tried |= {name: self._near(torch.tensor(tried[name]), near).numpy() for name in self.question.inputs}
        for parameter in self.model.parameters():
            parameter.data = self._near(parameter.data, near)
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

    def _near(self, tensor: Tensor, near: bool) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        tensor = tensor.to(self.dtype)
        drawn = torch.tensor(self.generator.uniform(-1, 1, tuple(tensor.shape)), device=tensor.device)
        return tensor * (1 + near * torch.finfo(self.dtype).eps * drawn).to(self.dtype)


def _same_loss(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], dtype: torch.dtype) -> bool:
    near = torch.finfo(dtype).eps ** 0.5
    losses = [key for key in expected if key.startswith("loss/")]
    return all(np.allclose(found[key], expected[key], rtol=near, atol=near, equal_nan=True) for key in losses)


def _distance(array: np.ndarray, exact: np.ndarray) -> float:
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.abs(array.astype(np.float64) - exact.astype(np.float64))
    same = (array == exact) | (np.isnan(array) & np.isnan(exact))
    return float(np.where(same, 0, np.where(np.isnan(apart), np.inf, apart)).max(initial=0.0))
