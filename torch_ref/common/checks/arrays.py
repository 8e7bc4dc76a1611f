"""Checks of arrays: shapes anywhere, under `jit` too; values at the doors `fit`, `train_step` and `predict`."""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .arguments import brackets, check_shape, listed, shown

_PART = 2**16  # rows that are looked at together: a look at all at once would take a quarter of the data's memory


def check_rows(argument: str, array: Any) -> None:
    """Raises ValueError unless the array has rows."""
    if len(array) == 0:
        raise ValueError(f"{argument}: expected at least one row, got an empty batch")


def check_binary(argument: str, array: np.ndarray) -> None:
    """Raises ValueError, naming the first row, where the array holds anything but 0 and 1, of whatever dtype."""
    check_arms(argument, array, 2)


def check_arms(argument: str, array: np.ndarray, arms: int) -> None:
    """Raises ValueError, naming the first row, where the array holds anything but 0 to `arms - 1`, of any dtype."""
    wrong = np.argwhere(~np.isin(array, np.arange(arms)))
    if len(wrong):
        got = f"{array[tuple(wrong[0])]} in row {wrong[0][0]}{_more(len(wrong))}"
        expected = "0 or 1" if arms == 2 else f"0 to {arms - 1}"
        raise ValueError(f"{argument}: expected {expected} in every row, got {got}")


def arms_of(made: Any) -> int | None:
    """Returns how many arms a model or a loss is for, or None where it does not say."""
    arms = getattr(made, "arms", None)
    return arms if isinstance(arms, int) else None


def check_finite(argument: str, array: np.ndarray) -> None:
    """Raises ValueError, naming the first place, where the array holds NaN or infinity."""
    if not _all_finite(array):
        raise ValueError(f"{argument}: expected finite numbers, got {_at(array, np.argwhere(~np.isfinite(array)))}")


