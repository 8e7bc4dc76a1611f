"""The same training of the two-head model, as people run it in either framework: what the speed table compares.

A contestant is made once, with its compilation, and then called again and again; a call takes the task's steps and
returns how many seconds each of them took.
"""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from flax_impl.commands.backends import import_backend
from torch_ref.common.data.encoding import Encoding

Contestant = Callable[[], float]


@dataclass(frozen=True)
class Task:
    """What all of them train: made-up data, Adam, squared error, float32.

    Args:
        rows: of the data.
        features: of each row.
        width: of the three layers of the representation; the two hidden layers of a head have half of it.
        batch_size: rows in a step.
        steps: of a call.
        replicas: trainings at once, where there are several.
    """

    rows: int = 1000
    features: int = 25
    width: int = 200
    batch_size: int = 100
    steps: int = 1000
    replicas: int = 8

    @property
    def config(self) -> dict[str, Any]:
        """The model's arguments."""
        return {
            "in_features": self.features,
            "representation_features": [self.width] * 3,
            "head_features": [self.width // 2] * 2,
            "final_activation": "identity",
        }

    @cached_property
    def data(self) -> dict[str, np.ndarray]:
        """The table."""
        made = import_backend("flax").data.synthetic(rows=self.rows, features=self.features).arrays()
        return {name: array.astype(np.int32 if name == "t" else np.float32) for name, array in made.items()}

    @property
    def layers(self) -> list[list[tuple[int, int]]]:
        """Inputs and outputs of each linear layer: of the representation, and of each head."""
        wide, half = self.width, self.width // 2
        head = [(wide, half), (half, half), (half, 1)]
        return [[(self.features, wide), (wide, wide), (wide, wide)], head, head]

    @property
    def parameters(self) -> int:
        """How many numbers the model has."""
        return sum((inputs + 1) * outputs for part in self.layers for inputs, outputs in part)

    @property
    def flops(self) -> int:
        """Floating-point operations in the products of a step: forward, by the weights, and by the layer's input."""
        every = sum(inputs * outputs for part in self.layers for inputs, outputs in part)
        return 2 * self.batch_size * (3 * every - self.features * self.width)  # the data has no gradient

    @property
    def adam_bytes(self) -> int:
        """Bytes that Adam moves in a step: it reads parameters, gradients, two moments; it writes all but gradients."""
        return 7 * 4 * self.parameters


def torch_contestants(task: Task) -> dict[str, Contestant]:
    """Returns the training in torch: split on the treatment as the article has it, and what torch offers beyond."""
    import torch
    import torch.nn.functional as F

    package = import_backend("torch")
    x, t, y = (torch.tensor(task.data[name]) for name in ("x", "t", "y"))
    orders = torch.stack([torch.randperm(task.rows)[: task.batch_size] for _ in range(task.steps)])

    def split(model: Any, x: Any, t: Any, y: Any) -> Any:
        y0, _ = model(x[t == 0])
        _, y1 = model(x[t == 1])
        return F.mse_loss(y0, y[t == 0]) + F.mse_loss(y1, y[t == 1])

    def where(model: Any, x: Any, t: Any, y: Any) -> Any:
        y0, y1 = model(x)
        treated = (t == 1)[:, None]
        errors = (torch.where(treated, y1, y0) - y) ** 2
        count = treated.sum()
        return (errors * treated).sum() / count + (errors * ~treated).sum() / (len(x) - count)

    def contestant(loss: Callable[..., Any], fused: bool, compiled: bool) -> Contestant:
        model = package.TwoHead(**task.config)
        optimizer = torch.optim.Adam(model.parameters(), fused=fused)
        evaluate = torch.compile(loss) if compiled else loss

        def run() -> float:
            began = time.perf_counter()
            for rows in orders:
                optimizer.zero_grad()
                evaluate(model, x[rows], t[rows], y[rows]).backward()
                optimizer.step()
            return (time.perf_counter() - began) / task.steps

        return run

    made = {
        "torch_split": contestant(split, fused=False, compiled=False),
        "torch_where": contestant(where, fused=False, compiled=False),
        "torch_fused": contestant(where, fused=True, compiled=False),
    }
    if shutil.which("g++") or shutil.which("clang++"):  # what torch.compile writes is C++
        made["torch_compile"] = contestant(where, fused=True, compiled=True)
    return made


def flax_contestants(task: Task) -> dict[str, Contestant]:
    """Returns the training in JAX: a jitted step in a Python loop, `fit` in each precision, and replicas."""
    import jax
    import jax.numpy as jnp

    package = import_backend("flax")
    model = package.TwoHead(**task.config)
    params, optimizer = model.init_params(0), package.Adam()
    table = {name: jnp.asarray(array) for name, array in task.data.items()}
    order = np.random.default_rng(0).integers(0, task.rows, (task.steps, task.batch_size))

    @jax.jit
    def step(params: Any, state: Any, table: Any, rows: Any) -> Any:
        batch = {name: array[rows] for name, array in table.items()}
        return package.train_step(model, params, optimizer, state, batch)

    def step_loop() -> float:
        found = (params, package.training.build_optimizer(optimizer).init(params))
        began = time.perf_counter()
        for rows in order:
            *found, _ = step(*found, table, rows)
        jax.block_until_ready(found)
        return (time.perf_counter() - began) / task.steps

    settings = {"steps": task.steps, "batch_size": task.batch_size, "progress": False}

    def fit(model: Any = model, params: Any = params, data: Any = task.data, **changed: Any) -> float:
        began = time.perf_counter()
        jax.block_until_ready(package.fit(model, params, data, **settings | changed))
        return (time.perf_counter() - began) / task.steps

    # What effects are estimated with by default: pieces and a gate for each feature, and averaged parameters.
    defaults = package.effects.EffectSettings()
    encoding = Encoding.of(task.data["x"], defaults.bins)
    pieces = task.data | {"x": encoding.encode(task.data["x"])}
    shape = {"in_features": pieces["x"].shape[1], "input_groups": encoding.widths.tolist()}
    gated = package.TwoHead(**task.config | shape)

    many = model.init_params(range(task.replicas))

    def replicas() -> float:
        began = time.perf_counter()
        jax.block_until_ready(package.fit_replicas(model, many, task.data, seed=range(task.replicas), **settings))
        return (time.perf_counter() - began) / task.steps / task.replicas

    return {
        "flax_step_loop": step_loop,
        "flax_fit": fit,
        "flax_pieces": partial(fit, gated, gated.init_params(0), pieces, optimizer=defaults.optimizer),
        "flax_fit_progress": partial(fit, progress=True),
        "flax_tf32": partial(fit, precision="tf32"),
        "flax_bfloat16": partial(fit, precision="bfloat16"),
        "flax_replicas": replicas,
        "floor": floor(task),
    }


def floor(task: Task) -> Contestant:
    """Returns the matrix products of a step alone, step after step.

    What is left out is everything else: biases, activations, the loss, the optimiser, and fetching rows.
    """
    import jax
    import jax.numpy as jnp

    step, x, weights = products(task)

    @jax.jit
    def loop(x: Any, weights: Any) -> Any:
        def body(_: Any, carry: Any) -> Any:
            x, _ = carry
            found = step(x, weights)
            # Each step waits for the one before, or the compiler would take the products out of the loop.
            return x + 1e-30 * sum(gradient[0, 0] for gradient in found), found

        shapes = jax.eval_shape(step, x, weights)
        return jax.lax.fori_loop(0, task.steps, body, (x, [jnp.zeros(shape.shape, shape.dtype) for shape in shapes]))

    def run() -> float:
        began = time.perf_counter()
        jax.block_until_ready(loop(x, weights))
        return (time.perf_counter() - began) / task.steps

    return run


def products(task: Task) -> tuple[Callable[..., Any], Any, Any]:
    """Returns the products of a step, and what they are of: a linear net of the same shapes, both heads on all rows."""
    import jax.numpy as jnp

    generator = np.random.default_rng(0)
    weights = [
        [jnp.asarray(generator.normal(size=shape) / np.sqrt(shape[0]), np.float32) for shape in part]
        for part in task.layers
    ]
    x = jnp.asarray(generator.normal(size=(task.batch_size, task.features)), np.float32)

    def forward(part: Any, x: Any) -> list[Any]:
        inputs = [x]
        for weight in part:
            inputs.append(inputs[-1] @ weight)
        return inputs

    def backward(part: Any, inputs: Any, cotangent: Any, first: bool = False) -> tuple[list[Any], Any]:
        found = []
        for i in reversed(range(len(part))):
            found.append(inputs[i].T @ cotangent)
            if i or not first:
                cotangent = cotangent @ part[i].T
        return found, cotangent

    def step(x: Any, weights: Any) -> list[Any]:
        shared, *heads = weights
        codes = forward(shared, x)
        outputs = [forward(head, codes[-1]) for head in heads]
        ways = [backward(head, of_head, of_head[-1]) for head, of_head in zip(heads, outputs, strict=True)]
        of_shared, _ = backward(shared, codes, ways[0][1] + ways[1][1], first=True)
        return [*ways[0][0], *ways[1][0], *of_shared]

    return step, x, weights


def limits() -> dict[str, Contestant]:
    """Returns what the device does at best, in seconds per operation and per byte: large products, large copies."""
    import jax
    import jax.numpy as jnp

    size = 8192 if jax.default_backend() == "gpu" else 2048
    square, long = jnp.ones((size, size), np.float32), jnp.ones(size * size, np.float32)

    def timed(compute: Callable[..., Any], argument: Any, work: float) -> Contestant:
        compiled = jax.jit(compute)

        def run() -> float:
            began = time.perf_counter()
            jax.block_until_ready(compiled(argument))
            return (time.perf_counter() - began) / work

        return run

    return {
        "matrix_rate": timed(lambda array: jnp.matmul(array, array, precision="highest"), square, 2 * size**3),
        "memory_rate": timed(lambda array: array + 1, long, 2 * 4 * size * size),
    }
