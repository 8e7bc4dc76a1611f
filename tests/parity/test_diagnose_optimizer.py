"""The diagnosis of an optimiser: each known difference, made with optax, is found again from the traces."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from flax_impl.parity.diagnosis.optimizer.case import read_case
from flax_impl.parity.diagnosis.optimizer.findings import optimizer_findings
from flax_impl.parity.diagnosis.optimizer.simulated import simulate, torch_rule
from torch_ref.common.trace import Trace

SHAPES = {
    "representation.layer0.weight": (4, 3),
    "representation.layer0.bias": (4,),
    "head0.layer0.weight": (3, 4),
    "head0.layer0.bias": (3,),
    "head1.layer0.weight": (3, 4),
    "head1.layer0.bias": (3,),
    "scale": (),
}
STEPS = 5
RATES = tuple(0.01 * 0.7**k for k in range(STEPS + 1))
COSINE = tuple(0.005 * (1 + np.cos(np.pi * k / 9)) for k in range(STEPS + 1))
KINDS = {"mu": "exp_avg", "nu": "exp_avg_sq", "trace": "momentum_buffer", "nu_max": "max_exp_avg_sq"}
RMS_KINDS = {"mu": "grad_avg", "nu": "square_avg", "trace": "momentum_buffer"}


def draw(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Returns gradients of every size, from 1 to 1e-9."""
    return np.asarray(rng.normal(size=shape) * 10.0 ** rng.choice([0, 0, 0, -3, -9], size=shape))


def reference_of(
    name: str,
    rates: Any = 0.01,
    clip: float | None = None,
    steps: int = STEPS,
    unused: str = "-",
    zero: bool = False,
    **options: Any,
) -> Trace:
    """Returns torch's training on random gradients; those of `unused` are None but in two steps.

    With `zero`, those of `scale` are 0.
    """
    rng = np.random.default_rng(7)
    rates = list(rates) if isinstance(rates, tuple) else [rates] * (steps + 1)
    params = {key: torch.tensor(rng.normal(size=shape), requires_grad=True) for key, shape in SHAPES.items()}
    optimizer = getattr(torch.optim, name)(list(params.values()), lr=rates[0], **options)
    arrays = {f"0/param/{key}": value.detach().numpy().copy() for key, value in params.items()}
    arrays["0/param/count"] = np.array(3.0)
    for k in range(steps):
        grads = {key: draw(shape, rng) for key, shape in SHAPES.items()}
        arrays |= {f"{k}/grad/{key}": grad for key, grad in grads.items()} | {f"{k}/grad/x": np.ones((2, 2))}
        grads["scale"] *= not zero
        for key, value in params.items():
            none = key.startswith(unused) and k not in (1, steps - 1)
            value.grad = None if none else torch.tensor(grads[key])
            arrays[f"{k}/grad/{key}"] = grads[key] * (not none)
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(params.values(), clip)
        optimizer.param_groups[0]["lr"] = rates[k]
        optimizer.step()
        arrays |= {f"{k}/update/{key}": value.detach().numpy().copy() for key, value in params.items()}
        arrays[f"{k}/update/count"] = np.array(3.0)
        for key, value in params.items():
            kept = optimizer.state[value].items()
            state = {kind: part for kind, part in kept if isinstance(part, torch.Tensor) and kind != "step"}
            arrays |= {f"{k}/state/{key}.{kind}": part.numpy().copy() for kind, part in state.items()}
    settings = {key: value for key, value in optimizer.param_groups[0].items() if key != "params"}
    settings |= {"name": name, "lr": rates[: steps + 1], "clip_norm": clip}
    return Trace(arrays, {"optimizer": settings, "dtype": "float64", "buffers": ["count"], "frozen": []})


