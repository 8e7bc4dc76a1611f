"""Writes down every operation that torch dispatches, forward and backward, while a step runs in float64."""

import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._C._autograd import _get_sequence_nr
from torch._decomp import core_aten_decompositions, get_decompositions
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from ...common.tape.tape import Line, Operation
from ...common.tape.writer import TapeWriter
from ..dtype import default_dtype, exact

_TORCH = os.path.dirname(torch.__file__) + os.sep
_HERE = os.path.dirname(os.path.dirname(__file__)) + os.sep
_LOW = (torch.float32, torch.float16, torch.bfloat16)
_aten = torch.ops.aten
# Beyond torch's own choice: these hide the steps in which ports differ (an epsilon, a slope, a mean).
_FINER = (
    _aten.native_layer_norm, _aten.native_group_norm, _aten._softmax, _aten._log_softmax, _aten.gelu,
    _aten.gelu_backward, _aten.silu, _aten.silu_backward, _aten.elu, _aten.elu_backward, _aten.leaky_relu,
    _aten.softplus, _aten.addmm, _aten.baddbmm, _aten.addcmul, _aten.addcdiv, _aten.var_mean, _aten.var,
    _aten.hardswish, _aten.hardsigmoid, _aten.mish, _aten.nll_loss_forward, _aten.smooth_l1_loss, _aten.mse_loss,
    _aten.huber_loss, _aten.binary_cross_entropy, _aten.native_batch_norm, _aten.native_batch_norm_backward,
)  # fmt: skip
_FRESH = (_aten.lift_fresh.default, _aten.lift_fresh_copy.default)  # made where no dispatch is seen
_EMPTY = (_aten.empty, _aten.empty_like, _aten.empty_permuted, _aten.empty_strided, _aten.new_empty)
_SAME = (_aten.alias.default, _aten.detach.default, _aten.clone.default)
_STOPS = {Tensor.detach, torch.detach, Tensor.data.__get__}  # type: ignore[attr-defined]
_RANDOM = torch.Tag.nondeterministic_seeded


@cache
def _decompositions() -> dict[Any, Callable[..., Any]]:
    own = {torch.ops.prims.var.default: _variance}
    known = {**core_aten_decompositions(), **get_decompositions(_FINER), **own}
    return {func: made for func, made in known.items() if func is not _aten.detach.default}  # it stops a gradient


def _variance(x: Tensor, dims: Sequence[int] | None, correction: float = 1, *, output_dtype: Any = None) -> Tensor:
    """Returns the variance step by step, both ways: ports take the mean of squares less the square of the mean, too."""
    axes = list(range(x.dim()) if dims is None else dims)
    count = math.prod(x.shape[axis] for axis in axes)
    mean = x.sum(axes, keepdim=True) / count
    squares = (x * x).sum(axes) / count
    _ = squares - (mean * mean).reshape(squares.shape)
    apart = x - mean
    return (apart * apart).sum(axes) / (count - correction)


