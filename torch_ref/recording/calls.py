"""Writes down, by hooks, what every submodule takes and returns, and the gradient that comes back to it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from ..common.call_names import leaves


@dataclass
class Call:
    """One call of a module. `outer` counts the calls of the model itself, and `index` those of the module in one."""

    module: str
    outer: int
    index: int
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    result: Any
    cotangents: dict[str, Tensor] = field(default_factory=dict)


class Capture:
    """Writes down the calls of every submodule, in order of return; those of the model itself are `roots`.

    Twin: `flax_impl.parity.recording.calls.Capture`, which intercepts methods and adds zeros to take gradients by.

    Args:
        model: any module; it does not change.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.calls: list[Call] = []
        self.roots: list[Call] = []
        self._counts: dict[tuple[str, int], int] = {}
        self._handles: list[Any] = []

    def __enter__(self) -> "Capture":
        for name, module in self.model.named_modules():
            self._handles.append(module.register_forward_hook(self._hook(name), with_kwargs=True))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()

    def _hook(self, name: str) -> Callable[..., None]:
        def take_down(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            outer = len(self.roots)
            index = self._counts.get((name, outer), 0)
            self._counts[name, outer] = index + 1
            outputs = _tensors(output)
            # A clone, since what comes next may work in place (nn.ReLU(inplace=True)).
            call = Call(name, outer, index, _copies(_tensors((*args, *kwargs.values()))), _copies(outputs), output)
            for leaf, tensor in outputs.items():
                if tensor.requires_grad:
                    tensor.register_hook(lambda gradient, leaf=leaf: call.cotangents.update({leaf: gradient}))
            (self.calls if name else self.roots).append(call)

        return take_down


def rows_of_calls(
    roots: Sequence[Call], loss: Callable[..., Any], batch: Mapping[str, Tensor], inputs: Sequence[str]
) -> list[Tensor] | None:
    """Returns which rows of the batch each call of the model got; None where that cannot be told.

    The loss runs once more on a batch in which every row is its own number, and a stand-in for the model looks at the
    numbers that arrive. So it is known which rows went where, even if two of them are equal.

    Args:
        roots: the calls of the model, whose outputs the stand-in returns.
        loss: takes the model and the batch by their names.
        batch: the batch.
        inputs: the entries of the batch that the model is called with.
    """
    rows = len(batch[inputs[0]])
    if len(roots) == 1 and all(len(tensor) == rows for tensor in roots[0].inputs.values() if tensor.dim()):
        return [torch.arange(rows)]
    numbered = dict(batch)
    for name in inputs:
        number = torch.arange(rows, device=batch[name].device).reshape(-1, *[1] * (batch[name].dim() - 1))
        numbered[name] = number.expand(batch[name].shape).to(batch[name].dtype)
    found: list[Tensor] = []

    def stand_in(*args: Any, **kwargs: Any) -> Any:
        arrived = next(iter(_tensors((*args, *kwargs.values())).values()))
        number = arrived.reshape(-1, 1) if arrived.dim() == 1 else arrived.flatten(1)
        if not (number == number[:, :1]).all():
            raise ValueError("the rows were mixed")
        found.append(number[:, 0].long().cpu())
        return roots[len(found) - 1].result

    try:
        with torch.no_grad():
            loss(stand_in, **numbered)
    except Exception:  # a loss that does more than choose rows; its calls stay apart
        return None
    together = torch.cat(found)
    return found if len(found) == len(roots) and len(together.unique()) == len(together) else None


def _tensors(value: Any) -> dict[str, Tensor]:
    return {name: leaf for name, leaf in leaves(value).items() if isinstance(leaf, Tensor)}


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}
