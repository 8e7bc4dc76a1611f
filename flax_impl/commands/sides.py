"""One face for both frameworks, so that a script or a test says each thing once; numpy goes in and comes out."""

import importlib
from collections.abc import Mapping
from functools import partial
from types import ModuleType
from typing import Any, Protocol

import numpy as np

BACKENDS = {"torch": "torch_ref", "flax": "flax_impl"}


def import_backend(backend: str, dtype: str = "float32") -> ModuleType:
    """Returns the package of that framework, ready to compute in that dtype for the rest of the process.

    Raises:
        ImportError: the framework is not installed; the message names the extra that brings it.
    """
    try:
        package = importlib.import_module(BACKENDS[backend])
    except ModuleNotFoundError as error:
        raise ImportError(f"{error}: run pip install '.[all]' in the clone, or source scripts/setup.sh") from error
    if backend == "flax" and dtype == "float64":
        importlib.import_module("jax").config.update("jax_enable_x64", True)
    return package


def join_processes(
    package: ModuleType, coordinator: str | None, processes: int | None, process_id: int | None
) -> tuple[dict[str, Any], bool]:
    """Joins this process to the others; returns what `fit` takes to share a training, and whether this is process 0.

    Raises:
        ValueError: only some of the three are given, or they make no sense.
        ConnectionError: the others were not to be found.
    """
    package.training.initialize_distributed(coordinator, processes, process_id)
    if package.__name__ == "torch_ref":
        distributed = importlib.import_module("torch.distributed")
        first = distributed.get_rank() == 0
        return {"process_group": distributed.group.WORLD, "progress": first}, first
    first = importlib.import_module("jax").process_index() == 0
    return {"mesh": package.training.make_mesh(), "progress": first}, first


class Side(Protocol):
    """A model with its weights, in one of the frameworks.

    Made from the model's name and constructor arguments, and from `weights` under torch's names, or drawn by the
    framework from `seed` in `dtype`.
    """

    backend: str
    package: ModuleType

    def weights(self) -> dict[str, np.ndarray]:
        """Returns a copy of the weights under torch's names."""
        ...

    def fit(self, data: Mapping[str, np.ndarray], **settings: Any) -> np.ndarray:
        """Trains, and returns the losses [steps, outputs]; `settings` are those of the package's `fit`."""
        ...

    def predict(self, *inputs: np.ndarray) -> tuple[np.ndarray, ...]:
        """Returns the outputs."""
        ...

    def evaluate(self, loss: Any, batch: Mapping[str, np.ndarray], forward: bool = True) -> dict[str, np.ndarray]:
        """Returns what the model makes of a batch: `output/…`, `loss/…`, and the gradients of the summed loss.

        These are `grad/` and the torch name of each weight, and `grad/x` or the like for each input. `forward`
        False leaves the outputs out.
        """
        ...

    def save(self, path: Any) -> None:
        """Writes the weights and what it takes to rebuild the model."""
        ...


class TorchSide:
    """The reference."""

    backend = "torch"

    def __init__(
        self,
        model: str,
        config: Mapping[str, Any],
        *,
        weights: Mapping[str, np.ndarray] | None = None,
        seed: int = 0,
        dtype: str = "float32",
    ) -> None:
        self.package = import_backend("torch")
        import torch

        torch.manual_seed(seed)
        self.torch = torch
        self.model = getattr(self.package, model)(**config).to(getattr(torch, dtype))
        if weights is not None:
            self.package.from_numpy(self.model, weights)

    def weights(self) -> dict[str, np.ndarray]:
        """Returns a copy of the weights under torch's names."""
        return self.package.to_numpy(self.model)

    def fit(self, data: Mapping[str, np.ndarray], **settings: Any) -> np.ndarray:
        """Trains, and returns the losses [steps, outputs]; `settings` are those of the package's `fit`."""
        return self.package.fit(self.model, data, **settings)

    def predict(self, *inputs: np.ndarray) -> tuple[np.ndarray, ...]:
        """Returns the outputs."""
        return self.package.predict(self.model, *inputs)

    def evaluate(self, loss: Any, batch: Mapping[str, np.ndarray], forward: bool = True) -> dict[str, np.ndarray]:
        """Returns what the model makes of a batch: `output/…`, `loss/…`, and the gradients of the summed loss.

        These are `grad/` and the torch name of each weight, and `grad/x` or the like for each input. `forward`
        False leaves the outputs out.
        """
        tensors = {name: self.torch.tensor(array) for name, array in batch.items()}
        inputs = {name: tensor.requires_grad_() for name, tensor in tensors.items() if name.startswith("x")}
        wanted = dict(self.model.named_parameters()) | inputs
        outputs = self.model(*inputs.values()) if forward else ()
        found = {f"output/{i}": output for i, output in enumerate(outputs)}
        if forward and "t" in tensors:
            found["output/factual"] = self.model(*inputs.values(), tensors["t"])
        losses = self.torch.stack(loss(self.model, **tensors))
        # What the loss never used gets zeros, as in the port.
        gradients = self.torch.autograd.grad(losses.sum(), list(wanted.values()), materialize_grads=True)
        found |= {f"loss/{i}": value for i, value in enumerate(losses)}
        found |= {f"grad/{name}": gradient for name, gradient in zip(wanted, gradients, strict=True)}
        return {name: value.detach().numpy() for name, value in found.items()}

    def save(self, path: Any) -> None:
        """Writes the weights and what it takes to rebuild the model."""
        self.package.save_model(path, self.model)


