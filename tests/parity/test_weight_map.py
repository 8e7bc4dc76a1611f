"""The map between a PyTorch model's entries and a Flax port's leaves: found by itself, exact, and never guessed."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import flax.linen as lnn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict
from hypothesis import given, settings, strategies as st
from torch import nn

import flax_impl
import torch_ref
from flax_impl.parity.weight_map.map import LeafPath, WeightMap, WeightMapError, propose_map

Shapes = dict[str, tuple[int, ...]]
FlaxShapes = dict[LeafPath, tuple[int, ...]]


def of_torch(model: nn.Module) -> tuple[Shapes, dict[str, str]]:
    entries = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    kinds = {name: type(module).__name__ for name, module in model.named_modules()}
    return {name: tuple(entry.shape) for name, entry in entries.items()}, kinds


def flat(tree: Any) -> dict[LeafPath, Any]:
    return flatten_dict(tree)


def of_linen(model: lnn.Module, *inputs: Any) -> FlaxShapes:
    variables = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    return {path: leaf.shape for path, leaf in flat(variables).items()}


def of_nnx(make: Callable[[], nnx.Module]) -> FlaxShapes:
    state = nnx.state(nnx.eval_shape(make), nnx.Any(nnx.Param, nnx.BatchStat))
    return {(type(leaf).__name__, *map(str, path)): leaf.shape for path, leaf in nnx.to_flat_state(state)}


def proposed(model: nn.Module, flax_shapes: FlaxShapes, with_kinds: bool = True, **options: Any) -> WeightMap:
    shapes, kinds = of_torch(model)
    return propose_map(shapes, flax_shapes, kinds=kinds if with_kinds else None, **options)


def pairs(found: WeightMap) -> dict[str, str]:
    """Returns each torch entry's leaf, dotted; the first of three."""
    return {link.torch: ".".join(link.paths[0][1:]) for link in found.links}


def leaves(*modules: str, shape: tuple[int, ...] = (4, 4)) -> FlaxShapes:
    return {("params", *module.split("."), "kernel"): shape for module in modules}


def weights(*modules: str, shape: tuple[int, ...] = (4, 4)) -> Shapes:
    return {f"{module}.weight": shape for module in modules}


def random_arrays(shapes: Shapes, dtype: Any = np.float64) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


def assert_round_trip(found: WeightMap, shapes: Shapes, flax_shapes: FlaxShapes) -> None:
    arrays = {link.torch: random_arrays(shapes)[link.torch] for link in found.links}
    there = found.to_flax(arrays)
    assert {path: leaf.shape for path, leaf in there.items()} == flax_shapes
    back = found.to_torch(there)
    assert back.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array, strict=True)


# What users write.


class ConvNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()),
            *(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU()),
            *(nn.Conv2d(8, 8, 3, groups=2), nn.BatchNorm2d(8), nn.ReLU()),
        )
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 5))


class FlaxConvNet(lnn.Module):
    @lnn.compact
    def __call__(self, x: Any) -> Any:
        for groups in (1, 1, 2):
            x = lnn.Conv(8, (3, 3), padding="VALID", feature_group_count=groups)(x)
            x = lnn.relu(lnn.BatchNorm(use_running_average=True)(x))
        x = lnn.relu(lnn.Dense(16)(x.reshape(len(x), -1)))
        return lnn.Dense(5)(x)


@pytest.mark.parametrize("with_kinds", [True, False])
def test_conv_and_batch_norm(with_kinds: bool) -> None:
    model, flax_shapes = ConvNet(), of_linen(FlaxConvNet(), jnp.zeros((1, 8, 8, 3)))
    found = proposed(model, flax_shapes, with_kinds)
    assert found.modules == {
        **{f"Conv_{i}": f"features.{3 * i}" for i in range(3)},
        **{f"BatchNorm_{i}": f"features.{3 * i + 1}" for i in range(3)},
        **{f"Dense_{i}": f"classifier.{2 * i + 1}" for i in range(2)},
    }
    assert found.ignored == tuple(f"features.{i}.num_batches_tracked" for i in (1, 4, 7))
    assert pairs(found)["features.4.running_var"] == "BatchNorm_1.var"
    assert_round_trip(found, of_torch(model)[0], flax_shapes)


class Encoder(nn.Module):
    def __init__(self, width: int, hidden: int, depth: int) -> None:
        super().__init__()
        self.wte = nn.Embedding(width, width)
        self.pos_embed = nn.Parameter(torch.zeros(1, 7, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 2, hidden, batch_first=True) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 3)


