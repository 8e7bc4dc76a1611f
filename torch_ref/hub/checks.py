"""Bad input gets one clear error: which argument, what was expected, what came.

Shapes can be checked anywhere, under `jit` too. Values need arrays that hold numbers already, so they are checked at
the doors: `fit`, `train_step` and `predict`.
"""

import inspect
import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

# What float32 and int32 hold: beyond it the frameworks differ, or fail in words of their own.
_LARGEST_NUMBER = float(np.finfo(np.float32).max)
_LARGEST_INTEGER = int(np.iinfo(np.int32).max)
_PART = 2**16  # rows that are looked at together: a look at all at once would take a quarter of the data's memory


def listed(names: Iterable[object]) -> str:
    """Returns names as a text that stays short, however many there are."""
    names = [str(name) for name in names]
    more = [f"… ({len(names)} in all)"] if len(names) > 20 else []
    return ", ".join([*names[:20], *more]) or "none"


def shown(value: object) -> str:
    """Returns a value as a text that stays short, however long it is."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def check_choice(argument: str, value: object, allowed: Iterable[str]) -> None:
    """Raises ValueError, listing what is allowed, unless `value` is one of `allowed`."""
    allowed = list(allowed)
    if value not in allowed:
        one_of = f"one of {', '.join(map(repr, allowed))}" if allowed else "none"
        raise ValueError(f"{argument}: expected {one_of}, got {shown(value)}")


def check_number(
    argument: str, value: Any, *, at_least: float = -math.inf, above: float = -math.inf, below: float = math.inf
) -> Any:
    """Returns a number as a float; raises ValueError unless it is finite in float32 and within the bounds.

    What holds no single number yet is returned as it is: a traced value inside `jit`, or one for each of many.
    """
    if hasattr(value, "dtype") and not isinstance(value, np.generic):
        try:
            number = float(value)
        except Exception:  # each framework has an error of its own for this
            return value
    else:
        number = _float(value)
    if not (abs(number) <= _LARGEST_NUMBER and number >= at_least and above < number < below):
        bounds = [f"of at least {at_least:g}"] * (at_least > -math.inf)
        bounds += [f"above {above:g}"] * (above > -math.inf)
        bounds += [f"below {below:g}"] * (below < math.inf)
        expected = " ".join(["a finite number", " and ".join(bounds)]).strip()
        raise ValueError(f"{argument}: expected {expected}, got {shown(value)}")
    return number


def check_pair(argument: str, value: Any, **bounds: float) -> tuple[float, float]:
    """Returns two numbers as floats; raises ValueError unless there are two, as `check_number` takes them."""
    pair = tuple(value) if isinstance(value, Sequence) else ()
    if len(pair) != 2:
        raise ValueError(f"{argument}: expected two numbers, got {shown(value)}")
    first, second = (check_number(f"{argument}[{i}]", number, **bounds) for i, number in enumerate(pair))
    return first, second


def check_numbers(settings: object, **bounds: Mapping[str, float]) -> None:
    """Checks the fields of a frozen dataclass, each against its bounds, and makes them floats."""
    for name, of_field in bounds.items():
        object.__setattr__(settings, name, check_number(name, getattr(settings, name), **of_field))


def check_integer(argument: str, value: object, *, at_least: int) -> int:
    """Returns a whole number as an int; raises ValueError unless it is at least `at_least` and fits 32 bits."""
    number = int(value) if isinstance(value, numbers.Integral | np.integer) and not isinstance(value, bool) else -1
    if not at_least <= number <= _LARGEST_INTEGER:
        bounds = f"of at least {at_least}" if number < at_least else f"of at most {_LARGEST_INTEGER}"
        raise ValueError(f"{argument}: expected a whole number {bounds}, got {shown(value)}")
    return number


def check_row_numbers(argument: str, numbers: Any, total: int) -> np.ndarray:
    """Returns row numbers as int32; raises ValueError unless there are some, whole and from 0 to below `total`."""
    array = np.asarray(numbers)
    if array.ndim != 1 or not len(array) or array.dtype.kind not in "iu":
        raise ValueError(f"{argument}: expected the numbers of some rows, got {shown(numbers)}")
    wrong = array[(array < 0) | (array >= total)]
    if len(wrong):
        raise ValueError(f"{argument}: expected row numbers from 0 to {total - 1}, got {wrong[0]}")
    return array.astype(np.int32, copy=False)


def check_widths(argument: str, widths: object) -> tuple[int, ...]:
    """Returns the layer widths as a tuple; raises ValueError unless they are whole numbers of at least 1."""
    if isinstance(widths, str) or not isinstance(widths, Sequence):
        raise ValueError(f"{argument}: expected a sequence of layer widths, got {shown(widths)}")
    return tuple(check_integer(argument, width, at_least=1) for width in widths)


def check_shape(argument: str, array: Any, expected: tuple[int | str, ...]) -> None:
    """Raises ValueError unless the array has the expected shape; a name stands for any length."""
    shape: tuple[int | str, ...] = tuple(array.shape)
    if len(shape) == len(expected):
        shape = tuple(want if isinstance(want, str) else got for got, want in zip(shape, expected, strict=True))
    if shape != expected:
        raise ValueError(f"{argument}: expected shape {_brackets(expected)}, got {_brackets(shape)}")


def check_rows(argument: str, array: Any) -> None:
    """Raises ValueError unless the array has rows."""
    if len(array) == 0:
        raise ValueError(f"{argument}: expected at least one row, got an empty batch")


def check_binary(argument: str, array: np.ndarray) -> None:
    """Raises ValueError, naming the first row, where the array holds anything but 0 and 1, of whatever dtype."""
    wrong = np.argwhere((array != 0) & (array != 1))
    if len(wrong):
        got = f"{array[tuple(wrong[0])]} in row {wrong[0][0]}{_more(len(wrong))}"
        raise ValueError(f"{argument}: expected 0 or 1 in every row, got {got}")


def check_finite(argument: str, array: np.ndarray) -> None:
    """Raises ValueError, naming the first place, where the array holds NaN or infinity."""
    if not _all_finite(array):
        raise ValueError(f"{argument}: expected finite numbers, got {_at(array, np.argwhere(~np.isfinite(array)))}")


def check_data(
    data: Mapping[str, Any], required: Sequence[str], optional: Sequence[str] = (), dtype: str = "float64"
) -> dict[str, np.ndarray]:
    """Checks the arrays that a training reads, and returns them in numpy and in their dtypes.

    Args:
        data: arrays by name, each with one entry a row: `x`, `t` [rows], `y`, `w` [rows], `mask` [rows] and the like.
            Rows that `mask` leaves out may hold anything.
        required: the names that must be there.
        optional: the names that may be there too.
        dtype: of all but `t`, which becomes int32, and `mask`, which becomes bool.

    Raises:
        ValueError: names missing or unexpected; no rows, or arrays that differ in rows; values that are no numbers, or
            not finite in `dtype`; a `t` or `mask` that is neither 0 nor 1; a negative weight `w`.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"data: expected arrays by name, got {type(data).__name__}")
    missing = [name for name in required if name not in data]
    unexpected = [name for name in data if name not in (*required, *optional)]
    if missing or unexpected:
        expected = listed([*required, *(f"{name} (optional)" for name in optional)])
        raise ValueError(f"data: expected the arrays {expected}, got {listed(data)}")
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
            check_binary("t", array)
        if name not in ("t", "mask"):
            check_finite(name, array)
            array = _converted(name, array, dtype)
        if name == "w" and array.min() < 0:
            raise ValueError(f"w: expected weights of at least 0, got {arrays[name].min()} in row {array.argmin()}")
        arrays[name] = array.astype(np.int32, copy=False) if name == "t" else array
    return arrays