class Operations(TorchDispatchMode):
    """Runs every operation in float64, whatever the model wrote, and writes it down.

    Args:
        writer: takes the operations and the values.
        model: its modules give the operations their paths.
    """

    def __init__(self, writer: TapeWriter, model: nn.Module) -> None:
        super().__init__()
        self._usual = torch.get_default_dtype()
        self.writer = writer
        self._names = {module: name for name, module in model.named_modules()}
        self._modules: list[str] = []
        self._forward: dict[int, tuple[tuple[Line, ...], str, int]] = {}  # by the number of the node of autograd
        # By storage: the value that each view of it holds, and the one that was last written into it.
        self._views: dict[int, dict[Any, int]] = {}
        self._written: dict[int, int] = {}
        self._dtype_of: dict[int, str] = {}  # of what was lifted on its way in
        self._alive: list[Tensor] = []
        self._stops = _Stops()

    def leaf(self, name: str, tensor: Tensor, dtype: torch.dtype, original: Tensor | None = None) -> None:
        """Gives a tensor that exists already a value of its own; `original` has the same numbers in fewer bytes."""
        narrow = original is not None and original.dtype is torch.float32
        array = original.detach().cpu().numpy() if original is not None and narrow else _numpy(tensor)
        number = self.writer.leaf(name, array, _name_of(dtype))
        self._views.setdefault(_storage(tensor), {})[_view(tensor)] = number
        self._alive.append(tensor)

    def result(self, name: str, tensor: Tensor) -> None:
        """Gives a result its name."""
        self.writer.results[name] = self._number(tensor)

    @contextmanager
    def paths(self) -> Iterator[None]:
        """Follows the calls of modules within the context."""

        def enter(module: nn.Module, args: Any) -> None:
            self._modules.append(self._names.get(module, type(module).__name__))

        def leave(module: nn.Module, args: Any, output: Any) -> None:
            self._modules.pop()

        handles = (
            nn.modules.module.register_module_forward_pre_hook(enter),
            nn.modules.module.register_module_forward_hook(leave, always_call=True),
        )
        try:
            with self._stops:
                yield
        finally:
            for handle in handles:
                handle.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        decomposition = _decompositions().get(func)
        if decomposition is not None:
            with self:
                found = decomposition(*args, **kwargs)
            if found is not NotImplemented:
                return found
        if func is _aten.detach.default and not self._stops.asked:
            return func(*args)  # of a result that autograd keeps
        asked = kwargs.get("dtype")
        args, kwargs = tree_map(self._lifted, (args, kwargs))
        given = _tensors((args, kwargs))
        if func in _FRESH:
            self._forget(given[0])
        numbers = [self._number(tensor) for tensor in given]
        if asked in _LOW:
            kwargs["dtype"] = torch.float64
        outputs = func(*args, **kwargs)
        tensors = _tensors(outputs)
        if func.overloadpacket in _EMPTY:
            tensors[0].zero_()  # what memory held before is no value
        lifted = {id(tensor): tensor.double() for tensor in tensors if tensor.dtype in _LOW}
        if lifted:
            outputs = tree_map(lambda leaf: lifted.get(id(leaf), leaf) if isinstance(leaf, Tensor) else leaf, outputs)
            tensors = [lifted.get(id(tensor), tensor) for tensor in tensors]
        changed = _changed_by(func, args, kwargs)
        if not changed and all(any(tensor is other for other in given) for tensor in tensors):
            return outputs  # nothing was done, as where `to` finds the dtype that it was asked for
        dtype = _name_of(asked) if asked is not None else self._promoted(numbers)
        moved = _moved(func, args, numbers)
        made = [
            self._made(tensor, dtype, given, any(tensor is other for other in changed), moved)
            for tensor in {id(tensor): tensor for tensor in [*changed, *tensors]}.values()
        ]
        self._write(str(func.overloadpacket), numbers, made, _constants(func, args, kwargs), _RANDOM in func.tags)
        return outputs

    def _lifted(self, value: Any) -> Any:
        """Returns a tensor that the model made beforehand, in float64; a single number has the digits of its source."""
        if not isinstance(value, Tensor) or value.dtype not in _LOW:
            return value
        found = exact(value)
        self._dtype_of[id(found)] = _name_of(value.dtype)
        self._alive.append(found)
        return found

    def _number(self, tensor: Tensor) -> int:
        """Returns the number of the value that a tensor holds now."""
        storage, view = _storage(tensor), _view(tensor)
        views = self._views.setdefault(storage, {})
        if view not in views:
            number = self.writer.value(_numpy(tensor), self._dtype_of.get(id(tensor), _name_of(tensor.dtype)))
            if storage in self._written:  # a view of what was written in place
                self._write("view", [self._written[storage]], [number], {}, False)
            views[view] = number
            self._alive.append(tensor)
        return views[view]

    def _made(
        self,
        tensor: Tensor,
        dtype: str,
        given: list[Tensor],
        changed: bool,
        moved: tuple[int, Sequence[int]] | None,
    ) -> int:
        """Returns the number of a value that an operation made or changed."""
        storage = _storage(tensor)
        if not any(_storage(other) == storage for other in given):
            self._forget(tensor)
        floating = tensor.is_floating_point()
        number = self.writer.value(_numpy(tensor), dtype if floating else _name_of(tensor.dtype), moved)
        self._views.setdefault(storage, {})[_view(tensor)] = number
        if changed:
            self._written[storage] = number
            self._views[storage][_view(tensor, later=1)] = number  # autograd counts the write when we are done
        return number

    def _forget(self, tensor: Tensor) -> None:
        """Drops what a tensor's memory held before it was freed and used again."""
        self._views.pop(_storage(tensor), None)
        self._written.pop(_storage(tensor), None)

    def _promoted(self, numbers: list[int]) -> str:
        """Returns the floating dtype that the model itself would have computed in."""
        found = [getattr(torch, name) for i in numbers if (name := self.writer.dtypes[i]) and "float" in name]
        dtype = found[0] if found else self._usual
        for other in found[1:]:
            dtype = torch.promote_types(dtype, other)
        return _name_of(dtype)

    def _write(self, name: str, given: list[int], made: list[int], constants: Mapping[str, Any], random: bool) -> None:
        node = torch._C._current_autograd_node()
        forward = None
        if node is not None:
            lines, module, forward = self._forward.get(node._sequence_nr(), ((), "", None))
        else:
            lines, module = _user_lines(), self._modules[-1] if self._modules else ""
            # Autograd makes the node before it calls the operation; one that needs no gradient makes none.
            self._forward[_get_sequence_nr() - 1] = lines, module, len(self.writer.operations)
        self.writer.operations.append(
            Operation(name, tuple(given), tuple(made), constants, lines, module, node is not None, forward, random)
        )