def ported_of(reference: Trace, made: optax.GradientTransformation, dtype: Any = jnp.float64) -> Trace:
    """Returns the trace of an optax optimiser that starts each step from the reference's state."""
    kinds = RMS_KINDS if reference.metadata["optimizer"]["name"] == "RMSprop" else KINDS
    made = optax.with_extra_args_support(made)
    arrays: dict[str, np.ndarray] = {}

    def is_state(value: Any) -> bool:
        fields = getattr(value, "_fields", ())
        return any(field in fields for field in ("count", "mu", "nu", "trace"))

    def move(params: Any, grads: Any, state: Any) -> Any:
        updates, state = made.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = made.init({name: jnp.zeros(shape, dtype) for name, shape in SHAPES.items()})
    for k in range(reference.steps):
        before = reference.state(k)

        def forced(state: Any, before: Any = before, k: int = k) -> Any:
            if not is_state(state):
                return state
            found: dict[str, Any] = {"count": jnp.asarray(k, jnp.int32)} if "count" in state._fields else {}
            for field, kind in kinds.items():
                if field in state._fields and f"scale.{kind}" in before:
                    found[field] = {name: jnp.asarray(before[f"{name}.{kind}"], dtype) for name in SHAPES}
            return state._replace(**found)

        params = {name: jnp.asarray(reference.params(k)[name], dtype) for name in SHAPES}
        grads = {name: jnp.asarray(reference.phase(k, "grad")[name], dtype) for name in SHAPES}
        with jax.numpy_dtype_promotion("standard"):  # optax raises betas to the count
            params, state = move(params, grads, jax.tree.map(forced, state, is_leaf=is_state))
        arrays |= {f"{k}/update/{name}": np.asarray(value) for name, value in params.items()}
        for part in jax.tree.leaves(state, is_leaf=is_state):
            for field, kind in kinds.items():
                if is_state(part) and field in part._fields:
                    arrays |= {f"{k}/state/{n}.{kind}": np.asarray(v) for n, v in getattr(part, field).items()}
    return Trace(arrays, {**reference.metadata, "dtype": reference.dtype})


def changed(reference: Trace, **changes: Any) -> Trace:
    """Returns the trace of torch's rule with something changed, for what optax lacks."""
    rule, case = torch_rule(reference.metadata["optimizer"]), read_case(reference, reference)
    assert rule is not None
    assert case is not None
    arrays = {}
    moves = simulate(replace(rule, **changes), case.steps, case.parts)
    for k, (update, state) in enumerate(moves):
        for key, vector in {"": update, **state}.items():
            parts = np.split(vector, np.cumsum(case.parts.sizes)[:-1])
            for (name, shape), part in zip(SHAPES.items(), parts, strict=True):
                place = f"{k}/state/{name}.{key}" if key else f"{k}/update/{name}"
                arrays[place] = part.reshape(shape)
    return Trace(arrays, reference.metadata)


def schedule(rates: tuple[float, ...]) -> Callable[[Any], Any]:
    return lambda count: jnp.asarray(rates)[count]


