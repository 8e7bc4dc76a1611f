"""Pairs that are not ours, written the way people write them: found to agree, and a fault in each found and named."""

from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import pairwise
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
import torch.nn.functional as F
from flax import nnx

import flax_impl
import torch_ref
from flax_impl.parity import Report, assert_parity, check_step
from torch_ref.recording import Trace

Batches = list[dict[str, np.ndarray]]
DTYPES = ["float64", pytest.param("float32", marks=pytest.mark.slow)]


@pytest.fixture(autouse=True)
def usual_promotion() -> Iterator[None]:
    """JAX as other people have it: not strict. Not even optax's Adam runs otherwise."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def recorded(model: torch.nn.Module, batches: Batches, loss: Any, optimizer: Any, dtype: str) -> Trace:
    return torch_ref.record(model.to(getattr(torch, dtype)), batches, loss, optimizer=optimizer, progress=False)


def checked(reference: Trace, model: Any, loss: Any, optimizer: Any, **more: Any) -> Report:
    with jax.enable_x64(reference.dtype == "float64"):
        return flax_impl.check_parity(reference, model, loss, optimizer=optimizer, progress=False, **more)


def first_cause(report: Report) -> str:
    assert report.first_divergence is not None
    assert report.diagnosis, report.first_divergence
    assert report.diagnosis[0].certain
    return report.diagnosis[0].text


# A convolution net with batch norm in training mode: blocks in torch.nn.Sequential against Linen's automatic names.


class TorchConvNet(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = torch.nn.Sequential(
            torch.nn.Conv2d(2, 4, 3, padding=1, bias=False),
            torch.nn.BatchNorm2d(4),
            torch.nn.ReLU(inplace=True),
            torch.nn.MaxPool2d(2),
            torch.nn.Conv2d(4, 4, 3, padding=1),
            torch.nn.BatchNorm2d(4),
            torch.nn.ReLU(inplace=True),
        )
        self.classifier = torch.nn.Linear(4 * 3 * 3, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(image).flatten(1))


class ConvBlock(nn.Module):
    features: int
    use_bias: bool
    epsilon: float = 1e-5
    momentum: float = 0.9

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(self.features, (3, 3), use_bias=self.use_bias)(x)
        return nn.relu(nn.BatchNorm(use_running_average=False, momentum=self.momentum, epsilon=self.epsilon)(x))


class LinenConvNet(nn.Module):
    epsilon: float = 1e-5
    turned: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = ConvBlock(4, use_bias=False, epsilon=self.epsilon)(x)
        x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = ConvBlock(4, use_bias=True, epsilon=self.epsilon)(x)
        if self.turned:
            x = x.transpose(0, 3, 1, 2)
        return nn.Dense(5)(x.reshape(len(x), -1))


class UnbiasedBatchNorm(nn.Module):
    """What a porter writes who wants torch's running variance: unbiased."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        features = x.shape[-1]
        mean = self.variable("batch_stats", "mean", jnp.zeros, features)
        var = self.variable("batch_stats", "var", jnp.ones, features)
        scale = self.param("scale", nn.initializers.ones, features)
        bias = self.param("bias", nn.initializers.zeros, features)
        of_batch = x.mean((0, 1, 2)), x.var((0, 1, 2))
        count = x.size // features
        if not self.is_initializing():
            mean.value = 0.9 * mean.value + 0.1 * of_batch[0]
            var.value = 0.9 * var.value + 0.1 * of_batch[1] * count / (count - 1)
        one = (1, 1, 1, features)
        normal = (x - of_batch[0].reshape(one)) * jax.lax.rsqrt(of_batch[1].reshape(one) + 1e-5)
        return normal * scale.reshape(one) + bias.reshape(one)