class EncoderBlock(lnn.Module):
    hidden: int

    @lnn.compact
    def __call__(self, x: Any) -> Any:
        x = lnn.LayerNorm()(x + lnn.MultiHeadDotProductAttention(2)(x))
        # One after the other: Linen numbers nested calls from the outside in.
        y = lnn.relu(lnn.Dense(self.hidden)(x))
        y = lnn.Dense(x.shape[-1])(y)
        return lnn.LayerNorm()(x + y)


class FlaxEncoder(lnn.Module):
    width: int
    hidden: int
    depth: int

    @lnn.compact
    def __call__(self, tokens: Any) -> Any:
        position = self.param("position", lnn.initializers.zeros, (1, 7, self.width))
        x = lnn.Embed(self.width, self.width)(tokens) + position
        for _ in range(self.depth):
            x = EncoderBlock(self.hidden)(x)
        return lnn.Dense(3)(lnn.LayerNorm()(x))


@pytest.mark.parametrize("with_kinds", [True, False])
@pytest.mark.parametrize(("width", "hidden", "depth"), [(8, 16, 2), (8, 8, 1), (4, 4, 12)])
def test_transformer_encoder(width: int, hidden: int, depth: int, with_kinds: bool) -> None:
    model = Encoder(width, hidden, depth)
    flax_shapes = of_linen(FlaxEncoder(width, hidden, depth), jnp.zeros((1, 7), int))
    found = proposed(model, flax_shapes, with_kinds)
    expected = {"Embed_0": "wte", "LayerNorm_0": "norm", "Dense_0": "head"}
    for i in range(depth):
        block, layer = f"EncoderBlock_{i}", f"layers.{i}"
        expected |= {
            block: layer,
            f"{block}.LayerNorm_0": f"{layer}.norm1",
            f"{block}.LayerNorm_1": f"{layer}.norm2",
            f"{block}.Dense_0": f"{layer}.linear1",
            f"{block}.Dense_1": f"{layer}.linear2",
            f"{block}.MultiHeadDotProductAttention_0": f"{layer}.self_attn",
            f"{block}.MultiHeadDotProductAttention_0.out": f"{layer}.self_attn.out_proj",
        }
    assert found.modules == expected
    assert pairs(found)["pos_embed"] == "position"
    assert_round_trip(found, of_torch(model)[0], flax_shapes)