def check_batch(data: Mapping[str, Any], loss: Any, *, dtype: str, whole: bool) -> dict[str, np.ndarray]:
    """Checks a batch, or the whole data of a training, against the arguments of the loss; returns it as `check_data`.

    Args:
        data: arrays by the names of the loss's arguments, after its first, the model.
        loss: what the training minimises.
        dtype: as in `check_data`.
        whole: the data of a whole training: the mask is the training's own, so the loss must take one, and the data
            holds none.

    Raises:
        ValueError: as `check_data`; or the loss is none, takes no mask, gets labels that it cannot take, or weights
            that are all zero.
    """
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
    arrays = check_data(data, required, optional, dtype)
    check_labels(getattr(loss, "criterion", ""), arrays)
    if whole and "w" in arrays and not arrays["w"].any():
        raise ValueError("w: expected at least one weight that is not zero, got none")
    return arrays


def check_inputs(call: Any, inputs: Sequence[object]) -> list[str]:
    """Returns the names under which a model takes these inputs; raises ValueError if they are none or too many."""
    parameters = inspect.signature(call).parameters
    names = [name for name in parameters if not isinstance(parameters[name].default, bool)]  # switches are no inputs
    if not 0 < len(inputs) <= len(names):
        raise ValueError(f"inputs: expected those of the model, {listed(names)}, got {len(inputs)} arrays")
    return names[: len(inputs)]