def check_data(
    data: Mapping[str, Any],
    required: Sequence[str],
    optional: Sequence[str] = (),
    dtype: str = "float64",
    arms: int = 2,
) -> dict[str, np.ndarray]:
    """Checks the arrays that a training reads, and returns them in numpy and in their dtypes.

    Args:
        data: arrays by name, each with one entry a row: `x`, `t` [rows], `y`, `w` [rows], `mask` [rows] and the like.
            Rows that `mask` leaves out may hold anything.
        required: the names that must be there.
        optional: the names that may be there too.
        dtype: of all but `t`, which becomes int32, and `mask`, which becomes bool.
        arms: how many there are; `t` is 0 to `arms - 1`.

    Raises:
        ValueError: names missing or unexpected; no rows, or arrays that differ in rows; values that are no numbers, or
            not finite in `dtype`; a `t` of no arm, a `mask` that is neither 0 nor 1; a negative weight `w`.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"data: expected arrays by name, got {type(data).__name__}")
    check_names(data, required, optional)
    arrays = {name: _on_host(name, array) for name, array in data.items()}
    first = next(iter(arrays))
    for name, array in arrays.items():
        if array.ndim == 0:
            raise ValueError(f"{name}: expected one entry a row, got a single number")
        if len(array) != len(arrays[first]):
            raise ValueError(f"{name}: expected {len(arrays[first])} rows, as {first} has, got {len(array)}")
        check_rows(name, array)
        if name in ("t", "w", "mask"):
            check_shape(name, array, (len(array),))
    if "mask" in arrays:
        check_binary("mask", arrays["mask"])
        kept = arrays["mask"] = arrays["mask"].astype(bool)
        arrays |= {
            name: np.where(kept.reshape(-1, *[1] * (array.ndim - 1)), array, np.zeros((), array.dtype))
            for name, array in arrays.items()
        }
    for name, array in arrays.items():
        if name == "t":
            check_arms("t", array, arms)
        if name not in ("t", "mask"):
            check_finite(name, array)
            array = _converted(name, array, dtype)
        if name == "w" and array.min() < 0:
            raise ValueError(f"w: expected weights of at least 0, got {arrays[name].min()} in row {array.argmin()}")
        arrays[name] = array.astype(np.int32, copy=False) if name == "t" else array
    return arrays


def check_names(data: Iterable[str], required: Sequence[str], optional: Sequence[str]) -> None:
    """Raises ValueError unless all required names are there, and no others than those and the optional ones."""
    names = list(data)
    if not {*required} <= {*names} <= {*required, *optional}:
        expected = listed([*required, *(f"{name} (optional)" for name in optional)])
        raise ValueError(f"data: expected the arrays {expected}, got {listed(names)}")


def as_dtype(arrays: Mapping[str, np.ndarray], dtype: str) -> dict[str, np.ndarray]:
    """Returns checked arrays in a dtype, but for `t` and `mask`; raises ValueError for numbers that it cannot hold."""
    return {name: array if name in ("t", "mask") else _converted(name, array, dtype) for name, array in arrays.items()}


def check_batch(
    data: Mapping[str, Any], loss: Any, *, dtype: str, whole: bool, model: Any = None
) -> dict[str, np.ndarray]:
    """Checks a batch, or the whole data of a training, against the arguments of the loss; returns it as `check_data`.

    Args:
        data: arrays by the names of the loss's arguments, after its first, the model.
        loss: what the training minimises.
        dtype: as in `check_data`.
        whole: the data of a whole training: the mask is the training's own, so the loss must take one, and the data
            holds none.
        model: whose `arms` those of the loss have to be; where neither says, there are two.

    Raises:
        ValueError: as `check_data`; or the loss is none, takes no mask, is for other arms than the model, gets labels
            that it cannot take, or weights that are all zero.
    """
    names = loss_arguments(loss, whole=whole, model=model)
    arrays = check_part(data, loss, names, dtype=dtype)
    if whole:
        check_some_weight(arrays)
    return arrays


class LossArguments(NamedTuple):
    """The arrays that a loss takes.

    Attributes:
        required: names of those that must be there.
        optional: names of those that may be there.
        arms: how many the data has.
    """

    required: list[str]
    optional: list[str]
    arms: int


def loss_arguments(loss: Any, *, whole: bool, model: Any = None) -> LossArguments:
    """Returns what a loss takes besides the model; the arguments and errors are those of `check_batch`."""
    if not callable(loss):
        raise ValueError(f"loss: expected a loss such as FactualLoss(), got {shown(loss)}")
    _, *arguments = inspect.signature(loss).parameters.values()
    if whole and "mask" not in [argument.name for argument in arguments]:
        got = listed(argument.name for argument in arguments)
        raise ValueError(
            f"loss: expected one that takes a mask, since short batches are filled up, got arguments {got}"
        )
    arguments = [argument for argument in arguments if not (whole and argument.name == "mask")]
    required = [argument.name for argument in arguments if argument.default is argument.empty]
    optional = [argument.name for argument in arguments if argument.default is not argument.empty]
    of_model, of_loss = arms_of(model), arms_of(loss)
    if None not in (of_model, of_loss) and of_model != of_loss:
        raise ValueError(f"loss: expected one with arms={of_model}, as the model has, got arms={of_loss}")
    return LossArguments(required, optional, of_loss or of_model or 2)


def check_part(data: Mapping[str, Any], loss: Any, names: LossArguments, *, dtype: str) -> dict[str, np.ndarray]:
    """Checks some rows of the data, of which others may follow; returns them as `check_data`."""
    arrays = check_data(data, names.required, names.optional, dtype, names.arms)
    check_labels(getattr(loss, "criterion", ""), arrays)
    return arrays


def check_some_weight(arrays: Mapping[str, np.ndarray]) -> None:
    """Raises ValueError where there are weights `w` and all are zero."""
    if "w" in arrays and not arrays["w"].any():
        raise ValueError("w: expected at least one weight that is not zero, got none")


def required_inputs(call: Any) -> list[str]:
    """Returns the names of the inputs that a model cannot do without."""
    parameters = inspect.signature(call).parameters.values()
    return [parameter.name for parameter in parameters if parameter.default is parameter.empty]


def check_inputs(call: Any, inputs: Sequence[object]) -> list[str]:
    """Returns the names under which a model takes these inputs; raises ValueError if they are none or too many."""
    parameters = inspect.signature(call).parameters
    names = [name for name in parameters if not isinstance(parameters[name].default, bool)]  # switches are no inputs
    if not 0 < len(inputs) <= len(names):
        raise ValueError(f"inputs: expected those of the model, {listed(names)}, got {len(inputs)} arrays")
    return names[: len(inputs)]


def check_labels(criterion: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Raises ValueError where a cross entropy is asked of outcomes that are no probabilities."""
    if criterion != "sigmoid_binary_cross_entropy":
        return
    for name, array in arrays.items():
        wrong = np.argwhere((array < 0) | (array > 1))
        if name.startswith("y") and len(wrong):
            raise ValueError(f"{name}: expected labels from 0 to 1, as {criterion} takes, got {_at(array, wrong)}")


