"""Records one step of the port, operation by operation."""

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from torch_ref.common.call_names import leaves
from torch_ref.common.checks.arguments import shown
from torch_ref.common.memory import release
from torch_ref.common.progress import Progress
from torch_ref.common.tape.tape import Tape
from torch_ref.common.tape.writer import TapeWriter

from ...alignment.repair import Exchange
from .lifting import wide
from .numbers import Numbers
from .rerun import Walked
from .structure import Structure
from .walk import Walk

KEEP = 256_000_000


class TracedStep:
    """One forward and backward pass of a port as a jaxpr, which is walked as often as it takes.

    Args:
        model: a Linen or NNX module, or a function of the parameters and the inputs.
        params: a Linen module's variables or parameters, or any pytree; of an NNX module, as `nnx.to_pure_dict` gives
            them, or None for its own.
        batch: arrays by the names that `loss` gives them.
        loss: takes the model and the batch by their names, and returns a number, or several to be added.
        rewrite: takes the jaxpr of the forward pass, and returns a function of the same arrays, to be differentiated in
            its place; so faults are planted.
        progress: shows a bar, or plain lines, once a walk takes long.
    """

    def __init__(
        self,
        model: Any,
        params: Any,
        batch: Mapping[str, Any],
        loss: Callable[..., Any],
        rewrite: Callable[[Any], Callable[..., Any]] | None = None,
        *,
        progress: bool = False,
    ) -> None:
        call, params = _as_function(model, params)
        trained, rest = _parted(params)
        exact = {name: np.asarray(array) for name, array in batch.items()}  # jnp would round them to float32
        batch = {name: jnp.asarray(array) for name, array in exact.items()}
        by_input = {name: array for name, array in batch.items() if jnp.issubdtype(array.dtype, jnp.floating)}

        def step(trained: Any, by_input: Any, rest: Any, others: Any) -> Any:
            outputs, moved = [], {}

            def called(*args: Any, **kwargs: Any) -> Any:
                output, after = call(_joined(trained, rest), *args, **kwargs)
                outputs.append(output)
                moved.update(after)
                return output

            losses = _arrays(loss(called, **{name: (by_input | others)[name] for name in batch}))
            if not losses:
                raise ValueError("loss: expected a number, or several to be added, got none")
            found = [array for output in outputs for array in _arrays(output)]
            return sum(losses[1:], losses[0]), (losses, found, moved)

        others = {name: array for name, array in batch.items() if name not in by_input}
        arguments = (trained, by_input, rest, others)
        with jax.numpy_dtype_promotion("standard"):
            if rewrite is not None:
                step = _rewritten(step, arguments, rewrite)
            made = jax.make_jaxpr(jax.value_and_grad(step, (0, 1), has_aux=True), return_shape=True)(*arguments)
        self.jaxpr, (((_, (losses, outputs, moved)), gradients)) = made
        self._trees, self.progress, self._count = (trained, rest), progress, None
        self._walked: Walked | None = None  # as the step runs by itself
        self.numbers: Numbers = {}  # the reference's, for literals in half precision
        self.arguments = jax.tree.leaves((trained, {name: exact[name] for name in by_input}, rest, others))
        self._dtypes = [str(array.dtype) for array in self.arguments]
        self.names = [
            *(f"param/{name}" for name in _names(trained)),
            *(f"input/{name}" for name in sorted(by_input)),
            *(f"buffer/{name}" for name in _names(rest)),
            *(f"input/{name}" for name in sorted(others)),
        ]
        self.results = [
            "",  # the losses added up
            *(f"loss/{i}" for i in range(len(losses))),
            *(f"output/{i}" for i in range(len(outputs))),
            *(f"buffer/{name}" for name in sorted(moved)),
            *(f"grad/{name}" for name in _names(gradients[0])),
            *(f"grad/{name}" for name in sorted(by_input)),
        ]

    @property
    def weights(self) -> dict[str, Any]:
        """The parameters and what is not trained, by their dotted names; floating ones only."""
        named = zip(self.names, self.arguments, strict=True)
        return {
            name.partition("/")[2]: array
            for name, array in named
            if not name.startswith("input/") and jnp.issubdtype(array.dtype, jnp.floating)
        }

    def params(self, arrays: Mapping[str, Any]) -> Any:
        """Returns the parameters in the model's own structure.

        Args:
            arrays: by their dotted names; what is missing stays as it is.
        """
        trained, rest = (
            jax.tree_util.tree_map_with_path(lambda path, leaf: arrays.get(".".join(map(_word, path)), leaf), tree)
            for tree in self._trees
        )
        return _joined(trained, rest)

    def fill(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Takes other parameters from now on.

        Args:
            arrays: by their dotted names; what is missing stays as it is.
        """
        self._walked = None
        for i, name in enumerate(self.names):
            if not name.startswith("input/") and name.partition("/")[2] in arrays:
                array = arrays[name.partition("/")[2]]
                taken = array.astype(self.arguments[i].dtype) if array.dtype.kind != "f" else array.view()
                taken.flags.writeable = False  # so that no tape copies it
                self.arguments[i] = taken

    def tape(
        self,
        *,
        keep: int = KEEP,
        exchanges: Sequence[Exchange] = (),
    ) -> Tape:
        """Walks the step once and returns its tape.

        Args:
            keep: how many bytes of the values themselves are kept.
            exchanges: values to go on with in place of the port's own.
        """
        if exchanges and self._walked is not None and (tape := self._walked.again(exchanges)) is not None:
            return tape
        with Progress(self._count, self.progress, "value") as report:
            walk = Walk(TapeWriter(keep, report=report), exchanges, self.numbers)
            tape = self._written_by(walk)
        release(walk.writer.seen)
        if not exchanges:
            self._walked = Walked(tape, walk.equations, frozenset(walk.decisive))
        return tape

    def structure(self) -> Tape:
        """Returns the tape of the step without its values, which is not run unless it must be."""
        walk = Structure(TapeWriter(KEEP), numbers=self.numbers)
        try:
            tape = self._written_by(walk)
        except TypeError:  # what a value decides
            return self.tape()
        self._walked, self._count = Walked(tape, walk.equations, frozenset(walk.decisive)), len(tape.values)
        return tape

    def _written_by(self, walk: Walk) -> Tape:
        with wide():
            named = zip(self.names, self.arguments, self._dtypes, strict=True)
            inputs = [walk.leaf(name, array, dtype) for name, array, dtype in named]
            jaxpr, consts = walk.opened(self.jaxpr)
            found = walk.run(jaxpr, consts, inputs, drop=True)
        walk.writer.results.update(
            (name, number) for name, (_, number) in zip(self.results, found, strict=True) if name and number >= 0
        )
        versions = {name: importlib.metadata.version(name) for name in ("jax", "flax", "numpy")}
        return walk.writer.finish("jax", versions=versions)

    def evaluate(
        self,
        operation: int,
        arrays: Sequence[np.ndarray],
        literals: Mapping[int, float] | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> list[np.ndarray]:
        """Returns what one operation of the last tape without exchanges gives for other inputs.

        Args:
            operation: its number.
            arrays: its inputs, literals left out.
            literals: other numbers for its literals, by their place among the inputs.
            params: other values for what else it was given, by name.

        Raises:
            ValueError: there is no such tape yet.
        """
        if self._walked is None:
            raise ValueError("operation: expected one of a tape, got none before the first tape")
        return self._walked.evaluate(operation, arrays, literals, params)


def record_tape(
    model: Any,
    params: Any,
    batch: Mapping[str, Any],
    loss: Callable[..., Any],
    *,
    keep: int = KEEP,
    progress: bool = True,
) -> Tape:
    """Runs one forward and backward pass in float64 and returns every operation of it.

    The pass is traced as it is written and evaluated in float64, whatever it casts to; the dtypes as written are kept.
    It goes into `jit`, `remat`, `cond`, `while` and `scan`.

    Twin: `torch_ref.recording.record_tape`, whose model holds its parameters.

    Args:
        model: a Linen or NNX module, or a function of the parameters and the inputs.
        params: a Linen module's variables or parameters, or any pytree; None for an NNX module, which has them.
        batch: arrays by the names that `loss` gives them.
        loss: takes the model and the batch by their names, and returns a number, or several to be added.
        keep: how many bytes of the values themselves are kept, for a divergence to be repaired.
        progress: shows a bar, or plain lines, once it takes long.

    Returns:
        The tape: operations with their lines, fingerprints of all values, losses, outputs and gradients.

    Raises:
        ValueError: `model` is neither a module nor a function, or `loss` returns no array.

    Example:
        >>> def line(params, x):
        ...     return x @ params["w"]
        >>> params, batch = {"w": jnp.ones((3, 1))}, {"x": jnp.ones((2, 3))}
        >>> tape = record_tape(line, params, batch, lambda model, x: (model(x) ** 2).mean())
        >>> sorted(tape.results), tape.operations[0].name
        (['grad/w', 'grad/x', 'loss/0', 'output/0'], 'dot_general')
    """
    return TracedStep(model, params, batch, loss, progress=progress).tape(keep=keep)


def _rewritten(step: Callable[..., Any], arguments: Any, rewrite: Callable[[Any], Callable[..., Any]]) -> Any:
    jaxpr, shapes = jax.make_jaxpr(step, return_shape=True)(*arguments)
    function = rewrite(jaxpr)
    return lambda *arrays: jax.tree.unflatten(jax.tree.structure(shapes), function(*jax.tree.leaves(arrays)))


def _as_function(model: Any, params: Any) -> tuple[Callable[..., Any], Any]:
    """Returns a model as a function of its variables and inputs, and the variables.

    The function returns the output, and the statistics that a call has moved, by their dotted names.
    """
    if isinstance(model, nnx.Module):
        graph, state = nnx.split(model)
        if params is not None:
            given = params if isinstance(params, dict) else nnx.to_pure_dict(params)
            try:
                nnx.replace_by_pure_dict(state, given)
            except (ValueError, KeyError) as error:
                raise ValueError(f"params: expected entries of the module, got others: {error}") from error

        def run(state: Any, *args: Any, **kwargs: Any) -> Any:
            merged = nnx.merge(graph, state)
            output = merged(*args, **kwargs)
            return output, _named(nnx.to_pure_dict(nnx.state(merged, nnx.BatchStat)))

        return run, nnx.to_pure_dict(state)
    if isinstance(model, nn.Module):
        variables = params if "params" in params else {"params": params}
        mutable = [name for name in variables if name != "params"]
        key = jax.random.key(0)

        def call(variables: Any, *args: Any, **kwargs: Any) -> Any:
            # What it draws is replaced by what the reference drew; the key is for all of it.
            settings = {"mutable": mutable, "rngs": key, **kwargs}
            found = model.apply(variables, *args, **settings)
            output, moved = found if settings["mutable"] is not False else (found, {})
            return output, _named({name: moved[name] for name in moved if name == "batch_stats"})

        return call, variables
    if not callable(model):
        raise ValueError(f"model: expected a module, or a function of parameters and inputs, got {shown(model)}")
    return (lambda params, *args, **kwargs: (model(params, *args, **kwargs), {})), params


def _named(tree: Any) -> dict[str, Any]:
    """Returns the floating arrays of a tree by their dotted names."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {".".join(map(_word, path)): leaf for path, leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)}


def _parted(params: Any) -> tuple[Any, Any]:
    """Returns what is trained and what is not, each with None where the other has a leaf."""

    def is_trained(path: Any, leaf: Any) -> bool:
        return jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.floating) and "batch_stats" not in map(_word, path)

    trained = jax.tree_util.tree_map_with_path(lambda p, leaf: leaf if is_trained(p, leaf) else None, params)
    rest = jax.tree_util.tree_map_with_path(lambda p, leaf: None if is_trained(p, leaf) else jnp.asarray(leaf), params)
    return trained, rest


def _joined(trained: Any, rest: Any) -> Any:
    return jax.tree.map(lambda a, b: b if a is None else a, trained, rest, is_leaf=lambda leaf: leaf is None)


def _names(tree: Any) -> list[str]:
    return [".".join(map(_word, path)) for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]


def _word(key: Any) -> str:
    for name in ("key", "name", "idx"):
        if hasattr(key, name):
            return str(getattr(key, name))
    return str(key)


def _arrays(value: Any) -> list[Any]:
    value = value.to_tuple() if hasattr(value, "to_tuple") else value
    return [array for array in leaves(value).values() if isinstance(array, jax.Array)]
