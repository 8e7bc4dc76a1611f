"""A model and its weights in either framework, with the same methods; numpy arrays go in and come out."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from .backends import import_backend


class TorchSide:
    """A model of the reference.

    Args:
        model: the name of its class.
        config: the constructor's arguments.
        weights: by torch's names; None draws them from `seed`, in `dtype`.
        seed: of the first weights.
        dtype: of the parameters.
    """

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
            self.package.models.from_numpy(self.model, weights)

    def weights(self) -> dict[str, np.ndarray]:
        """Returns a copy of the weights by torch's names."""
        return self.package.models.to_numpy(self.model)

    def fit(self, data: Any, **settings: Any) -> np.ndarray:
        """Trains, and returns the losses [steps, outputs]; `settings` are those of the package's `fit`."""
        return self.package.fit(self.model, data, **settings)

    def predict(self, *inputs: np.ndarray) -> tuple[np.ndarray, ...]:
        """Returns the outputs."""
        return self.package.predict(self.model, *inputs)

    def propensity(self, x: np.ndarray) -> tuple[np.ndarray, float]:
        """Returns the logits of treatment [rows] and epsilon, of a model with a propensity head."""
        dtype = next(self.model.parameters()).dtype
        with self.torch.no_grad():
            *_, (logit, epsilon) = self.model(self.torch.tensor(x, dtype=dtype), return_propensity=True)
        return logit.double().numpy(), epsilon.item()

    def evaluate(self, loss: Any, batch: Mapping[str, np.ndarray], forward: bool = True) -> dict[str, np.ndarray]:
        """Returns `output/…` (unless `forward` is False), `loss/…`, and `grad/…` of the summed loss.

        Gradients have the torch name of their weight, or the name of their input, such as `grad/x`.
        """
        tensors = {name: self.torch.tensor(array) for name, array in batch.items()}
        inputs = {name: tensor.requires_grad_() for name, tensor in tensors.items() if name.startswith("x")}
        wanted = dict(self.model.named_parameters()) | inputs
        outputs = self.model(*inputs.values()) if forward else ()
        found = {f"output/{i}": output for i, output in enumerate(outputs)}
        if forward and "t" in tensors:
            found["output/factual"] = self.model(*inputs.values(), tensors["t"])
        losses = self.torch.stack(loss(self.model, **tensors))
        # A weight that the loss never used gets zeros, as in the port.
        gradients = self.torch.autograd.grad(losses.sum(), list(wanted.values()), materialize_grads=True)
        found |= {f"loss/{i}": value for i, value in enumerate(losses)}
        found |= {f"grad/{name}": gradient for name, gradient in zip(wanted, gradients, strict=True)}
        return {name: value.detach().numpy() for name, value in found.items()}

    def save(self, path: Any) -> None:
        """Writes the model file."""
        self.package.save_model(path, self.model)


class FlaxSide:
    """A model of the port; arguments as `TorchSide`."""

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
            self.params = self.package.models.from_numpy(self.model, weights)
        self._evaluate = self._evaluate_jitted()

    def weights(self) -> dict[str, np.ndarray]:
        """Returns a copy of the weights by torch's names."""
        return self.package.models.to_numpy(self.params)

    def fit(self, data: Any, **settings: Any) -> np.ndarray:
        """Trains, and returns the losses [steps, outputs]; `settings` are those of the package's `fit`."""
        self.params, losses = self.package.fit(self.model, self.params, data, **settings)
        return losses

    def predict(self, *inputs: np.ndarray) -> tuple[np.ndarray, ...]:
        """Returns the outputs."""
        return self.package.predict(self.model, self.params, *inputs)

    def evaluate(self, loss: Any, batch: Mapping[str, np.ndarray], forward: bool = True) -> dict[str, np.ndarray]:
        """Returns what `TorchSide.evaluate` returns."""
        found, by_weight = self._evaluate(self.params, dict(batch), loss, forward)
        found |= {f"grad/{name}": gradient for name, gradient in self.package.models.to_numpy(by_weight).items()}
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
        """Writes the model file."""
        self.package.save_model(path, self.model, self.params)


Side = TorchSide | FlaxSide
SIDES: dict[str, type[TorchSide] | type[FlaxSide]] = {"torch": TorchSide, "flax": FlaxSide}
