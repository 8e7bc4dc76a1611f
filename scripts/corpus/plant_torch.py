"""Plants a fault in one call of a torch module's: for ports in torch, whose reference is in JAX."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._python_dispatch import _get_current_dispatch_mode

Change = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]


@dataclass(frozen=True)
class Call:
    """A call of a function of torch's, in the order in which a model makes them.

    Args:
        number: from 0.
        name: of the function, as torch has it.
        kinds: of faults that can be planted in it.
    """

    number: int
    name: str
    kinds: tuple[str, ...]


class Planted(TorchFunctionMode):
    """Runs a model with one of its calls changed.

    Args:
        number: of the call that is changed; None changes none.
        kind: a key of `KINDS`.
    """

    def __init__(self, number: int | None = None, kind: str = "") -> None:
        super().__init__()
        self.number, self.kind = number, kind
        self.calls: list[Call] = []
        self.operations: tuple[int, int] | None = None  # of the tape, that the changed call is

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = (resolve_name(func) or getattr(func, "__name__", "")).rpartition(".")[2].strip("_")
        number = len(self.calls)
        if number == self.number:
            start = _recorded()
            made = KINDS[self.kind](func, args, kwargs)
            self.operations = self.operations or (start, _recorded())
        else:
            made = func(*args, **kwargs)
        fits = isinstance(made, Tensor) and made.is_floating_point() and made.numel() > 1
        self.calls.append(Call(number, name, _kinds_for(name, args, kwargs) if fits else ()))
        return made


@contextmanager
def planted(number: int | None = None, kind: str = "") -> Iterator[Planted]:
    """Changes one call within the context."""
    with Planted(number, kind) as mode:
        yield mode


def _recorded() -> int:
    """Returns how many operations the tape has so far."""
    mode: Any = _get_current_dispatch_mode()
    return len(mode.writer.operations) if hasattr(mode, "writer") else 0


def _with(place: int, name: str, change: Callable[[Any], Any], default: Any = None) -> Change:
    """Returns a call with another argument."""

    def run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if len(args) > place:
            return func(*args[:place], change(args[place]), *args[place + 1 :], **kwargs)
        return func(*args, **{**kwargs, name: change(kwargs.get(name, default))})

    return run


def _of_output(change: Callable[[Tensor], Tensor]) -> Change:
    return lambda func, args, kwargs: change(func(*args, **kwargs))


def _turned(array: Tensor) -> Tensor:
    return array.transpose(-1, -2) if array.dim() > 1 and array.shape[-1] == array.shape[-2] else array.flip(-1)


def _other_number(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return func(*(a * 1.01 if isinstance(a, float | int) else a for a in args), **kwargs)


KINDS: dict[str, Change] = {
    "a constant 1% off": _other_number,
    "a constant ten times as large": lambda f, a, k: _EPSILON[f](f, a, k),
    "a factor of 1.1": _of_output(lambda x: x * 1.1),
    "the sign": _of_output(torch.neg),
    "shifted by one": _of_output(lambda x: x.roll(1, -1)),
    "numbers in another order": _of_output(_turned),
    "no gradient": _of_output(torch.detach),
    "first operand only": lambda f, a, k: a[0].expand(f(*a, **k).shape).clone(),
    "second operand only": lambda f, a, k: a[1].expand(f(*a, **k).shape).clone(),
    "operands exchanged": lambda f, a, k: f(a[1], a[0], *a[2:], **k),
    "sum for difference": lambda f, a, k: a[0] + a[1],
    "no bias": lambda f, a, k: f(a[0], a[1]),
    "a transposed matrix": lambda f, a, k: f(a[0], a[1].transpose(-1, -2), *a[2:], **k),
    "another axis": _with(1, "dim", lambda axis: axis - 1, -1),
    "tanh for erf": lambda f, a, k: f(a[0], approximate="tanh" if k.get("approximate", "none") == "none" else "none"),
    "relu for another": lambda f, a, k: F.relu(a[0]),
    "logistic for tanh": lambda f, a, k: torch.sigmoid(a[0]),
    "once more": lambda f, a, k: f(f(*a, **k), *a[1:], **k),
    "a mask inverted": lambda f, a, k: f(a[0], ~a[1].bool(), *a[2:], **k),
    "sum for mean": lambda f, a, k: f(*a, **k) * math.prod(a[0].shape) / f(*a, **k).numel(),
    "scale left out": lambda f, a, k: f(a[0], a[1], torch.ones_like(a[2]), *a[3:], **k),
}  # fmt: skip
_EPSILON: dict[Any, Change] = {
    F.layer_norm: _with(4, "eps", lambda eps: 10 * eps, 1e-5),
    F.group_norm: _with(4, "eps", lambda eps: 10 * eps, 1e-5),
    F.batch_norm: _with(7, "eps", lambda eps: 10 * eps, 1e-5),
}
_ANY = ("a factor of 1.1", "the sign", "shifted by one", "numbers in another order", "no gradient")
_FOR: dict[str, tuple[str, ...]] = {
    "add": ("first operand only", "second operand only"),
    "sub": ("sum for difference", "operands exchanged"),
    "rsub": ("sum for difference",),
    "mul": ("first operand only", "a constant 1% off"),
    "div": ("first operand only", "a constant 1% off"),
    "truediv": ("first operand only", "a constant 1% off"),
    "pow": ("once more",),
    "linear": ("no bias", "a transposed matrix", *_ANY),
    "addmm": ("first operand only", *_ANY),
    "scaled_dot_product_attention": _ANY,
    "conv1d": ("no bias", *_ANY),
    "conv2d": ("no bias", *_ANY),
    "matmul": ("a transposed matrix", *_ANY),
    "layer_norm": ("a constant ten times as large", "scale left out", "once more"),
    "group_norm": ("a constant ten times as large",),
    "softmax": ("another axis",),
    "gelu": ("tanh for erf", "relu for another", "once more"),
    "silu": ("relu for another", "once more"),
    "relu": ("once more",),
    "tanh": ("logistic for tanh", "once more"),
    "masked_fill": ("a mask inverted",),
    "embedding": ("a factor of 1.1", "the sign", "no gradient"),
    "mean": ("sum for mean",),
    "rsqrt": ("a factor of 1.1",),
    "sin": ("the sign",),
    "permute": ("numbers in another order", "shifted by one"),
    "transpose": ("numbers in another order", "shifted by one"),
    "cat": ("shifted by one", "the sign"),
}  # fmt: skip


def _kinds_for(name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[str, ...]:
    """Returns the faults that can be planted in a call."""
    tensors = [isinstance(a, Tensor) for a in args]
    two = len(tensors) > 1 and all(tensors[:2])
    shapes = [a.shape for a in args if isinstance(a, Tensor)]
    fits = {
        "first operand only": len(args) == 2 or name == "addmm",
        "second operand only": two,
        "operands exchanged": two and shapes[0] == shapes[1],
        "sum for difference": two,
        "no bias": (len(args) > 2 and tensors[2]) or kwargs.get("bias") is not None,
        "a transposed matrix": two and len(shapes[1]) > 1 and shapes[1][-1] == shapes[1][-2],
        "a constant 1% off": not two and any(isinstance(a, float | int) for a in args),
        "scale left out": len(args) > 2 and tensors[2],
        "a mask inverted": two,
        "another axis": tensors[:1] == [True] and len(shapes[0]) > 2,
        "once more": name != "layer_norm" or len(args) > 1,
    }
    return tuple(kind for kind in _FOR.get(name, ()) if fits.get(kind, True))