class _Stops(TorchFunctionMode):
    """Knows whether the model itself asks for a tensor without its gradient: autograd does so, too, for its own use."""

    asked = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before, self.asked = self.asked, func in _STOPS
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self.asked = before


@contextmanager
def plain_kernels() -> Iterator[None]:
    """Keeps torch from fused kernels, which hide their steps, within the context."""
    with ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        mha = torch.backends.mha
        stack.enter_context(_set(mha.set_fastpath_enabled, mha.get_fastpath_enabled(), False))
        stack.enter_context(_set(torch._C._set_mkldnn_enabled, torch._C._get_mkldnn_enabled(), False))
        stack.enter_context(default_dtype(torch.float64))
        yield


@contextmanager
def _set(setting: Callable[[Any], None], before: Any, within: Any) -> Iterator[None]:
    """Sets something of torch's within the context."""
    setting(within)
    try:
        yield
    finally:
        setting(before)


def _user_lines() -> tuple[Line, ...]:
    """Returns the lines that led here, innermost first: at most three, torch's and ours left out."""
    found = []
    frame = sys._getframe(1)
    while frame is not None and len(found) < 3:
        path = frame.f_code.co_filename
        if path.startswith(_HERE) and (found or frame.f_code.co_name == "_run"):
            break  # what called us is not the model's
        if not path.startswith((_TORCH, _HERE)) and not path.endswith("contextlib.py"):
            found.append(_line(path, frame.f_lineno, frame.f_code.co_name))
        frame = frame.f_back
    return tuple(found)


@cache
def _line(path: str, number: int, function: str) -> Line:
    return Line.of(path, number, function)


def _constants(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the numbers, words and lists that an operation was given, by the names of its arguments."""
    given = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | dict(kwargs)
    return {name: value for name, value in given.items() if _plain(value)}


def _moved(func: Any, args: tuple[Any, ...], numbers: list[int]) -> tuple[int, Sequence[int]] | None:
    """Returns the value that an operation passes on, and the order of its axes, where it does nothing else."""
    if func in _SAME:
        return numbers[0], range(args[0].dim())
    if func is _aten.permute.default:
        return numbers[0], [axis % args[0].dim() for axis in args[1]]
    if func is _aten.t.default and args[0].dim() == 2:
        return numbers[0], (1, 0)
    return None


def _plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return bool(value) and all(map(_plain, value))
    return isinstance(value, bool | int | float | str)


def _numpy(tensor: Tensor) -> np.ndarray:
    tensor = tensor.detach()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    return (tensor.double() if tensor.is_floating_point() else tensor).cpu().numpy()


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _view(tensor: Tensor, later: int = 0) -> Any:
    return tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor._version + later, tensor.dtype


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_flatten(value)[0] if isinstance(leaf, Tensor)]


def _changed_by(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """Returns the tensors that an operation writes into."""
    found = []
    for i, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            found += _tensors(args[i] if i < len(args) else kwargs.get(argument.name))
    return found


def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