def check_optimizer(optimizer: object, kind: type) -> None:
    """Raises ValueError unless a training gets the settings of an optimiser."""
    if not isinstance(optimizer, kind):
        raise ValueError(f"optimizer: expected settings such as Adam(lr=0.001), got {shown(optimizer)}")


def check_processes(coordinator: object, processes: object, process_id: object) -> None:
    """Raises ValueError unless all three are None, or say where process 0 is, how many there are, and which this is."""
    given = {"coordinator": coordinator, "processes": processes, "process_id": process_id}
    if all(value is None for value in given.values()):
        return
    missing = [name for name, value in given.items() if value is None]
    if missing:
        raise ValueError(f"{', '.join(missing)}: expected all of {', '.join(given)}, or none, got None")
    if (
        not isinstance(coordinator, str)
        or not coordinator.rpartition(":")[0]
        or not coordinator.rpartition(":")[2].isdigit()
    ):
        raise ValueError(f"coordinator: expected host:port, got {shown(coordinator)}")
    if check_integer("process_id", process_id, at_least=0) >= check_integer("processes", processes, at_least=1):
        raise ValueError(f"process_id: expected a number below {processes}, the number of processes, got {process_id}")


def no_meeting(coordinator: str | None) -> str:
    """Returns what a process says that did not find the others."""
    where = "where the environment says they are" if coordinator is None else f"at {coordinator}"
    return f"expected to find the other processes {where}"


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
        f"{name}: expected shape {_brackets(shape)}, got {_brackets(shapes[name])}"
        for name, shape in sorted(expected.items())
        if shapes.get(name, shape) != shape
    ]


def check_losses(losses: np.ndarray, first_step: int, steps: int) -> None:
    """Raises FloatingPointError, naming the step, where the losses [steps, outputs] left the finite numbers.

    Args:
        losses: of some steps of the training.
        first_step: the number of the first of them.
        steps: how many steps the training has in all.
    """
    wrong = np.argwhere(~np.isfinite(losses))
    if len(wrong):
        step, output = wrong[0]
        place = f"step {first_step + step} of {steps}, output {output}"
        raise FloatingPointError(f"loss: expected finite numbers, got {losses[step, output]} in {place}: {_DIVERGED}")


def check_watched(losses: np.ndarray) -> None:
    """Raises FloatingPointError where no look at the held-out rows, none of the losses that are NaN, was finite."""
    if not np.isfinite(losses).any():
        raise FloatingPointError(
            f"validation_rows: expected a finite loss on them, got none after any epoch: {_DIVERGED}"
        )


def check_trained(weights: Mapping[str, np.ndarray]) -> None:
    """Raises FloatingPointError where trained weights are not finite: the losses cannot tell of the last step."""
    for name, array in weights.items():
        wrong = np.argwhere(~np.isfinite(array))
        if len(wrong):
            got = array[tuple(wrong[0])]
            raise FloatingPointError(f"{name}: expected finite numbers, got {got} after the last step: {_DIVERGED}")


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


# What a survivor says.
LOST = "expected all processes to stay until the training ends, but one of them is gone"
_DIVERGED = "the training diverged; try a smaller lr, clip_norm, or standardised data"


def _float(value: object) -> float:
    """Returns the value of a plain number; NaN for anything else, and for what not even float64 holds."""
    if not isinstance(value, numbers.Real | np.number) or isinstance(value, bool | np.bool_):
        return math.nan
    try:
        return float(value)  # pyright: ignore[reportArgumentType] (complex numbers are no reals)
    except (OverflowError, TypeError):
        return math.nan


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


def _brackets(shape: tuple[int | str, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _more(count: int) -> str:
    return f" ({count} in all)" if count > 1 else ""
