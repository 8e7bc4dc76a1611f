"""A port on its way through a training, step by step, with everything written down under torch's names."""

import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from torch_ref.common.checks.arguments import check_choice, shown
from torch_ref.common.progress import Progress
from torch_ref.common.record_inputs import config_of
from torch_ref.common.trace import Trace

from ..weight_map.map import WeightMap, propose_map
from .channels import in_torch_layout
from .moments import moments_of, with_moments
from .program import Path, Program, Variables, evaluate, init_state, step


class Layout:
    """Turns what the port's modules take and return into torch's layout: channels first.

    Args:
        kinds: torch's class by the module's name.
        reference: the reference's arrays, whose shapes decide where the class does not.
    """

    def __init__(self, kinds: Mapping[str, str], reference: Mapping[str, np.ndarray]) -> None:
        self.kinds = kinds
        self.reference = reference

    def __call__(self, key: str, array: np.ndarray) -> np.ndarray:
        """Returns the array of the entry of that key, turned over where need be."""
        module = key.split("/", 2)[2].partition("#")[0].partition("[")[0]
        return in_torch_layout(array, self.reference.get(key), self.kinds.get(module, ""))


class Run:
    """A program on its way through a training."""

    def __init__(
        self,
        program: Program,
        variables: Variables,
        optimizer: Any,
        names: WeightMap,
        layout: Layout,
        leader: Trace | None = None,
    ) -> None:
        self.program, self.variables, self.optimizer = program, variables, optimizer
        self.names, self.layout, self.leader = names, layout, leader
        self.state = init_state(optimizer, variables.params)
        self.calls: list[str] = []
        self.units: dict[str, np.floating[Any] | int] = {}

    def through(
        self, batches: Sequence[Mapping[str, Any]], *, recipe: Mapping[str, Any] | None, progress: bool, model: Any
    ) -> Trace:
        """Takes a step for each batch."""
        dtype = jax.tree.leaves(self.variables.params)[0].dtype.name
        check_choice("dtype of the parameters", dtype, ("float32", "float64"))
        arrays = {f"0/param/{name}": array for name, array in self._named(self.variables).items()}
        for path, leaf in self.variables.named().items():  # what has no counterpart is seen as that
            if (name := ".".join(path[1:])) in self.names.flax_only:
                arrays.setdefault(f"0/param/{name}", np.asarray(leaf))
        with Progress(len(batches), progress) as report:
            for k, batch in enumerate(batches):
                batch = {name: cast(np.asarray(array), dtype) for name, array in batch.items()}
                found = {f"input/{name}": array for name, array in batch.items()}
                found |= self._step(k, batch)
                arrays |= {f"{k}/{key}": array for key, array in found.items()}
                report(k + 1, [float(found[key]) for key in found if key.startswith("loss/")])
        lr = getattr(self.optimizer, "lr", None)
        metadata = {
            "framework": "flax",
            "model": type(model).__name__,
            "config": config_of(model),
            "loss": shown(getattr(self.program.loss, "__name__", self.program.loss)),
            "optimizer": {"name": type(self.optimizer).__name__, "lr": lr if isinstance(lr, float) else None},
            "dtype": dtype,
            "modules": dict.fromkeys(self.names.modules.values(), ""),
            "calls": self.calls,
            "inputs": list(self.program.inputs),
            "buffers": sorted(self._named(Variables({}, self.variables.buffers, {}))),
            "frozen": [],
            "versions": {name: importlib.metadata.version(name) for name in ("jax", "flax", "optax", "numpy")},
            "recipe": dict(recipe or {}),
            "weight_map": str(self.names),
        }
        return Trace(arrays, metadata)

    def _step(self, k: int, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        leader = self.leader
        if leader is not None:
            self.variables = from_reference(self.variables, self.names, leader, k)
        phases, by_param, after = evaluate(self.program, self.variables, dict(batch))
        found: dict[str, np.ndarray] = {}
        self.calls = []
        for phase, entries in phases.items():
            of_modules = phase in ("module_input", "activation", "cotangent")
            for name, array in entries.items():
                torch_name = self._torch_name(name) if of_modules else name
                if torch_name is None:
                    continue
                key = f"{phase}/{torch_name}"
                found[key] = self.layout(f"{k}/{key}", np.asarray(array))
                if phase == "activation" and not torch_name.endswith("]"):
                    self.calls.append(torch_name)
        gradients = Variables(by_param, {}, {})
        found |= {f"grad/{name}": array for name, array in self._named(gradients).items()}
        if leader is not None:
            held = leader.phase(0, "param")
            of_params = {name: array for name, array in leader.phase(k, "grad").items() if name in held}
            taken = self.names.to_flax({name: cast(array, leader.dtype) for name, array in of_params.items()})
            by_param = gradients.replaced({path: jnp.asarray(array) for path, array in taken.items()}).params
            self._force_moments(k, leader)
        found |= {f"buffer/{name}": array for name, array in self._named(Variables({}, after.buffers, {})).items()}
        params, self.state = step(self.optimizer, self.state, self.variables.params, by_param)
        self.variables = Variables(params, after.buffers, after.others)
        found |= {f"update/{name}": array for name, array in self._named(Variables(params, {}, {})).items()}
        for moment, tree in moments_of(self.state, params).items():
            moments = {f"{name}.{moment}": array for name, array in self._named(Variables(tree, {}, {})).items()}
            if leader is not None and k == 0 and moment == "momentum_buffer":
                self.units[moment] = _unit(moments, found, leader)
            found |= {f"state/{name}": array / self.units.get(moment, 1) for name, array in moments.items()}
        return found

    def _force_moments(self, k: int, leader: Trace) -> None:
        """Gives the optimiser the reference's moments, as far as it knows them by name."""
        params, moments = self.variables.params, {}
        for moment, tree in moments_of(self.state, params).items():
            suffix = f".{moment}"
            unit = self.units.get(moment, 1)
            taken = {n.removesuffix(suffix): a * unit for n, a in leader.state(k).items() if n.endswith(suffix)}
            if taken:
                of_port = self.names.to_flax(taken)
                like = Variables(tree, {}, {})
                moments[moment] = like.replaced({path: jnp.asarray(array) for path, array in of_port.items()}).params
        self.state = with_moments(self.state, params, moments, k)

    def _named(self, variables: Variables) -> dict[str, np.ndarray]:
        return self.names.to_torch({path: np.asarray(leaf) for path, leaf in variables.named().items()})

    def _torch_name(self, name: str) -> str | None:
        """Returns torch's name of a call or of one of its leaves; None for a module without a counterpart."""
        end = min((name.find(mark) for mark in "#[" if mark in name), default=len(name))
        module = self.names.modules.get(name[:end])
        return None if module is None else module + name[end:]


def _unit(moments: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray], leader: Trace) -> Any:
    """Returns how large a moment is as a share of the reference's after the first step, where both took the same step.

    A port may hold it in a unit of its own: optax.rmsprop multiplies by the rate before the momentum, torch after it.
    """
    before, after, state = leader.params(0), leader.phase(0, "update"), leader.phase(0, "state")
    shared = [name for name in moments if name in state]
    steps = [(found[f"update/{n}"] - before[n], after[n] - before[n]) for n in after if f"update/{n}" in found]
    if not shared or not all(np.allclose(ours, theirs, rtol=1e-3, atol=1e-7) for ours, theirs in steps):
        return 1
    ours, theirs = (np.concatenate([side[name].ravel() for name in shared]) for side in (moments, state))
    unit = (ours * theirs).sum() / max((theirs**2).sum(), np.finfo(np.float32).tiny)
    return ours.dtype.type(unit) if abs(unit - 1) > 1e-3 and np.allclose(ours, unit * theirs, rtol=1e-3) else 1