MATRIX = [
    ("SGD", {}),
    ("SGD", {"weight_decay": 0.1}),
    ("SGD", {"momentum": 0.9}),
    ("SGD", {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}),
    ("SGD", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    ("SGD", {"momentum": 0.9, "maximize": True}),
    ("Adam", {}),
    ("Adam", {"betas": (0.5, 0.9), "eps": 1e-3}),
    ("Adam", {"weight_decay": 0.1}),
    ("Adam", {"weight_decay": 0.1, "amsgrad": True}),
    ("AdamW", {}),
    ("AdamW", {"weight_decay": 0.3, "amsgrad": True}),
    ("RMSprop", {}),
    ("RMSprop", {"weight_decay": 0.1, "alpha": 0.9}),
    ("RMSprop", {"momentum": 0.9}),
    ("RMSprop", {"momentum": 0.9, "centered": True, "eps": 1e-4}),
]


@pytest.mark.parametrize("clip", [None, 1.0, 1e3])
@pytest.mark.parametrize(("name", "options"), MATRIX)
def test_the_simulation_is_torchs(name: str, options: dict[str, Any], clip: float | None) -> None:
    reference = reference_of(name, RATES, clip, **options)
    case, rule = read_case(reference, reference), torch_rule(reference.metadata["optimizer"])
    assert case is not None
    assert rule is not None
    for (update, state), actual, kept in zip(
        simulate(rule, case.steps, case.parts), case.updates, case.states, strict=True
    ):
        np.testing.assert_allclose(update, actual, rtol=1e-14, atol=1e-14)
        assert state.keys() == kept.keys()
        for kind, vector in kept.items():
            np.testing.assert_allclose(state[kind], vector, rtol=1e-14, atol=1e-14)
    assert optimizer_findings(reference, reference) == []


def chain(*parts: optax.GradientTransformation, lr: Any = 0.01) -> optax.GradientTransformation:
    return optax.chain(*parts, optax.scale_by_learning_rate(lr))


def decays(value: float, mask: Any = None) -> optax.GradientTransformation:
    return optax.add_decayed_weights(value, mask)


def matrices(params: Any) -> Any:
    return jax.tree.map(lambda value: value.ndim > 1, params)


adam, rms = optax.scale_by_adam, optax.scale_by_rms
HONEST = [
    (("Adam", {}), lambda: optax.adam(0.01)),
    (("Adam", {"rates": RATES}), lambda: optax.adam(schedule(RATES))),
    (("Adam", {"weight_decay": 0.1}), lambda: chain(decays(0.1), adam())),
    (("AdamW", {}), lambda: optax.adamw(0.01, weight_decay=0.01)),
    (("SGD", {"momentum": 0.9, "nesterov": True}), lambda: optax.sgd(0.01, 0.9, True)),
    (("SGD", {"momentum": 0.9, "rates": RATES}), lambda: chain(optax.trace(0.9), lr=schedule(RATES))),
    (("RMSprop", {}), lambda: optax.rmsprop(0.01, 0.99, eps_in_sqrt=False)),
    (("RMSprop", {"centered": True}), lambda: optax.rmsprop(0.01, 0.99, eps_in_sqrt=False, centered=True)),
]


@pytest.mark.parametrize(("torchs", "make"), HONEST)
def test_an_honest_port_has_no_finding(x64: None, torchs: Any, make: Callable[[], Any]) -> None:
    reference = reference_of(torchs[0], **torchs[1])
    assert optimizer_findings(ported_of(reference, make()), reference) == []


OPTAX = [
    # Adam
    ("inside the root;", "Adam", {}, lambda: chain(adam(eps=0.0, eps_root=1e-8))),
    ("inside the root too", "Adam", {}, lambda: optax.adam(0.01, eps_root=1e-8)),
    ("as optax.adamw does", "Adam", {"weight_decay": 0.1}, lambda: optax.adamw(0.01, weight_decay=0.1)),
    ("decay to the gradient, before", "AdamW", {}, lambda: chain(decays(0.01), adam())),
    ("without the learning rate", "AdamW", {}, lambda: optax.chain(optax.adam(0.01), decays(-0.01))),
    ("the parameters grow", "AdamW", {}, lambda: optax.chain(optax.adam(0.01), decays(0.01))),
    ("0.0001, which is optax.adamw's default; torch's is 0.01:", "AdamW", {}, lambda: optax.adamw(0.01)),
    ("torch's Adam is not AdamW", "Adam", {}, lambda: optax.adamw(0.01)),
    ("decays by 0.037; torch decays by 0.01", "AdamW", {}, lambda: optax.adamw(0.01, weight_decay=0.037)),
    ("decays by 0.037, apart", "Adam", {}, lambda: optax.adamw(0.01, weight_decay=0.037)),
    ("decays by 0.037;", "Adam", {"weight_decay": 0.1}, lambda: chain(decays(0.037), adam())),
    ("decays by 0.037;", "Adam", {}, lambda: chain(decays(0.037), adam())),
    ("has no weight decay", "AdamW", {}, lambda: optax.adam(0.01)),
    ("has no weight decay", "Adam", {"weight_decay": 0.1}, lambda: optax.adam(0.01)),
    ("spares every bias", "AdamW", {}, lambda: optax.adamw(0.01, weight_decay=0.01, mask=matrices)),
    ("spares every bias", "Adam", {"weight_decay": 0.1}, lambda: chain(decays(0.1, matrices), adam())),
    ("b1=0.8;", "Adam", {}, lambda: optax.adam(0.01, b1=0.8)),
    ("b2=0.95;", "Adam", {}, lambda: optax.adam(0.01, b2=0.95)),
    ("b1=0.5 and b2=0.99;", "Adam", {}, lambda: optax.adam(0.01, 0.5, 0.99)),
    ("b1=0.999 and b2=0.9;", "Adam", {}, lambda: optax.adam(0.01, 0.999, 0.9)),
    ("Nesterov's (optax.nadam)", "Adam", {}, lambda: optax.nadam(0.01)),
    ("optax.amsgrad); torch does not", "Adam", {}, lambda: optax.amsgrad(0.01)),
    ("as optax.amsgrad does; torch corrects", "Adam", {"amsgrad": True}, lambda: optax.amsgrad(0.01)),
    ("plain Adam", "Adam", {"amsgrad": True}, lambda: optax.adam(0.01)),
    ("eps=1e-07;", "Adam", {}, lambda: optax.adam(0.01, eps=1e-7)),
    ("eps=1e-05;", "Adam", {}, lambda: optax.adam(0.01, eps=1e-5)),
    ("eps=0.001;", "Adam", {}, lambda: optax.adam(0.01, eps=1e-3)),
    # SGD
    ("is Nesterov's; torch's is not", "SGD", {"momentum": 0.9}, lambda: optax.sgd(0.01, 0.9, True)),
    ("lacks Nesterov's", "SGD", {"momentum": 0.9, "nesterov": True}, lambda: optax.sgd(0.01, 0.9)),
    ("has no dampening", "SGD", {"momentum": 0.9, "dampening": 0.3}, lambda: optax.sgd(0.01, 0.9)),
    ("momentum=0.8;", "SGD", {"momentum": 0.9}, lambda: optax.sgd(0.01, 0.8)),
    ("momentum=0.8;", "SGD", {"momentum": 0.9, "nesterov": True}, lambda: optax.sgd(0.01, 0.8, True)),
    ("has no momentum", "SGD", {"momentum": 0.9}, lambda: optax.sgd(0.01)),
    ("momentum=0.9;", "SGD", {}, lambda: optax.sgd(0.01, 0.9)),
    (
        "after optax.trace",
        "SGD",
        {"momentum": 0.9, "weight_decay": 0.1},
        lambda: chain(optax.trace(0.9), decays(0.1)),
    ),
    ("has no weight decay", "SGD", {"momentum": 0.9, "weight_decay": 0.1}, lambda: optax.sgd(0.01, 0.9)),
    ("decays by 0.02;", "SGD", {"weight_decay": 0.1}, lambda: chain(decays(0.02))),
    ("the parameters grow", "SGD", {"weight_decay": 0.1}, lambda: optax.chain(optax.sgd(0.01), decays(0.1))),
    ("inside the momentum buffer", "SGD", {"momentum": 0.9, "rates": RATES}, lambda: lr_first(0.9)),
    # RMSprop
    ("inside the root, optax's default", "RMSprop", {}, lambda: optax.rmsprop(0.01, 0.99)),
    ("0.9 of the mean square", "RMSprop", {}, lambda: optax.rmsprop(0.01, eps_in_sqrt=False)),
    ("optax.rmsprop's defaults", "RMSprop", {}, lambda: optax.rmsprop(0.01)),
    ("decay (alpha)=0.95;", "RMSprop", {}, lambda: optax.rmsprop(0.01, 0.95, eps_in_sqrt=False)),
    ("is centered", "RMSprop", {}, lambda: optax.rmsprop(0.01, 0.99, eps_in_sqrt=False, centered=True)),
    ("torch's is centered", "RMSprop", {"centered": True}, lambda: optax.rmsprop(0.01, 0.99, eps_in_sqrt=False)),
    ("starts at 1", "RMSprop", {}, lambda: optax.rmsprop(0.01, 0.99, eps_in_sqrt=False, initial_scale=1.0)),
    ("initial_scale=0.25;", "RMSprop", {}, lambda: optax.rmsprop(0.01, 0.99, initial_scale=0.25, eps_in_sqrt=False)),
    ("corrects the bias", "RMSprop", {}, lambda: chain(rms(0.99, eps_in_sqrt=False, bias_correction=True))),
    ("has no momentum", "RMSprop", {"momentum": 0.9}, lambda: chain(rms(0.99, eps_in_sqrt=False))),
    ("has no weight decay", "RMSprop", {"weight_decay": 0.1}, lambda: chain(rms(0.99, eps_in_sqrt=False))),
    ("decays by 0.02;", "RMSprop", {"weight_decay": 0.1}, lambda: chain(decays(0.02), rms(0.99, eps_in_sqrt=False))),
    (
        "momentum=0.5;",
        "RMSprop",
        {"momentum": 0.9},
        lambda: chain(rms(0.99, eps_in_sqrt=False), optax.trace(0.5)),
    ),
    (
        "inside the momentum buffer",
        "RMSprop",
        {"momentum": 0.9, "rates": RATES},
        lambda: optax.rmsprop(schedule(RATES), 0.99, eps_in_sqrt=False, momentum=0.9),
    ),
    ("eps=1e-05;", "RMSprop", {}, lambda: optax.rmsprop(0.01, 0.99, 1e-5, eps_in_sqrt=False)),
    # clipping
    *(
        (text, name, {"clip": 1.0, **options}, lambda clip=clip, core=core: chain(clip(), core()))
        for (name, options, core), (text, clip) in itertools.product(
            [
                ("Adam", {}, adam),
                ("SGD", {}, optax.identity),
                ("SGD", {"momentum": 0.9}, lambda: optax.trace(0.9)),
                ("RMSprop", {}, lambda: rms(0.99, eps_in_sqrt=False)),
            ],
            [
                ("clips as optax.clip_by_global_norm", lambda: optax.clip_by_global_norm(1.0)),
                ("does not clip", optax.identity),
                ("optax.clip_by_block_rms", lambda: optax.clip_by_block_rms(1.0)),
                ("each value (optax.clip)", lambda: optax.clip(1.0)),
            ],
        )
    ),
    ("to a norm of 2.5;", "Adam", {"clip": 1.0}, lambda: chain(optax.clip_by_global_norm(2.5), adam())),
    ("to a norm of 2.5; torch does not", "Adam", {}, lambda: chain(optax.clip_by_global_norm(2.5), adam())),
    (
        "after add_decayed_weights",
        "SGD",
        {"clip": 1.0, "weight_decay": 0.1, "momentum": 0.9},
        lambda: chain(decays(0.1), optax.clip_by_global_norm(1.0), optax.trace(0.9)),
    ),
    # the rate, and what holds for all
    *(
        (text, name, {"rates": COSINE, **options}, lambda lr=lr, core=core, first=first: chain(*first(), core(), lr=lr))
        for (name, options, core), (text, lr, first) in itertools.product(
            [("Adam", {}, adam), ("SGD", {"momentum": 0.9}, lambda: optax.trace(0.9)), ("SGD", {}, optax.identity)],
            [
                ("0.1 times torch's", schedule(tuple(np.array(COSINE) * 0.1)), tuple),
                ("a step ahead", schedule(COSINE[1:]), tuple),
                ("a step behind", schedule((COSINE[0], *COSINE)), tuple),
                ("keeps the first learning rate, 0.01", 0.01, tuple),
                ("learning rates are 0.3, 0.1, 0.2, 0.5, 0.4;", schedule((0.3, 0.1, 0.2, 0.5, 0.4)), tuple),
                ("up the gradient", schedule(tuple(-np.array(COSINE))), tuple),
            ],
        )
    ),
    ("a step ahead", "AdamW", {"rates": RATES}, lambda: optax.adamw(schedule(RATES[1:]), weight_decay=0.01)),
    ("gradient with the wrong sign", "Adam", {}, lambda: chain(optax.scale(-1.0), adam())),
    ("gets 0.25 times the gradient", "Adam", {}, lambda: chain(optax.scale(0.25), adam())),
    ("gets 0.25 times the", "SGD", {"momentum": 0.9}, lambda: chain(optax.scale(0.25), optax.trace(0.9))),
    ("gets 0.25 times the gradient", "RMSprop", {}, lambda: chain(optax.scale(0.25), rms(0.99, eps_in_sqrt=False))),
    (
        "not move every bias",
        "Adam",
        {},
        lambda: still(lambda name: "bias" in name or name == "scale", optax.adam(0.01)),
    ),
    ("not move all of `head0`", "Adam", {}, lambda: still(lambda name: "head0" in name, optax.adam(0.01))),
    (
        "not move `head0.layer0.bias`;",
        "SGD",
        {},
        lambda: still(lambda n: n == "head0.layer0.bias", optax.sgd(0.01)),
    ),
    ("not move every parameter", "SGD", {"momentum": 0.9}, lambda: still(lambda name: True, optax.sgd(0.01, 0.9))),
]


def lr_first(momentum: float) -> optax.GradientTransformation:
    return optax.chain(optax.scale_by_learning_rate(schedule(RATES)), optax.trace(momentum))


def still(which: Callable[[str], bool], moved: optax.GradientTransformation) -> optax.GradientTransformation:
    masks = {name: which(name) for name in SHAPES}
    return optax.chain(moved, optax.masked(optax.set_to_zero(), masks))


@pytest.mark.parametrize(
    ("text", "name", "options", "make"), OPTAX, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_difference_made_with_optax_is_named(
    x64: None, text: str, name: str, options: dict[str, Any], make: Callable[[], Any]
) -> None:
    reference = reference_of(name, **options)
    findings = optimizer_findings(ported_of(reference, make()), reference)
    assert findings
    assert text in findings[0].text
    assert findings[0].certain, findings
    assert len(findings) == 1


BY_HAND = [
    ("epsilon hat", "Adam", {}, {"eps_at": "uncorrected"}),
    ("has no bias correction", "Adam", {}, {"correct1": False, "correct2": False}),
    ("lacks the bias correction of the first moment", "Adam", {}, {"correct1": False}),
    ("lacks the bias correction of the second moment", "Adam", {}, {"correct2": False}),
    ("each array by its own norm", "Adam", {"clip": 1.0}, {"clip_by": "array"}),
    ("spares every weight matrix", "AdamW", {}, {"undecayed": frozenset(n for n in SHAPES if "weight" in n)}),
    ("spares all of `head1`", "AdamW", {}, {"undecayed": frozenset(n for n in SHAPES if "head1" in n)}),
    ("dampens the first step too", "SGD", {"momentum": 0.9, "dampening": 0.3}, {"dampen_first": True}),
    ("is a mean (optax.ema)", "SGD", {"momentum": 0.9}, {"dampening": 0.9, "dampen_first": True}),
    ("dampening=0.2;", "SGD", {"momentum": 0.9}, {"dampening": 0.2}),
    ("momentum=0.7 and dampening=0.2;", "SGD", {"momentum": 0.9}, {"momentum": 0.7, "dampening": 0.2}),
    ("inside the momentum buffer", "SGD", {"momentum": 0.9, "rates": RATES}, {"buffer": "own"}),
    ("inside the momentum buffer", "SGD", {"momentum": 0.9, "rates": RATES}, {"buffer": "converted"}),
    ("times the gradient", "SGD", {"momentum": 0.9, "weight_decay": 0.1}, {"grad_scale": 1 / 7}),
    ("is 0.142857 times torch's", "AdamW", {}, {"rate_scale": 1 / 7}),
]


@pytest.mark.parametrize(("text", "name", "options", "changes"), BY_HAND)
def test_a_difference_that_optax_lacks_is_named(
    text: str, name: str, options: dict[str, Any], changes: dict[str, Any]
) -> None:
    reference = reference_of(name, **options)
    for ported in (changed(reference, **changes), stateless(changed(reference, **changes))):
        findings = optimizer_findings(ported, reference)
        assert findings
        assert text in findings[0].text
        assert findings[0].certain, findings


def stateless(trace: Trace) -> Trace:
    return Trace({key: array for key, array in trace.arrays.items() if "/state/" not in key}, trace.metadata)


def test_a_head_without_gradient_is_left_alone_by_torch_only() -> None:
    reference = reference_of("AdamW", unused="head1")
    assert optimizer_findings(reference, reference) == []
    findings = optimizer_findings(changed(reference, skip=False), reference)
    assert "moves parameters that had no gradient" in findings[0].text
    assert findings[0].certain
    findings = optimizer_findings(changed(reference, eps_at="inside"), reference)
    assert "eps inside the root;" in findings[0].text


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rounded_parameters_are_named(x64: None, dtype: str) -> None:
    reference = reference_of("Adam")
    cast = {key: np.asarray(jnp.asarray(array, dtype).astype(float)) for key, array in reference.arrays.items()}
    findings = optimizer_findings(Trace({**reference.arrays, **updates(cast)}, reference.metadata), reference)
    assert [finding.certain for finding in findings] == [True]
    assert f"rounds the parameters to {dtype};" in findings[0].text
    findings = optimizer_findings(ported_of(reference, optax.adam(0.01), jnp.float32), reference)
    assert "rounds the parameters to float32;" in findings[0].text


def updates(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {key: array for key, array in arrays.items() if "/update/" in key}


def test_a_float32_step_is_guessed() -> None:
    reference = reference_of("Adam")
    arrays = dict(reference.arrays)
    for k, name in itertools.product(range(STEPS), SHAPES):
        before = reference.params(k)[name]
        step = (arrays[f"{k}/update/{name}"] - before).astype(np.float32)
        arrays[f"{k}/update/{name}"] = before + step
    findings = optimizer_findings(Trace(arrays, reference.metadata), reference)
    assert [finding.certain for finding in findings] == [False]
    assert "digits of float32" in findings[0].text


FLOAT32 = [
    ("as optax.adamw does", "Adam", {"weight_decay": 0.1}, lambda: optax.adamw(0.01, weight_decay=0.1)),
    ("optax.adamw's default", "AdamW", {"weight_decay": 0.3}, lambda: optax.adamw(0.01)),
    ("b1=0.8;", "Adam", {}, lambda: optax.adam(0.01, b1=0.8)),
    ("is Nesterov's; torch's is not", "SGD", {"momentum": 0.9}, lambda: optax.sgd(0.01, 0.9, True)),
    ("momentum=0.8;", "SGD", {"momentum": 0.9}, lambda: optax.sgd(0.01, 0.8)),
    ("optax.rmsprop's defaults", "RMSprop", {"eps": 1e-3}, lambda: optax.rmsprop(0.01, eps=1e-3)),
    ("0.3 times torch's", "Adam", {}, lambda: optax.adam(0.003)),
    ("does not clip", "SGD", {"clip": 1.0}, lambda: optax.sgd(0.01)),
]


@pytest.mark.parametrize(("text", "name", "options", "make"), FLOAT32)
def test_a_difference_is_named_in_float32(text: str, name: str, options: Any, make: Callable[[], Any]) -> None:
    reference = reference_of(name, **options)
    reference = Trace(reference.arrays, {**reference.metadata, "dtype": "float32"})
    assert optimizer_findings(reference, reference) == []
    findings = optimizer_findings(ported_of(reference, make(), jnp.float32), reference)
    assert findings
    assert text in findings[0].text
    assert findings[0].certain, findings


@pytest.mark.parametrize("scale", [1e-9, 1.0])
@pytest.mark.parametrize(("name", "options"), MATRIX)
def test_nonsense_gives_nothing_certain(name: str, options: dict[str, Any], scale: float) -> None:
    reference, rng = reference_of(name, **options), np.random.default_rng(3)
    noise = {key: array + scale * rng.normal(size=array.shape) for key, array in updates(reference.arrays).items()}
    findings = optimizer_findings(Trace({**reference.arrays, **noise}, reference.metadata), reference)
    assert not any(finding.certain for finding in findings), findings


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize(("name", "options"), MATRIX[::3])
def test_what_is_not_finite_does_no_harm(name: str, options: dict[str, Any], bad: float) -> None:
    reference = reference_of(name, **options)
    one = reference.arrays["3/update/scale"] * bad
    for broken in ({"3/update/scale": one}, {key: array * bad for key, array in updates(reference.arrays).items()}):
        assert optimizer_findings(Trace({**reference.arrays, **broken}, reference.metadata), reference) == []


def test_zero_gradients_without_eps_are_named() -> None:
    reference = reference_of("Adam", zero=True)
    assert optimizer_findings(reference, reference) == []
    with np.errstate(all="ignore"):
        ported = changed(reference, eps=0.0)
    assert np.isnan(ported.arrays["0/update/scale"])
    findings = optimizer_findings(ported, reference)
    assert "eps=0;" in findings[0].text
    assert findings[0].certain


def test_one_step_leaves_it_open() -> None:
    reference = reference_of("SGD", steps=1, weight_decay=0.1)
    findings = optimizer_findings(changed(reference, rate_scale=0.5), reference)
    assert "0.5 times torch's" in findings[0].text
    reference = reference_of("Adam", steps=1)
    findings = optimizer_findings(stateless(changed(reference, beta1=0.5)), reference)
    assert findings == []
    reference = reference_of("SGD", COSINE, steps=2)
    findings = optimizer_findings(changed(reference, rates=(COSINE[0],)), reference)
    assert len(findings) == 2
    assert not any(finding.certain for finding in findings)


def test_what_cannot_be_judged_has_no_finding() -> None:
    reference = reference_of("Adagrad")
    assert optimizer_findings(reference, reference) == []
    reference = reference_of("Adam")
    other = {**reference.arrays, "2/update/scale": np.zeros(3)}
    assert optimizer_findings(Trace(other, reference.metadata), reference) == []
    without = {key: array for key, array in reference.arrays.items() if key != "2/update/scale"}
    assert optimizer_findings(Trace(without, reference.metadata), reference) == []
    groups = {**reference.metadata, "optimizer": {**reference.metadata["optimizer"], "lr": [0.5]}}
    assert optimizer_findings(Trace({**reference.arrays, **other}, groups), Trace(reference.arrays, groups)) == []