def check_weights(weights: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raises ValueError, naming all that is wrong at once, unless the weights have the expected names and shapes."""
    wrong = misfits({name: array.shape for name, array in weights.items()}, expected)
    wrong += [
        f"{name}: expected float16, float32 or float64, got {array.dtype}"
        for name, array in sorted(weights.items())
        if array.dtype.kind != "f" and array.shape == expected.get(name)
    ]
    if wrong:
        raise ValueError(f"weights: expected those of the model, got {'; '.join(wrong)}")


def misfits(shapes: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Returns what is missing, unexpected or of another shape, a few words each."""
    wrong = [f"missing {name}" for name in sorted(expected) if name not in shapes]
    wrong += [f"unexpected {name}" for name in sorted(shapes) if name not in expected]
    return wrong + [
        f"{name}: expected shape {brackets(shape)}, got {brackets(shapes[name])}"
        for name, shape in sorted(expected.items())
        if shapes.get(name, shape) != shape
    ]


def check_outputs(outputs: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """Returns a model's outputs; raises FloatingPointError where they are not finite."""
    for i, array in enumerate(outputs):
        wrong = np.argwhere(~np.isfinite(array))
        if len(wrong):
            got = _at(array, wrong)
            raise FloatingPointError(
                f"output {i}: expected finite numbers, got {got}: the weights or inputs are too large"
            )
    return tuple(outputs)


def _on_host(name: str, array: Any) -> np.ndarray:
    if isinstance(array, np.ma.MaskedArray):
        raise ValueError(f"{name}: expected a plain array, got a masked one")
    if hasattr(array, "detach"):  # a torch tensor, in either package
        array = array.detach().cpu()
    array = np.asarray(array)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name}: expected numbers, got dtype {array.dtype}")
    return array


def _all_finite(array: np.ndarray) -> bool:
    return all(np.isfinite(array[start : start + _PART]).all() for start in range(0, len(array), _PART))


def _converted(name: str, array: np.ndarray, dtype: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        converted = array.astype(dtype, copy=False)
    if converted is array:  # seen to be finite already
        return array
    if not _all_finite(converted):
        got = _at(array, np.argwhere(~np.isfinite(converted)))
        raise ValueError(f"{name}: expected numbers that {dtype} holds, got {got}")
    return converted


def _at(array: np.ndarray, wrong: np.ndarray) -> str:
    """Returns the first of the wrong values, where it is, and how many there are."""
    row, *columns = wrong[0]
    place = f"row {row}" + "".join(f", column {column}" for column in columns)
    return f"{array[tuple(wrong[0])]} in {place}{_more(len(wrong))}"


def _more(count: int) -> str:
    return f" ({count} in all)" if count > 1 else ""