def from_reference(variables: Variables, names: WeightMap, reference: Trace, k: int) -> Variables:
    """Returns the variables with the parameters and buffers that the reference's step starts from."""
    taken = names.to_flax(reference.params(k))
    return variables.replaced({path: jnp.asarray(array) for path, array in taken.items()})


def opened(model: Any, params: Any) -> tuple[Any, Variables]:
    """Returns what a program holds of the model, and its variables."""
    if isinstance(model, nnx.Module):
        graph, own, buffers, others = nnx.split(model, nnx.Param, nnx.BatchStat, ...)
        return graph, Variables(own, buffers, others)
    if not isinstance(model, nn.Module):
        raise ValueError(f"model: expected a module of Linen's or NNX's, got {shown(model)}")
    if params is None:
        raise ValueError("params: expected a Linen module's parameters, got None")
    collections = dict(params) if "params" in params else {"params": params}
    return model, Variables(collections.pop("params"), collections.pop("batch_stats", {}), collections)


def shapes_of(variables: Variables) -> dict[tuple[str, ...], tuple[int, ...]]:
    """Returns the shapes of parameters and buffers by their path."""
    return {path: tuple(leaf.shape) for path, leaf in variables.named().items()}


def cast(array: np.ndarray, dtype: str) -> np.ndarray:
    """Returns floating numbers in that dtype, and others as they are."""
    return array.astype(dtype) if array.dtype.kind == "f" else array


def own_map(shapes: Mapping[Path, tuple[int, ...]]) -> WeightMap:
    """Returns the map of the port's own names, with torch's words for the leaves and torch's layout."""
    words = {"kernel": "weight", "scale": "weight", "embedding": "weight", "mean": "running_mean", "var": "running_var"}
    turned = {
        ".".join((*path[1:-1], words.get(path[-1], path[-1]))): (
            shape[::-1] if len(shape) < 3 else (*shape[-1:-3:-1], *shape[:-2])
        )
        if path[-1] == "kernel"
        else shape
        for path, shape in shapes.items()
    }
    return propose_map(turned, shapes)
