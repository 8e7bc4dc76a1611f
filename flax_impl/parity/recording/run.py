"""Runs a port through a training, step by step, and writes down everything under torch's names."""

import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from torch_ref.common.call_names import module_of
from torch_ref.common.checks.arguments import check_choice, shown
from torch_ref.common.progress import Progress
from torch_ref.common.record_inputs import config_of
from torch_ref.common.trace import Trace

from ..weight_map.map import WeightMap
from .moments import moments_of, with_moments
from .program import Program, forward_and_backward, init_state, optimizer_step, without_float32
from .variables import Variables, cast

# Of torch's classes: those that hold channels in the second axis, where Flax has them in the last.
_CHANNELS_FIRST = (
    "Conv", "BatchNorm", "GroupNorm", "InstanceNorm", "MaxPool", "AvgPool", "AdaptiveAvgPool", "Upsample",
)  # fmt: skip


class Run:
    """Trains a program step by step; forced, each starts from the reference's parameters, gradients and moments."""

    def __init__(
        self,
        program: Program,
        variables: Variables,
        optimizer: Any,
        names: WeightMap,
        reference: Trace | None = None,
        forced: bool = False,
    ) -> None:
        self.program, self.variables, self.optimizer, self.names = program, variables, optimizer, names
        self.arrays = {} if reference is None else reference.arrays
        self.kinds = {} if reference is None else reference.metadata["modules"]
        self.leader = reference if forced else None
        self.state = init_state(optimizer, variables.params)
        self.calls: list[str] = []
        self.units: dict[str, np.floating[Any] | int] = {}

    def through(
        self, batches: Sequence[Mapping[str, Any]], *, recipe: Mapping[str, Any] | None, progress: bool, model: Any
    ) -> Trace:
        """Takes a step for each batch and returns the trace."""
        dtype = jax.tree.leaves(self.variables.params)[0].dtype.name
        check_choice("dtype of the parameters", dtype, ("float32", "float64"))
        batches = [{name: cast(np.asarray(array), dtype) for name, array in batch.items()} for batch in batches]
        if dtype == "float64":
            self.program = without_float32(self.program, self.variables, batches[0])
        arrays = {f"0/param/{name}": array for name, array in self._named(self.variables).items()}
        for path, leaf in self.variables.named().items():  # what has no counterpart is seen as that
            if (name := ".".join(path[1:])) in self.names.flax_only:
                arrays.setdefault(f"0/param/{name}", np.asarray(leaf))
        with Progress(len(batches), progress) as report:
            for k, batch in enumerate(batches):
                found = {f"input/{name}": array for name, array in batch.items()} | self._step(k, batch)
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
            "buffers": sorted(self._named_buffers(self.variables)),
            "frozen": [],
            "versions": {name: importlib.metadata.version(name) for name in ("jax", "flax", "optax", "numpy")},
            "recipe": dict(recipe or {}),
            "weight_map": str(self.names),
            "in_float32": list(self.program.in_float32),
        }
        return Trace(arrays, metadata)

    def _step(self, k: int, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        leader = self.leader
        if leader is not None:
            self.variables = self.variables.at_step(k, self.names, leader)
        phases, gradients, after = forward_and_backward(self.program, self.variables, dict(batch))
        found = self._by_torch_name(k, phases)
        found |= {f"grad/{name}": array for name, array in self._named_params(gradients).items()}
        if leader is not None:
            held = leader.phase(0, "param")
            of_params = {n: cast(a, leader.dtype) for n, a in leader.phase(k, "grad").items() if n in held}
            gradients = self._replaced(gradients, of_params)
            self._force_moments(k, leader)
        found |= {f"buffer/{name}": array for name, array in self._named_buffers(after).items()}
        params, self.state = optimizer_step(self.optimizer, self.state, self.variables.params, gradients)
        self.variables = Variables(params, after.buffers, after.others)
        found |= {f"update/{name}": array for name, array in self._named_params(params).items()}
        for moment, tree in moments_of(self.state, params).items():
            moments = {f"{name}.{moment}": array for name, array in self._named_params(tree).items()}
            if leader is not None and k == 0 and moment == "momentum_buffer":
                self.units[moment] = _unit(moments, found, leader)
            found |= {f"state/{name}": array / self.units.get(moment, 1) for name, array in moments.items()}
        return found

    def _by_torch_name(self, k: int, phases: Mapping[str, Mapping[str, Any]]) -> dict[str, np.ndarray]:
        """Returns the entries of a step under torch's names; notes which modules were called."""
        found: dict[str, np.ndarray] = {}
        self.calls = []
        for phase, entries in phases.items():
            for name, leaf in entries.items():
                array = np.asarray(leaf)
                if phase in ("module_input", "activation", "cotangent"):
                    own = module_of(name)
                    if own not in self.names.modules:
                        continue  # without a counterpart
                    module = self.names.modules[own]
                    name = module + name[len(own) :]
                    array = channels_as_torch(array, self.arrays.get(f"{k}/{phase}/{name}"), self.kinds.get(module, ""))
                    if phase == "activation" and not name.endswith("]"):
                        self.calls.append(name)
                found[f"{phase}/{name}"] = array
        return found

    def _force_moments(self, k: int, leader: Trace) -> None:
        """Gives the optimiser the reference's moments, as far as it knows them by name."""
        params, moments = self.variables.params, {}
        for moment, tree in moments_of(self.state, params).items():
            suffix = f".{moment}"
            unit = self.units.get(moment, 1)
            taken = {n.removesuffix(suffix): a * unit for n, a in leader.state(k).items() if n.endswith(suffix)}
            if taken:
                moments[moment] = self._replaced(tree, taken)
        self.state = with_moments(self.state, params, moments, k)

    def _replaced(self, tree: Any, arrays: Mapping[str, np.ndarray]) -> Any:
        """Returns a pytree like the parameters with other leaves, given by torch's names."""
        return Variables(tree, {}, {}).replaced(self.names.to_flax(arrays)).params

    def _named(self, variables: Variables) -> dict[str, np.ndarray]:
        return self.names.to_torch({path: np.asarray(leaf) for path, leaf in variables.named().items()})

    def _named_params(self, tree: Any) -> dict[str, np.ndarray]:
        return self._named(Variables(tree, {}, {}))

    def _named_buffers(self, variables: Variables) -> dict[str, np.ndarray]:
        return self._named(Variables({}, variables.buffers, {}))


def channels_as_torch(array: np.ndarray, reference: np.ndarray | None, kind: str) -> np.ndarray:
    """Returns what a module of the port took or returned, with its channels where torch has them.

    Args:
        array: of the port.
        reference: torch's entry, whose shape decides where the class does not; None where there is none.
        kind: torch's class.
    """
    if array.ndim < 3:
        return array
    turned = np.moveaxis(array, -1, 1)
    if kind.startswith(_CHANNELS_FIRST):
        return turned
    if reference is None or array.shape == reference.shape or turned.shape != reference.shape:
        return array
    return turned


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