class LinenConvNetOfTorch(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(UnbiasedBatchNorm(name="bn1")(nn.Conv(4, (3, 3), use_bias=False, name="conv1")(x)))
        x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = nn.relu(UnbiasedBatchNorm(name="bn2")(nn.Conv(4, (3, 3), name="conv2")(x)))
        return nn.Dense(5, name="fc")(x.transpose(0, 3, 1, 2).reshape(len(x), -1))


def torch_cross_entropy(model: Any, image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(image), label.long())


def jax_cross_entropy(model: Any, image: jax.Array, label: jax.Array) -> jax.Array:
    logits = model(image.transpose(0, 2, 3, 1))
    return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()


def images(steps: int = 2, rows: int = 8) -> Batches:
    generator = np.random.default_rng(0)
    return [
        {"image": generator.normal(size=(rows, 2, 6, 6)), "label": generator.integers(0, 5, rows).astype(np.int32)}
        for _ in range(steps)
    ]


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


@lru_cache
def convolution_net(dtype: str) -> Trace:
    torch.manual_seed(0)
    return recorded(TorchConvNet(), images(), torch_cross_entropy, sgd, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_convolution_net_with_batch_norm(dtype: str) -> None:
    report = checked(convolution_net(dtype), LinenConvNetOfTorch(), jax_cross_entropy, optax.sgd(0.05, momentum=0.9))
    assert report.passed, str(report.first_divergence)
    compared = {(entry.phase, entry.name) for entry in report.entries}
    assert {
        ("activation", "features.1"),
        ("module_input", "features.4"),
        ("cotangent", "features.0"),
        ("grad", "features.0.weight"),
        ("grad", "image"),
        ("state", "classifier.weight.momentum_buffer"),
        ("buffer", "features.5.running_var"),
    } <= compared


@pytest.mark.parametrize(
    ("model", "where", "cause"),
    [
        (LinenConvNet(), ("buffer", "features.1.running_var"), "unbiased"),
        pytest.param(LinenConvNet(epsilon=1e-3), ("activation", "features.1"), "epsilon=1e-5", marks=pytest.mark.slow),
        pytest.param(
            LinenConvNet(turned=False),
            ("module_input", "features.5"),
            "x.transpose(0, 3, 1, 2)",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_fault_in_the_convolution_net(model: nn.Module, where: tuple[str, str], cause: str) -> None:
    """Linen's own batch norm is one: its running variance is biased."""
    report = checked(convolution_net("float64"), model, jax_cross_entropy, optax.sgd(0.05, momentum=0.9))
    first = report.first_divergence
    assert first is not None
    assert (first.phase, first.name) == where
    assert cause in first_cause(report)


# A transformer encoder block with embedding, layer norm and GELU; fused attention projections against split ones.


class TorchEncoder(torch.nn.Module):
    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        self.tok_emb = torch.nn.Embedding(11, 8)
        self.pos_emb = torch.nn.Embedding(6, 8)
        self.layers = torch.nn.ModuleList(
            torch.nn.TransformerEncoderLayer(
                8, 2, 16, dropout=0.0, activation=F.gelu, batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )
        self.ln_f = torch.nn.LayerNorm(8)
        self.lm_head = torch.nn.Linear(8, 11)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.tok_emb(tokens) + self.pos_emb(torch.arange(tokens.shape[1]))
        for layer in self.layers:
            x = layer(x)
        return self.lm_head(self.ln_f(x))


class LinenBlock(nn.Module):
    epsilon: float = 1e-5
    activation: Callable[[jax.Array], jax.Array] = staticmethod(lambda x: nn.gelu(x, approximate=False))

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.LayerNorm(epsilon=self.epsilon, use_fast_variance=False)(x)
        x = x + nn.MultiHeadDotProductAttention(2)(y)
        y = nn.LayerNorm(epsilon=self.epsilon, use_fast_variance=False)(x)
        return x + nn.Dense(8)(self.activation(nn.Dense(16)(y)))


class LinenEncoder(nn.Module):
    layers: int = 2
    epsilon: float = 1e-5
    activation: Callable[[jax.Array], jax.Array] = staticmethod(lambda x: nn.gelu(x, approximate=False))

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = nn.Embed(11, 8, name="token_embedding")(tokens)
        x = x + nn.Embed(6, 8, name="position_embedding")(jnp.arange(tokens.shape[1]))[None]
        for _ in range(self.layers):
            x = LinenBlock(self.epsilon, self.activation)(x)
        x = nn.LayerNorm(epsilon=self.epsilon, use_fast_variance=False, name="final_norm")(x)
        return nn.Dense(11, name="head")(x)


def torch_next_token(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten().long())


def jax_next_token(model: Any, tokens: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(model(tokens)[:, :-1], tokens[:, 1:]).mean()


def sentences() -> Batches:
    generator = np.random.default_rng(1)
    return [{"tokens": generator.integers(0, 11, (4, 6)).astype(np.int32)} for _ in range(2)]


def adamw(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-3)


@lru_cache
def transformer(layers: int, dtype: str) -> Trace:
    torch.manual_seed(0)
    return recorded(TorchEncoder(layers), sentences(), torch_next_token, adamw, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_transformer_encoder(dtype: str) -> None:
    report = checked(transformer(2, dtype), LinenEncoder(), jax_next_token, optax.adamw(1e-3, weight_decay=1e-2))
    assert report.passed, str(report.first_divergence)
    compared = {(entry.phase, entry.name) for entry in report.entries}
    assert {
        ("activation", "layers.0.self_attn"),
        ("activation", "layers.1.linear2"),
        ("grad", "layers.1.self_attn.in_proj_weight"),
        ("cotangent", "tok_emb"),
        ("update", "pos_emb.weight"),
    } <= compared


@pytest.mark.parametrize(
    ("model", "optimizer", "where", "cause"),
    [
        pytest.param(
            LinenEncoder(1, activation=nn.gelu),
            optax.adamw(1e-3, weight_decay=1e-2),
            ("module_input", "layers.0.linear1"),
            "use jax.nn.gelu(approximate=False)",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            LinenEncoder(1, epsilon=1e-6),
            optax.adamw(1e-3, weight_decay=1e-2),
            ("activation", "layers.0.norm1"),
            "epsilon=1e-5",
            marks=pytest.mark.slow,
        ),
        (LinenEncoder(1), optax.adamw(1e-3), ("update", "tok_emb.weight"), "0.0001"),
    ],
)
def test_a_fault_in_the_transformer(model: nn.Module, optimizer: Any, where: tuple[str, str], cause: str) -> None:
    report = checked(transformer(1, "float64"), model, jax_next_token, optimizer)
    first = report.first_divergence
    assert first is not None
    assert (first.phase, first.name) == where
    assert cause in first_cause(report)


# An MLP in NNX, its layers in a list, against torch.nn.Sequential.


class TorchMLP(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(
            torch.nn.Linear(5, 8), torch.nn.ELU(), torch.nn.Linear(8, 8), torch.nn.ELU(), torch.nn.Linear(8, 1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


class NNXMLP(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, alpha: float = 1.0) -> None:
        self.alpha = alpha
        widths = (5, 8, 8, 1)
        self.layers = nnx.List([nnx.Linear(a, b, rngs=rngs) for a, b in pairwise(widths)])

    def __call__(self, x: jax.Array) -> jax.Array:
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i < len(self.layers) - 1:
                x = nnx.elu(x, self.alpha)
        return x


def torch_squares(model: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.mse_loss(model(x), y)


def jax_squares(model: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    return optax.squared_error(model(x), y).mean()


def jax_half_squares(model: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    return optax.l2_loss(model(x), y).mean()


def rows() -> Batches:
    generator = np.random.default_rng(2)
    return [{"x": generator.normal(size=(9, 5)), "y": generator.normal(size=(9, 1))} for _ in range(3)]


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1e-2)


@lru_cache
def mlp(dtype: str) -> Trace:
    torch.manual_seed(0)
    return recorded(TorchMLP(), rows(), torch_squares, adam, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_mlp_in_nnx(dtype: str) -> None:
    model = NNXMLP(nnx.Rngs(0))
    before = jax.tree.map(np.asarray, nnx.state(model))
    report = checked(mlp(dtype), model, jax_squares, optax.adam(1e-2))
    assert report.passed, str(report.first_divergence)
    compared = {(entry.phase, entry.name) for entry in report.entries}
    assert {("activation", "net.2"), ("cotangent", "net.0"), ("grad", "x"), ("state", "net.4.bias.exp_avg")} <= compared
    after = jax.tree.map(np.asarray, nnx.state(model))
    assert jax.tree.all(jax.tree.map(np.array_equal, before, after))  # the user's model is left as it is


@pytest.mark.parametrize(
    ("alpha", "loss", "optimizer", "where", "cause"),
    [
        (0.5, jax_squares, optax.adam(1e-2), ("module_input", "net.0"), "alpha=0.5"),
        (1.0, jax_half_squares, optax.adam(1e-2), ("loss", "0"), "half the reference's"),
        (1.0, jax_squares, optax.adam(1e-2, eps_root=1e-8), ("update", "net.0.weight"), "root"),
    ],
)
def test_a_fault_in_the_mlp(alpha: float, loss: Any, optimizer: Any, where: tuple[str, str], cause: str) -> None:
    with jax.enable_x64(True):
        report = checked(mlp("float64"), NNXMLP(nnx.Rngs(0), alpha), loss, optimizer)
    first = report.first_divergence
    assert first is not None
    assert (first.phase, first.name) == where
    assert cause in first_cause(report)


def test_assert_parity_says_where_a_port_diverges() -> None:
    reference = mlp("float64")
    with jax.enable_x64(True):
        ported = flax_impl.parity.replay(
            reference, NNXMLP(nnx.Rngs(0)), jax_half_squares, optimizer=optax.adam(1e-2), progress=False
        )
    with pytest.raises(AssertionError, match=r"first divergence at step 0, loss, `0`"):
        assert_parity(ported, reference)


# What other people's models taught.


class TorchTwoOutputs(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Linear(5, 6), torch.nn.Tanh())
        self.mean, self.scale = torch.nn.Linear(6, 1), torch.nn.Linear(6, 1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        code = self.body(x)
        return {"mean": self.mean(code), "scale": self.scale(code)}


class LinenTwoOutputs(nn.Module):
    lifted: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> dict[str, jax.Array]:
        dense = nn.remat(nn.Dense) if self.lifted else nn.Dense
        code = nn.Sequential([dense(6), jnp.tanh], name="body")(x)
        return {"mean": nn.Dense(1, name="mean")(code), "scale": nn.Dense(1, name="scale")(code)}


def parts(model: Any, x: Any, y: Any) -> Any:
    outputs = model(x)
    return ((outputs["mean"] - y) ** 2).mean(), (outputs["scale"] ** 2).mean()


def whole(model: Any, x: Any, y: Any) -> Any:
    return sum(parts(model, x, y))


def rmsprop(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.RMSprop(parameters, lr=1e-2, momentum=0.5)


@pytest.mark.parametrize("lifted", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_dictionaries_parts_lists_and_lifted_modules(dtype: str, lifted: bool) -> None:
    """And a momentum that holds the rate, as optax.rmsprop's does."""
    torch.manual_seed(0)
    reference = recorded(TorchTwoOutputs(), rows(), parts, rmsprop, dtype)
    optimizer = optax.rmsprop(1e-2, decay=0.99, momentum=0.5, eps_in_sqrt=False)
    report = checked(reference, LinenTwoOutputs(lifted), whole, optimizer)
    assert report.passed, str(report.first_divergence)
    assert {entry.name for entry in report.entries if entry.phase == "output"} == {"0", "1"}


class TorchSequenceFirst(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.att, self.ln = torch.nn.MultiheadAttention(4, 2), torch.nn.LayerNorm(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.ln(x + self.att(x, x, x)[0])


class LinenBatchFirst(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.transpose(1, 0, 2)
        x = x + nn.MultiHeadDotProductAttention(2)(x)
        return nn.LayerNorm(epsilon=1e-5)(x).transpose(1, 0, 2)


def cubes(model: Any, x: Any, shift: Any) -> Any:
    return (model(x + shift) ** 3).mean()


@pytest.mark.parametrize("dtype", DTYPES)
def test_axes_in_another_order(dtype: str) -> None:
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    batches = [{"x": generator.normal(size=(5, 3, 4)), "shift": generator.normal(size=(5, 1, 4))} for _ in range(2)]
    reference = recorded(TorchSequenceFirst(), batches, cubes, adam, dtype)
    report = checked(reference, LinenBatchFirst(), cubes, optax.adam(1e-2))
    assert report.passed, str(report.first_divergence)


class TorchSignal(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = torch.nn.Conv1d(2, 4, 3, padding=1), torch.nn.BatchNorm1d(4)
        self.groups, self.fc = torch.nn.GroupNorm(2, 4), torch.nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.groups(self.norm(self.conv(x))).mean(2))


class NNXSignal(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, groups: int = 2, momentum: float = 0.9) -> None:
        self.conv = nnx.Conv(2, 4, (3,), padding=1, rngs=rngs)
        self.norm = nnx.BatchNorm(4, momentum=momentum, epsilon=1e-5, rngs=rngs)
        self.groups = nnx.GroupNorm(4, num_groups=groups, epsilon=1e-5, rngs=rngs)
        self.fc = nnx.Linear(4, 1, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc(self.groups(self.norm(self.conv(x.transpose(0, 2, 1)))).mean(1))


@pytest.mark.parametrize(
    ("changes", "where", "cause"),
    [
        ({}, ("buffer", "norm.running_var"), "unbiased"),
        pytest.param(
            {"groups": 4},
            ("activation", "groups"),
            "has 4 groups in the port where the reference has 2",
            marks=pytest.mark.slow,
        ),
        pytest.param({"momentum": 0.99}, ("buffer", "norm.running_mean"), "pass momentum=0.9", marks=pytest.mark.slow),
    ],
)
def test_norms_in_nnx(changes: dict[str, Any], where: tuple[str, str], cause: str) -> None:
    """In training a batch norm's variance is biased, which is all that differs; in evaluation nothing does."""
    generator = np.random.default_rng(0)
    batches = [{"x": generator.normal(size=(7, 2, 10)), "y": generator.normal(size=(7, 1))} for _ in range(2)]
    for evaluated in (False, True):
        torch.manual_seed(0)
        model = NNXSignal(nnx.Rngs(0), **changes)
        signal = TorchSignal()
        if evaluated:
            signal.eval()
            model.eval()
        report = checked(
            recorded(signal, batches, torch_squares, adam, "float64"), model, jax_squares, optax.adam(1e-2)
        )
        first = report.first_divergence
        if evaluated and "groups" not in changes:
            assert first is None
        else:
            assert first is not None
            assert (first.phase, first.name) == where
            assert cause in first_cause(report)


class StoppedSignal(NNXSignal):
    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc(jax.lax.stop_gradient(self.groups(self.norm(self.conv(x.transpose(0, 2, 1))))).mean(1))


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        (NNXSignal, {"groups": 4}, ["has 4 groups", "biased"]),
        (NNXSignal, {"momentum": 0.99}, ["keep 0.99 in the port, 0.9 in the reference"]),
        (StoppedSignal, {"momentum": 0.99}, ["keep 0.99", "no gradient passes"]),
    ],
)
def test_what_a_step_leaves_behind_hides_nothing(kind: Any, changes: dict[str, Any], words: list[str]) -> None:
    """Statistics are compared after the outputs, and the gradients after them, where no value can be put in, too."""
    generator = np.random.default_rng(0)
    batch = {"x": generator.normal(size=(7, 2, 10)), "y": generator.normal(size=(7, 1))}
    batch = {name: array.astype(np.float32) for name, array in batch.items()}
    torch.manual_seed(0)
    tape = torch_ref.recording.record_tape(TorchSignal(), batch, torch_squares, progress=False)
    report = check_step(tape, kind(nnx.Rngs(0), **changes), batch, jax_squares, progress=False)
    assert len(report.places) == len(words)
    for causes, text in zip(report.causes, words, strict=True):
        assert text in causes[0].text


# What people hand in that is no fault of their port's arithmetic.


def squares(model: Any, x: Any, y: Any) -> Any:
    return ((model(x) - y) ** 2).mean()


def rows_of(count: int = 2) -> Batches:
    generator = np.random.default_rng(0)
    return [{"x": generator.normal(size=(6, 4)), "y": generator.normal(size=(6, 2))} for _ in range(count)]


def test_batches_without_names_are_refused() -> None:
    pairs: Any = [tuple(batch.values()) for batch in rows_of()]
    message = "batches: expected a mapping for each step, such as .*, by the names that the loss gives them, got tuple"
    with pytest.raises(ValueError, match=message):
        torch_ref.record(torch.nn.Linear(4, 2), pairs, squares)
    with pytest.raises(ValueError, match=message):
        flax_impl.record(nn.Dense(2), {}, pairs, squares)


def test_dropout_that_draws_is_refused_on_the_ports_side_too() -> None:
    class Drawing(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            return nn.Dropout(0.5, deterministic=False)(nn.Dense(2, name="layer")(x))

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x)

    reference = recorded(Net(), rows_of(), squares, lambda p: torch.optim.SGD(p, lr=0.1), "float64")
    with pytest.raises(ValueError, match="model: expected no dropout that draws"):
        checked(reference, Drawing(), squares, optax.sgd(0.1))


def test_a_layer_that_keeps_float32_is_no_difference() -> None:
    """An NNX embedding computes in the dtype it was built with: the report says where."""

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.e, self.out = torch.nn.Embedding(5, 4), torch.nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(self.e(x))

    class Port(nnx.Module):
        def __init__(self, **settings: Any) -> None:
            self.e = nnx.Embed(5, 4, rngs=nnx.Rngs(0), **settings)
            self.out = nnx.Linear(4, 2, rngs=nnx.Rngs(0))

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.out(self.e(x))

    batches = [{"x": np.arange(5), "y": batch["y"][:5]} for batch in rows_of()]
    torch.manual_seed(0)
    reference = recorded(Net(), batches, squares, lambda p: torch.optim.SGD(p, lr=0.1), "float64")
    with jax.enable_x64(True):
        report, mended = (
            checked(reference, Port(**settings), squares, optax.sgd(0.1)) for settings in ({}, {"param_dtype": float})
        )
    assert report.passed
    assert "return self.out(self.e(x))" in report.in_float32[0]
    assert mended.passed
    assert not mended.in_float32


def test_a_recurrent_layer_is_said_to_be_unknown() -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.out = torch.nn.LSTM(4, 3, batch_first=True), torch.nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(self.rnn(x)[0][:, -1])

    class Port(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            cell = nn.OptimizedLSTMCell(3, param_dtype=float)
            states = jnp.asarray(nn.RNN(cell, name="rnn")(x))
            return nn.Dense(2, name="out")(states[:, -1])

    batches = [{"x": batch["x"].reshape(3, 2, 4), "y": batch["y"][:3]} for batch in rows_of()]
    reference = recorded(Net(), batches, squares, lambda p: torch.optim.SGD(p, lr=0.1), "float64")
    report = checked(reference, Port(), squares, optax.sgd(0.1))
    assert not report.passed
    assert "the map of the weights knows no LSTM" in report.diagnosis[0].text
    assert not report.diagnosis[0].certain