class FlaxSide:
    """The port."""

    backend = "flax"

    def __init__(
        self,
        model: str,
        config: Mapping[str, Any],
        *,
        weights: Mapping[str, np.ndarray] | None = None,
        seed: int = 0,
        dtype: str = "float32",
    ) -> None:
        self.package = import_backend("flax")
        import jax

        self.jax = jax
        self.model = getattr(self.package, model)(**config)
        if weights is None:
            self.params = jax.tree.map(lambda leaf: leaf.astype(dtype), self.model.init_params(seed))
        else:
            self.params = self.package.from_numpy(self.model, weights)
        self._evaluate = self._evaluate_jitted()

    def weights(self) -> dict[str, np.ndarray]:
        """Returns a copy of the weights under torch's names."""
        return self.package.to_numpy(self.params)

    def fit(self, data: Mapping[str, np.ndarray], **settings: Any) -> np.ndarray:
        """Trains, and returns the losses [steps, outputs]; `settings` are those of the package's `fit`."""
        self.params, losses = self.package.fit(self.model, self.params, data, **settings)
        return losses

    def predict(self, *inputs: np.ndarray) -> tuple[np.ndarray, ...]:
        """Returns the outputs."""
        return self.package.predict(self.model, self.params, *inputs)

    def evaluate(self, loss: Any, batch: Mapping[str, np.ndarray], forward: bool = True) -> dict[str, np.ndarray]:
        """Returns what the model makes of a batch: `output/…`, `loss/…`, and the gradients of the summed loss.

        These are `grad/` and the torch name of each weight, and `grad/x` or the like for each input. `forward`
        False leaves the outputs out.
        """
        found, by_weight = self._evaluate(self.params, dict(batch), loss, forward)
        found |= {f"grad/{name}": gradient for name, gradient in self.package.to_numpy(by_weight).items()}
        return {name: np.asarray(value) for name, value in found.items()}

    def _evaluate_jitted(self) -> Any:
        jax, model = self.jax, self.model

        def total(params: Any, inputs: Any, batch: Any, loss: Any) -> Any:
            losses = loss(partial(model.apply, {"params": params}), **(batch | inputs))
            return sum(losses), losses

        def everything(params: Any, batch: Any, loss: Any, forward: bool) -> Any:
            inputs = {name: array for name, array in batch.items() if name.startswith("x")}
            outputs = model.apply({"params": params}, *inputs.values()) if forward else ()
            found = {f"output/{i}": output for i, output in enumerate(outputs)}
            if forward and "t" in batch:
                found["output/factual"] = model.apply({"params": params}, *inputs.values(), batch["t"])
            gradients, losses = jax.grad(total, (0, 1), has_aux=True)(params, inputs, batch, loss)
            found |= {f"loss/{i}": value for i, value in enumerate(losses)}
            return found | {f"grad/{name}": gradient for name, gradient in gradients[1].items()}, gradients[0]

        return jax.jit(everything, static_argnums=(2, 3))

    def save(self, path: Any) -> None:
        """Writes the weights and what it takes to rebuild the model."""
        self.package.save_model(path, self.model, self.params)


SIDES = {"torch": TorchSide, "flax": FlaxSide}
