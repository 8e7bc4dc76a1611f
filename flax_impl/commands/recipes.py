"""Pairs of models for the harness: a recipe holds everything that it takes to build either side."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from types import ModuleType
from typing import Any

import numpy as np

from torch_ref.common.batches import batch_order
from torch_ref.common.data.simulation import synthetic
from torch_ref.common.settings.optimizers import make_optimizer
from torch_ref.common.settings.schedules import make_schedule

from .backends import import_backend

BATCH, ROWS = 24, 90  # the fourth batch is filled up with rows that its mask leaves out


def _both_heads(model: Any, x: Any, **batch: Any) -> Any:
    return model(x)


def _both_heads_and_propensity(model: Any, x: Any, **batch: Any) -> Any:
    outcomes, (logit, _) = model(x, return_propensity=True)
    return *outcomes, logit


def _both_outputs(model: Any, x1: Any, x2: Any, **batch: Any) -> Any:
    return model(x1, x2)


# The class, its loss, the outputs to compare, and the arguments of a small model.
MODELS = {
    "two-head": (
        "TwoHead",
        "FactualLoss",
        _both_heads,
        {"in_features": 6, "representation_features": [16, 16, 16], "head_features": [8, 8]},
    ),
    "two-in-two-out": ("TwoInTwoOut", "JointLoss", _both_outputs, {"in_features": 3, "hidden_features": [12, 12]}),
}
# Rates at which a few steps show every hyper-parameter; the rest is at its default.
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adam": {"lr": 1e-2, "weight_decay": 1e-2},
    "adamw": {"lr": 1e-2},
    "rmsprop": {"lr": 1e-2, "momentum": 0.5, "weight_decay": 1e-2},
    "sgd": {"lr": 5e-2, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-2},
}


@dataclass(frozen=True)
class Recipe:
    """A pair: a model, its loss and optimiser, and the batches of a training.

    Args:
        model: one of `MODELS`.
        dtype: float64 or float32.
        optimizer: one of `OPTIMIZERS`.
        steps: of the training.
        seed: of the weights and of the batches.
        config: arguments of the constructor that differ from the small model's.
        loss: arguments of the loss; with a `balance` among them it is `CFRLoss`, with a `targeted_weight`
            `TargetedLoss`.
        settings: arguments of the optimiser that differ from those above.
        schedule: of the learning rate, its name and its arguments.
    """

    model: str = "two-head"
    dtype: str = "float64"
    optimizer: str = "adam"
    steps: int = 20
    seed: int = 0
    config: Mapping[str, Any] = field(default_factory=dict)
    loss: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    schedule: tuple[str, Mapping[str, Any]] = ("exponential", {"gamma": 0.9})

    def as_json(self) -> dict[str, Any]:
        """Returns the recipe as the metadata of a trace holds it."""
        return asdict(self)

    @property
    def arms(self) -> int:
        """How many arms the model has, if it has any."""
        return int(self.config.get("arms", 2))

    @property
    def title(self) -> str:
        """What the tables call the model."""
        more = [f"{self.arms} arms"] * (self.arms > 2) + ["embedding"] * ("embeddings" in self.config)
        return ", ".join([self.model, *more])

    def make(self, package: ModuleType) -> dict[str, Any]:
        """Returns the package's loss, the optimiser's settings and `forward`."""
        _, loss, forward, _ = MODELS[self.model]
        loss = "CFRLoss" if "balance" in self.loss else loss
        if "targeted_weight" in self.loss:
            loss, forward = "TargetedLoss", _both_heads_and_propensity
        schedule = make_schedule(self.schedule[0], **self.schedule[1])
        settings = {"clip_norm": 1.0, "schedule": schedule, **OPTIMIZERS[self.optimizer], **self.settings}
        optimizer = make_optimizer(self.optimizer, **settings)
        asked = ({"arms": self.arms} if self.model == "two-head" else {}) | dict(self.loss)
        return {"loss": getattr(package, loss)(**asked), "optimizer": optimizer, "forward": forward}

    def build(self, package: ModuleType) -> Any:
        """Returns the model."""
        name, _, _, config = MODELS[self.model]
        return getattr(package, name)(**config | dict(self.config))

    def batches(self, order: Callable[..., Any] = batch_order) -> list[dict[str, np.ndarray]]:
        """Returns a batch for each step.

        They hold what is hard for a port: weights, masked rows with labels that are NaN, rows of zeros, where a ReLU
        has its kink, and no treated row in the second step. Of more than two arms, the last but one never has a row;
        where the model has embeddings, one level in a few is unseen.

        Args:
            order: draws the row numbers and the mask of each step; arguments as `batch_order`.
        """
        generator = np.random.default_rng(self.seed)
        if self.model == "two-head":
            made = synthetic(rows=ROWS, features=6, seed=self.seed)
            data = {"x": made.x, "t": made.t, "y": made.y}
        else:
            data = {name: generator.normal(size=(ROWS, 3)) for name in ("x1", "x2")}
            data |= {"y1": data["x1"][:, :1] ** 3, "y2": data["x2"][:, 1:2] * data["x1"][:, 2:]}
        if self.loss.get("criterion") == "sigmoid_binary_cross_entropy":
            data |= {name: (array > 0).astype(float) for name, array in data.items() if name.startswith("y")}
        for name, array in data.items():
            if name.startswith("x"):
                array[::8] = 0
        data["w"] = generator.uniform(0.2, 2, ROWS)
        if self.arms > 2:
            data["t"] = generator.choice([arm for arm in range(self.arms) if arm != self.arms - 2], ROWS)
        for levels, _ in self.config.get("embeddings", ()):
            data["x"] = np.column_stack([data["x"], generator.integers(-1, levels, ROWS).astype(float)])
        index, mask = order(ROWS, batch_size=BATCH, steps=self.steps, shuffle=True, seed=self.seed)
        batches: list[dict[str, np.ndarray]] = []
        for step, (rows, counts) in enumerate(zip(index, mask, strict=True)):
            batch = {name: array[rows] for name, array in data.items()}
            for name, array in batch.items():
                if name.startswith("y"):
                    array[np.logical_not(counts)] = np.nan
            if step == 1 and "t" in batch:
                batch["t"] = np.zeros_like(batch["t"])
            batches.append({**batch, "mask": counts})
        return batches


def reference(recipe: Recipe) -> Any:
    """Returns the trace of the reference; needs torch only."""
    package = import_backend("torch")
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        # Digits beyond float32's show a conversion that loses them.
        with importlib.import_module("torch_ref.recording.dtype").default_dtype(getattr(torch, recipe.dtype)):
            model = recipe.build(package)
    with torch.no_grad():
        first = next(p for name, p in model.named_parameters() if name.endswith("bias"))
        first[:3] = 0  # with rows of zeros: exactly at the kink
        for name, parameter in model.named_parameters():
            if name.startswith("embedding."):  # tables of zeros would hide which row is taken
                parameter.copy_(torch.linspace(-1, 1, parameter.numel()).reshape(parameter.shape))
    return package.record(model, recipe.batches(), recipe=recipe.as_json(), progress=False, **recipe.make(package))


def check(
    recipe: Recipe,
    trace: Any,
    package: ModuleType | None = None,
    converts: bool = True,
    order: Callable[..., Any] = batch_order,
) -> Any:
    """Returns the report of the port against a trace; needs JAX only.

    Args:
        recipe: of the pair.
        trace: of the reference.
        package: a copy of the port to check in its place, which also builds the optimiser.
        converts: takes the first parameters from the package's own conversion, not from the weight map.
        order: draws the port's batches, see `Recipe.batches`.
    """
    port = import_backend("flax")
    import jax

    with (
        jax.enable_x64(recipe.dtype == "float64"),
        jax.default_matmul_precision("highest"),
        jax.numpy_dtype_promotion("standard"),  # as users have it, whatever the caller set
    ):
        model, settings = recipe.build(package or port), recipe.make(package or port)
        if package is not None:
            settings["optimizer"] = package.training.build_optimizer(settings["optimizer"])
        params = (package or port).models.from_numpy(model, trace.params(0)) if converts else None
        batches = recipe.batches(order)
        report = port.check_parity(trace, model, params=params, batches=batches, progress=False, **settings)
    return replace(report, model=recipe.title, optimizer=recipe.optimizer)


def arms_config(arms: int, embedding: bool) -> dict[str, Any]:
    """Returns the arguments of a two-head model with as many arms, and perhaps an embedding of seven levels."""
    more: dict[str, Any] = {"in_features": 7, "embeddings": [[7, 3]]} if embedding else {}
    return ({"arms": arms} if arms > 2 else {}) | more