class Block(nn.Module):
    """Timm's names."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(8, 24), "proj": nn.Linear(8, 8)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(8, 24), "fc2": nn.Linear(24, 8)})


def block_leaves(qkv: FlaxShapes, block: str = "block") -> FlaxShapes:
    shapes: FlaxShapes = {
        ("mlp", "Dense_0", "kernel"): (8, 24),
        ("mlp", "Dense_0", "bias"): (24,),
        ("mlp", "Dense_1", "kernel"): (24, 8),
        ("mlp", "Dense_1", "bias"): (8,),
        ("attn", "out", "kernel"): (8, 8),
        ("attn", "out", "bias"): (8,),
    }
    shapes |= {(norm, leaf): (8,) for norm in ("LayerNorm_0", "LayerNorm_1") for leaf in ("scale", "bias")}
    return {("params", block, *path): shape for path, shape in (shapes | qkv).items()}


QKV: dict[str, FlaxShapes] = {
    "one Dense": {("attn", "qkv", "kernel"): (8, 24), ("attn", "qkv", "bias"): (24,)},
    "one DenseGeneral": {("attn", "qkv", "kernel"): (8, 3, 2, 4), ("attn", "qkv", "bias"): (3, 2, 4)},
    "three Dense": {
        key: shape
        for name in ("query", "key", "value")
        for key, shape in {("attn", name, "kernel"): (8, 8), ("attn", name, "bias"): (8,)}.items()
    },
    "three DenseGeneral": {
        key: shape
        for name in ("q_proj", "k_proj", "v_proj")
        for key, shape in {("attn", name, "kernel"): (8, 2, 4), ("attn", name, "bias"): (2, 4)}.items()
    },
}


@pytest.mark.parametrize("form", QKV)
def test_fused_qkv(form: str) -> None:
    model, flax_shapes = nn.ModuleDict({"blocks": nn.ModuleList([Block()])}), block_leaves(QKV[form])
    found = proposed(model, flax_shapes)
    attention = [link for link in found.links if ".qkv." in link.torch]
    assert [len(link.paths) for link in attention] == ([3, 3] if form.startswith("three") else [1, 1])
    assert found.modules["block.attn"] == "blocks.0.attn"
    assert found.modules.get("block.attn.qkv") == ("blocks.0.attn.qkv" if form.startswith("one") else None)
    assert found.modules["block.attn.out"] == "blocks.0.attn.proj"
    assert found.modules["block.LayerNorm_1"] == "blocks.0.norm2"
    assert_round_trip(found, of_torch(model)[0], flax_shapes)


def test_three_flax_modules_alone_in_a_container_are_the_fused_one() -> None:
    found = propose_map({"mix.qkv.weight": (12, 4)}, leaves("Attn_0.query", "Attn_0.key", "Attn_0.value"))
    assert found.modules == {"Attn_0": "mix.qkv"}


def test_a_rename_may_say_what_is_fused() -> None:
    flax_shapes = leaves("Attn_0.query", "Attn_0.key", "Attn_0.value")
    found = propose_map({"mix.weight": (12, 4)}, flax_shapes, renames={"mix": "Attn_0"})
    assert found.modules == {"Attn_0": "mix"}


def test_attention_with_other_widths_of_key_and_value() -> None:
    model = nn.ModuleDict({"attn": nn.MultiheadAttention(8, 2, kdim=6, vdim=4)})
    x = jnp.zeros((1, 5, 8))
    attention = lnn.MultiHeadDotProductAttention(2, qkv_features=8)
    variables = jax.eval_shape(attention.init, jax.random.key(0), x, jnp.zeros((1, 5, 6)), jnp.zeros((1, 5, 4)))
    flax_shapes = {("params", "attn", *path[1:]): leaf.shape for path, leaf in flat(variables).items()}
    found = proposed(model, flax_shapes)
    assert pairs(found)["attn.k_proj_weight"] == "attn.key.kernel"
    assert len({link.torch: link for link in found.links}["attn.in_proj_bias"].paths) == 3
    assert found.modules == {"attn": "attn", "attn.out": "attn.out_proj"}
    assert_round_trip(found, of_torch(model)[0], flax_shapes)


@pytest.mark.parametrize("leaf", [(8, 2, 4), (8, 8)])
def test_separate_projections(leaf: tuple[int, ...]) -> None:
    names = [f"layers.{i}.self_attn.{p}_proj" for i in range(2) for p in ("q", "k", "v", "out")]
    flax_shapes = {}
    for i in range(2):
        attention = f"Block_{i}.MultiHeadDotProductAttention_0"
        flax_shapes |= leaves(*(f"{attention}.{name}" for name in ("out", "key", "query", "value")), shape=leaf)
        flax_shapes |= leaves(f"{attention}.out", shape=(2, 4, 8) if len(leaf) == 3 else leaf)
    shapes = weights(*names, shape=(8, 8))
    found = propose_map(shapes, flax_shapes)
    assert pairs(found)["layers.1.self_attn.q_proj.weight"].endswith(
        "Block_1.MultiHeadDotProductAttention_0.query.kernel"
    )
    assert pairs(found)["layers.0.self_attn.v_proj.weight"].endswith(
        "Block_0.MultiHeadDotProductAttention_0.value.kernel"
    )
    assert found.modules["Block_1.MultiHeadDotProductAttention_0"] == "layers.1.self_attn"
    assert_round_trip(found, shapes, flax_shapes)


class NnxMLP(nnx.Module):
    def __init__(self, widths: list[int], rngs: nnx.Rngs) -> None:
        self.layers = nnx.List(nnx.Linear(i, o, rngs=rngs) for i, o in pairwise(widths))
        self.bn = nnx.BatchNorm(widths[-1], rngs=rngs)
        self.attn = nnx.MultiHeadAttention(2, widths[-1], decode=False, rngs=rngs)


def test_nnx_lists() -> None:
    widths = [4] * 14

    class TorchMLP(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential()
            for i, o in pairwise(widths):
                self.layers.extend([nn.Linear(i, o), nn.ReLU()])
            self.norm = nn.BatchNorm1d(4)
            self.attn = nn.MultiheadAttention(4, 2)

    model, flax_shapes = TorchMLP(), of_nnx(lambda: NnxMLP(widths, nnx.Rngs(0)))
    found = proposed(model, flax_shapes)
    assert found.modules == {
        **{f"layers.{i}": f"layers.{2 * i}" for i in range(13)},
        **{"layers": "layers", "bn": "norm", "attn": "attn", "attn.out": "attn.out_proj"},
    }
    assert_round_trip(found, of_torch(model)[0], flax_shapes)


def twins(hidden: int = 4) -> tuple[nn.Module, FlaxShapes]:
    options: Any = {"in_features": 4, "representation_features": (hidden,) * 3, "head_features": (hidden,) * 2}
    shapes = jax.eval_shape(flax_impl.TwoHead(**options).init_params)
    return torch_ref.TwoHead(**options), {("params", *path): leaf.shape for path, leaf in flat(shapes).items()}


def test_our_own_twins() -> None:
    model, flax_shapes = twins()
    found = proposed(model, flax_shapes)
    assert all(torch == flax for torch, flax in found.modules.items())
    assert {"representation", "head0", "head1", "head1.layer2"} <= found.modules.keys()
    array = np.arange(16.0).reshape(4, 4)
    leaf = found.to_flax({"head0.layer1.weight": array})["params", "head0", "layer1", "kernel"]
    np.testing.assert_array_equal(leaf, array.T)


# Numbers that only the right map gives.


@pytest.mark.usefixtures("x64")
def test_a_converted_convolution_gives_the_same_numbers() -> None:
    model = ConvNet().double().eval()
    entries = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for entry in entries.values():
        if entry.is_floating_point():  # statistics too, which start as 0 and 1
            entry.data = torch.rand_like(entry) + 0.5
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8))
    found = proposed(model, of_linen(FlaxConvNet(), jnp.zeros((1, 8, 8, 3), "float32")))
    variables = unflatten_dict(found.to_flax({name: entry.detach().numpy() for name, entry in entries.items()}))
    with torch.no_grad():
        reference = model.features(torch.from_numpy(x)).numpy()
    seen: Any
    _, seen = FlaxConvNet().apply(variables, jnp.asarray(x.transpose(0, 2, 3, 1)), capture_intermediates=True)
    last = seen["intermediates"]["BatchNorm_2"]["__call__"][0]
    np.testing.assert_allclose(np.maximum(last, 0).transpose(0, 3, 1, 2), reference, rtol=1e-10)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("bias", [True, False])
def test_converted_attention_gives_the_same_numbers(bias: bool) -> None:
    model = nn.ModuleDict({"attn": nn.MultiheadAttention(8, 2, bias=bias, batch_first=True)}).double().eval()
    x = np.random.default_rng(0).standard_normal((2, 5, 8))
    port = lnn.MultiHeadDotProductAttention(2, use_bias=bias, param_dtype=jnp.float64)
    found = proposed(model, of_linen(port, jnp.asarray(x)), renames={"attn": ""})
    entries = {}
    for name, entry in model.named_parameters():
        entry.data = torch.randn_like(entry)
        entries[name] = entry.detach().numpy()
    variables = unflatten_dict(found.to_flax(entries))
    with torch.no_grad():
        reference = model["attn"](*[torch.from_numpy(x)] * 3)[0].numpy()
    y: Any = port.apply(variables, jnp.asarray(x))
    np.testing.assert_allclose(y, reference, rtol=1e-9)


# Names alone decide.


@pytest.mark.parametrize(
    ("torch_names", "flax_names"),
    [
        ("fc1 fc2", "Dense_0 Dense_1"),
        ("a b", "a b"),
        ("layer0 layer1 layer2", "layer1 layer2 layer3"),
        ("enc.fc1 enc.fc2 dec.fc1 dec.fc2", "Encoder_0.Dense_0 Encoder_0.Dense_1 Decoder_0.Dense_0 Decoder_0.Dense_1"),
        ("blocks.0.fc1 blocks.0.fc2 blocks.0.out blocks.1.fc1 blocks.1.fc2 blocks.1.out",
         "Block_0.Dense_0 Block_0.Dense_1 Block_0.o Block_1.Dense_0 Block_1.Dense_1 Block_1.o"),
        ("norm layers.0.norm", "LayerNorm_0 EncoderBlock_0.LayerNorm_0"),
        ("fc fc2", "dense dense_1"),
        ("left other", "left something"),
        ("self_attn.q multihead_attn.q", "SelfAttention_0.query CrossAttention_0.query"),
        ("0 2 4", "Dense_0 Dense_1 Dense_2"),
        ("net.0.net.0 net.0.net.1 net.1.net.0 net.1.net.1", "A_0.A_0 A_0.A_1 A_1.A_0 A_1.A_1"),
        (" ".join(f"blocks.{i}" for i in range(12)), " ".join(f"Block_{i}" for i in range(12))),
    ],
)  # fmt: skip
def test_names_decide(torch_names: str, flax_names: str) -> None:
    torch_modules, flax_modules = torch_names.split(), flax_names.split()
    found = propose_map(weights(*reversed(torch_modules)), leaves(*sorted(flax_modules)))
    expected = {f"{a}.weight": f"{b}.kernel" for a, b in zip(torch_modules, flax_modules, strict=True)}
    assert pairs(found) == expected


@pytest.mark.parametrize(
    ("torch_names", "flax_names"),
    [
        ("first second", "Dense_0 Dense_1"),
        ("left right", "a b"),
        ("left right", "a"),
        ("alpha beta.x", "a c.y"),
        ("b.alpha b.beta.x", "b.a b.c.y"),
        ("encoder.fc decoder.out", "Encoder.out Decoder.fc"),  # each name says two things
        ("blocks.0.fc1 blocks.0.fc2 blocks.1.fc1 blocks.1.fc2 blocks.2.fc1 blocks.2.fc2",
         "Block_0.a_0 Block_0.a_1 Block_0.a_2 Block_1.a_0 Block_1.a_1 Block_1.a_2"),
        ("fc1 fc2 out", "Dense_0 Dense_1 Dense_2"),
        ("head0 head1", "control treated"),
        ("input_layernorm post_attention_layernorm", "attention_norm ffn_norm"),  # the second is ffn_norm
    ],
)  # fmt: skip
def test_what_names_do_not_decide_is_asked(torch_names: str, flax_names: str) -> None:
    for partial in (False, True):
        with pytest.raises(WeightMapError, match=r"say which is which, such as renames=") as raised:
            propose_map(weights(*torch_names.split()), leaves(*flax_names.split()), partial=partial)
        assert raised.value.ambiguous == ((tuple(torch_names.split()), tuple(flax_names.split())),)
        assert raised.value.torch_only == raised.value.flax_only == ()


def test_shapes_decide_before_ranks() -> None:
    """Linen numbers `Dense(8)(Dense(16)(x))` from the outside in."""
    shapes = {"linear1.weight": (16, 8), "linear2.weight": (8, 16)}
    found = propose_map(shapes, {**leaves("Dense_0", shape=(16, 8)), **leaves("Dense_1", shape=(8, 16))})
    assert found.modules == {"Dense_0": "linear2", "Dense_1": "linear1"}


def test_two_attentions_are_asked_for_and_one_rename_is_enough() -> None:
    model = nn.TransformerDecoderLayer(8, 2, 16)
    flax_shapes = of_linen(Decoder(), jnp.zeros((1, 5, 8)))
    with pytest.raises(WeightMapError, match="self_attn, multihead_attn may be any of") as raised:
        proposed(model, flax_shapes)
    attentions = ("MultiHeadDotProductAttention_0", "MultiHeadDotProductAttention_1")
    assert raised.value.ambiguous[0] == (("self_attn", "multihead_attn"), attentions)
    found = proposed(model, flax_shapes, renames={"multihead_attn": attentions[1]})
    assert found.modules[f"{attentions[0]}.out"] == "self_attn.out_proj"
    assert found.modules[attentions[1]] == "multihead_attn"
    assert found.modules["LayerNorm_2"] == "norm3"


class Decoder(lnn.Module):
    @lnn.compact
    def __call__(self, x: Any) -> Any:
        for _ in range(2):
            x = lnn.LayerNorm()(x + lnn.MultiHeadDotProductAttention(2)(x))
        return lnn.LayerNorm()(x + lnn.Dense(8)(lnn.Dense(16)(x)))


def test_containers_decide_where_names_do_not() -> None:
    shapes = {"left.0.weight": (4, 3), "left.2.weight": (4, 4), "right.0.weight": (4, 4), "right.2.weight": (5, 4)}
    flax_shapes = {**leaves("MLP_0.Dense_0", shape=(4, 4)), **leaves("MLP_0.Dense_1", shape=(4, 5))}
    flax_shapes |= {**leaves("MLP_1.Dense_0", shape=(3, 4)), **leaves("MLP_1.Dense_1", shape=(4, 4))}
    found = propose_map(shapes, flax_shapes)
    assert found.modules["MLP_1.Dense_1"] == "left.2"
    assert (found.modules["MLP_0"], found.modules["MLP_1"]) == ("right", "left")


def test_a_misleading_container_does_not_decide() -> None:
    """Embeddings lie together in the port, far from what they feed."""
    shapes = {"a.emb.weight": (7, 4), "a.fc.weight": (4, 4), "b.emb.weight": (9, 4), "b.fc.weight": (4, 4)}
    flax_shapes = leaves("Stack_0.Dense_0", "Stack_1.Dense_0")
    flax_shapes |= {("params", f"Emb_{i}", "Embed_0", "embedding"): (7 + 2 * i, 4) for i in range(2)}
    with pytest.raises(WeightMapError) as raised:
        propose_map(shapes, flax_shapes)
    assert raised.value.ambiguous == ((("a.fc", "b.fc"), ("Stack_0.Dense_0", "Stack_1.Dense_0")),)


def test_nested_modules_with_the_same_entries_are_paired_from_the_inside() -> None:
    found = propose_map(weights("a.b.c"), leaves("A.C"))
    assert found.modules == {"A": "a.b", "A.C": "a.b.c"}


def test_many_unclear_groups_make_a_short_message() -> None:
    shapes = {f"blocks.{i}.{name}.weight": (4, i + 5) for i in range(30) for name in ("first", "second")}
    flax_shapes = {("params", f"Block_{i}", f"Dense_{j}", "kernel"): (i + 5, 4) for i in range(30) for j in range(2)}
    with pytest.raises(WeightMapError, match=r"\(30 groups in all\)$") as raised:
        propose_map(shapes, flax_shapes)
    assert len(raised.value.ambiguous) == 30
    assert len(str(raised.value)) < 1000


def test_embedding_or_linear_is_read_off_the_leaf() -> None:
    shapes = weights("tok", "fc")
    flax_shapes = {**leaves("B_0"), ("params", "A_0", "embedding"): (4, 4)}
    found = propose_map(shapes, flax_shapes, kinds={"tok": "Embedding", "fc": "Linear"})
    assert found.modules == {"B_0": "fc", "A_0": "tok"}
    with pytest.raises(WeightMapError):
        propose_map(shapes, flax_shapes)


def test_a_flax_path_may_have_any_collection() -> None:
    found = propose_map(
        {"bn.weight": (3,), "bn.running_mean": (3,)}, {("x", "n", "scale"): (3,), ("y", "n", "mean"): (3,)}
    )
    assert found.modules == {"n": "bn"}


# Leftovers.


def test_a_missing_bias_is_named_alone() -> None:
    model, flax_shapes = twins()
    del flax_shapes["params", "head1", "layer2", "bias"]
    with pytest.raises(WeightMapError, match=r"in torch only: head1\.layer2\.bias \[\d\]$") as raised:
        proposed(model, flax_shapes)
    assert raised.value.torch_only == ("head1.layer2.bias",)
    assert raised.value.flax_only == raised.value.ambiguous == ()
    found = proposed(model, flax_shapes, partial=True)
    assert found.torch_only == ("head1.layer2.bias",)
    assert found.modules["head1.layer2"] == "head1.layer2"
    assert "head1.layer2.bias" not in found.to_torch(found.to_flax(random_arrays(of_torch(model)[0])))


def test_a_missing_bias_does_not_shift_the_ranks() -> None:
    shapes = {**weights("fc1", "fc2"), "fc1.bias": (4,), "fc2.bias": (4,)}
    flax_shapes = {**leaves("Dense_0", "Dense_1"), ("params", "Dense_1", "bias"): (4,)}
    found = propose_map(shapes, flax_shapes, partial=True)
    assert (found.torch_only, found.modules) == (("fc1.bias",), {"Dense_0": "fc1", "Dense_1": "fc2"})


def test_equal_names_are_kept_although_other_modules_fit_better() -> None:
    shapes = {**weights("a", "b"), "a.bias": (4,)}
    flax_shapes = {**leaves("a", "b"), ("params", "b", "bias"): (4,)}
    found = propose_map(shapes, flax_shapes, partial=True)
    assert (found.torch_only, found.flax_only) == (("a.bias",), ("b.bias",))


def test_a_missing_block_is_the_last() -> None:
    model = Encoder(8, 16, 3)
    found = proposed(model, of_linen(FlaxEncoder(8, 16, 2), jnp.zeros((1, 7), int)), partial=True)
    assert {name.split(".")[1] for name in found.torch_only} == {"2"}
    assert len(found.torch_only) == 12
    assert found.flax_only == ()


def test_another_shape_is_left_over_on_both_sides() -> None:
    shapes, flax_shapes = weights("fc1", "fc2"), {**leaves("Dense_0"), **leaves("Dense_1", shape=(4, 5))}
    shapes["fc2.weight"] = (6, 4)
    with pytest.raises(WeightMapError) as raised:
        propose_map(shapes, flax_shapes)
    assert "in torch only: fc2.weight [6, 4]; in the port only: Dense_1.kernel [4, 5]" in str(raised.value)
    assert raised.value.torch_only == ("fc2.weight",)
    assert raised.value.flax_only == ("Dense_1.kernel",)


def test_layer_norm_in_place_of_batch_norm() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    flax_shapes = {**leaves("Dense_0", shape=(3, 4)), ("params", "Dense_0", "bias"): (4,)}
    flax_shapes |= {("params", "LayerNorm_0", leaf): (4,) for leaf in ("scale", "bias")}
    found = proposed(model, flax_shapes, partial=True)
    assert found.torch_only == ("1.running_mean", "1.running_var")


# Renames.


def test_renames() -> None:
    found = propose_map(weights("first", "second"), leaves("Dense_0", "Dense_1"), renames={"first": "Dense_1"})
    assert found.modules == {"Dense_0": "second", "Dense_1": "first"}
    torch_names = [f"{side}.fc{i}" for side in ("left", "right") for i in (1, 2)]
    flax_names = [f"{side}.Dense_{i}" for side in ("a", "b") for i in (0, 1)]
    found = propose_map(weights(*torch_names), leaves(*flax_names), renames={"left": "b"})
    assert found.modules["b.Dense_1"] == "left.fc2"
    assert found.modules["a"] == "right"
    found = propose_map(
        weights(*torch_names),
        leaves(*flax_names),
        renames={"left": "b", "left.fc1": "a.Dense_1", "right.fc2": "b.Dense_0"},
    )
    assert pairs(found)["left.fc1.weight"] == "a.Dense_1.kernel"
    assert pairs(found)["left.fc2.weight"] == "b.Dense_1.kernel"


def test_a_star_in_renames_is_a_number() -> None:
    shapes = weights(*(f"blocks.{i}.{name}" for i in range(12) for name in ("first", "second")))
    flax_shapes = leaves(*(f"Block_{i}.Dense_{j}" for i in range(12) for j in range(2)))
    found = propose_map(shapes, flax_shapes, renames={"blocks.*.first": "Block_*.Dense_1"})
    assert found.modules["Block_10.Dense_1"] == "blocks.10.first"
    assert found.modules["Block_2.Dense_0"] == "blocks.2.second"
    with pytest.raises(ValueError, match=r"renames: expected names of torch among .*, got 'blocks\.\*\.third'"):
        propose_map(shapes, flax_shapes, renames={"blocks.*.third": "Block_*.Dense_1"})
    with pytest.raises(ValueError, match=r"renames: expected names of the port among .*, got 'Block_0\.Dense_\*'"):
        propose_map(shapes, flax_shapes, renames={"blocks.*.first": "Block_*.Dense_*"})


def test_renames_of_entries() -> None:
    shapes = {**weights("left", "right"), "p": (1, 4), "q": (1, 4)}
    flax_shapes = {**leaves("a", "b"), ("params", "x"): (1, 4), ("params", "y"): (1, 4)}
    found = propose_map(shapes, flax_shapes, renames={"left.weight": "b.kernel", "p": "y"})
    assert pairs(found) == {"left.weight": "b.kernel", "right.weight": "a.kernel", "p": "y", "q": "x"}


@pytest.mark.parametrize(
    ("renames", "message"),
    [
        ({"third": "Dense_0"}, r"renames: expected names of torch among first, second, .*got 'third'"),
        ({"first": "Dense_7"}, r"renames: expected names of the port among Dense_0, Dense_1, .*got 'Dense_7'"),
        ({"first": "Dense_0", "second": "Dense_0"}, r"renames: expected one counterpart for each, got \{"),
    ],
)
def test_wrong_renames(renames: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        propose_map(weights("first", "second"), leaves("Dense_0", "Dense_1"), renames=renames)


def test_a_rename_to_what_does_not_fit_is_left_over() -> None:
    shapes, flax_shapes = {**weights("a"), "b.weight": (5, 4)}, {**leaves("x"), **leaves("y", shape=(4, 5))}
    with pytest.raises(WeightMapError) as raised:
        propose_map(shapes, flax_shapes, renames={"a": "y"})
    assert raised.value.torch_only == ("a.weight", "b.weight")
    assert raised.value.flax_only == ("x.kernel", "y.kernel")


# There and back.

SIZES = st.integers(1, 4)


@st.composite
def a_link(draw: st.DrawFn) -> tuple[Shapes, FlaxShapes]:
    o, i, h, d = draw(SIZES), draw(SIZES), draw(SIZES), draw(SIZES)
    window = tuple(draw(st.lists(SIZES, min_size=1, max_size=3)))
    any_shape = tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
    one: list[tuple[str, tuple[int, ...], str, tuple[int, ...]]] = [
        ("weight", (o, i), "kernel", (i, o)),
        ("weight", (h * d, i), "kernel", (i, h, d)),
        ("weight", (o, h * d), "kernel", (h, d, o)),
        ("weight", (o, i, *window), "kernel", (*window, i, o)),
        ("weight", (o, i), "embedding", (o, i)),
        ("weight", (o,), "scale", (o,)),
        ("weight", (1,), "negative_slope", ()),
        ("bias", (h * d,), "bias", (h, d)),
        ("running_var", (o,), "var", (o,)),
        ("own", any_shape, "own", any_shape),
    ]
    choice = draw(st.integers(0, len(one)))
    if choice == len(one):
        split: FlaxShapes = {("params", "m", name, "kernel"): (i, h, d) for name in ("query", "key", "value")}
        split |= {("params", "m", name, "bias"): (h, d) for name in ("query", "key", "value")}
        return {"m.in_proj_weight": (3 * h * d, i), "m.in_proj_bias": (3 * h * d,)}, split
    slot, shape, leaf, flax_shape = one[choice]
    return {f"m.{slot}": shape}, {("params", "m", leaf): flax_shape}


@settings(max_examples=200)
@given(a_link(), st.sampled_from(["float16", "float32", "float64", "int32", "bool"]))
def test_there_and_back_bit_for_bit(link: tuple[Shapes, FlaxShapes], dtype: str) -> None:
    shapes, flax_shapes = link
    found = propose_map(shapes, flax_shapes)
    arrays = random_arrays(shapes, dtype)
    there = found.to_flax(arrays)
    assert {path: leaf.shape for path, leaf in there.items()} == flax_shapes
    assert all(leaf.flags.c_contiguous and leaf.dtype == dtype for leaf in there.values())
    for name, array in found.to_torch(there).items():
        np.testing.assert_array_equal(array, arrays[name], strict=True)
    numbered = {path: np.arange(math.prod(shape)).reshape(shape) for path, shape in flax_shapes.items()}
    for path, leaf in found.to_flax(found.to_torch(numbered)).items():
        np.testing.assert_array_equal(leaf, numbered[path], strict=True)


def test_only_what_is_given_is_converted() -> None:
    model = Encoder(8, 16, 1)
    found = proposed(model, of_linen(FlaxEncoder(8, 16, 1), jnp.zeros((1, 7), int)))
    leaf = found.to_flax({"head.bias": np.zeros(3)})
    assert list(leaf) == [("params", "Dense_0", "bias")]
    attention = found.to_flax({"layers.0.self_attn.in_proj_bias": np.arange(24.0)})
    assert list(found.to_torch(attention)) == ["layers.0.self_attn.in_proj_bias"]
    attention.popitem()
    assert found.to_torch(attention) == {}


def test_wrong_arrays() -> None:
    found = propose_map(weights("fc", shape=(3, 4)), leaves("Dense_0", shape=(4, 3)))
    with pytest.raises(ValueError, match=r"fc\.weight: expected shape \[3, 4\], got \[4, 3\]"):
        found.to_flax({"fc.weight": np.zeros((4, 3))})
    with pytest.raises(ValueError, match=r"params\.Dense_0\.kernel: expected shape \[4, 3\], got \[3, 4\]"):
        found.to_torch({("params", "Dense_0", "kernel"): np.zeros((3, 4))})
    with pytest.raises(ValueError, match=r"arrays: expected names among fc\.weight, got fc\.bias"):
        found.to_flax({"fc.bias": np.zeros(3)})
    with pytest.raises(ValueError, match=r"arrays: expected paths among .*, got \('x', 'y'\)"):
        found.to_torch({("x", "y"): np.zeros(3)})
    with pytest.raises(
        ValueError, match=r"flax_shapes: expected paths such as \('params', 'Dense_0', 'kernel'\), got "
    ):
        propose_map({}, {("kernel",): (3,)})


def test_the_table() -> None:
    shapes = {"conv.weight": (8, 1, 3, 3), "a.qkv.weight": (12, 4), "fc.weight": (2, 4), "fc.bias": (2,), "pe": (9,)}
    flax_shapes = leaves("Attn_0.query", "Attn_0.key", "Attn_0.value")
    flax_shapes |= {**leaves("Conv_0", shape=(3, 3, 1, 8)), **leaves("Dense_0", shape=(4, 2))}
    flax_shapes["params", "Dense_0", "bias"] = (2,)
    assert str(propose_map(shapes, flax_shapes, partial=True)).splitlines() == [
        "torch         shape         flax                 shape         rule",
        "conv.weight   [8, 1, 3, 3]  Conv_0.kernel        [3, 3, 1, 8]  conv kernel (2,3,1,0)",
        "a.qkv.weight  [12, 4]       Attn_0.query.kernel  [4, 4]        split in 3, transposed",
        "                            Attn_0.key.kernel    [4, 4]",
        "                            Attn_0.value.kernel  [4, 4]",
        "fc.weight     [2, 4]        Dense_0.kernel       [4, 2]        transposed",
        "fc.bias       [2]           Dense_0.bias         [2]           as it is",
        "in torch only: pe",
    ]
