"""Bad settings get one clear error, in the same words on both sides."""

from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flax_impl
import torch_ref
from flax_impl.commands.sides import FlaxSide, TorchSide
from tests.support.cases import same_error

PACKAGES = {"torch": torch_ref, "flax": flax_impl}

ACTIVATIONS = "'elu', 'gelu', 'identity', 'leaky_relu', 'relu', 'sigmoid', 'silu', 'tanh'"
MODELS = {
    "activation": ("TwoHead", {"activation": "rel"}, f"activation: expected one of {ACTIVATIONS}, got 'rel'"),
    "final_activation": (
        "TwoHead",
        {"final_activation": None},
        f"final_activation: expected one of {ACTIVATIONS}, got None",
    ),
    "code_activation": (
        "TwoInTwoOut",
        {"code_activation": 3},
        f"code_activation: expected one of {ACTIVATIONS}, got 3",
    ),
    "in_features": ("TwoHead", {"in_features": 0}, "in_features: expected a whole number of at least 1, got 0"),
    "out_features": ("TwoHead", {"out_features": 1.5}, "out_features: expected a whole number of at least 1, got 1.5"),
    "widths": ("TwoHead", {"head_features": [3, 0]}, "head_features: expected a whole number of at least 1, got 0"),
    "a width": (
        "TwoHead",
        {"representation_features": 3},
        "representation_features: expected a sequence of layer widths, got 3",
    ),
    "hidden": ("TwoInTwoOut", {"hidden_features": []}, "hidden_features: expected at least one layer, got none"),
    "MLP": ("models.MLP", {"features": "12"}, "features: expected a sequence of layer widths, got '12'"),
}


@pytest.mark.parametrize("case", MODELS)
def test_constructors(case: str) -> None:
    model, config, message = MODELS[case]
    first = {} if model == "TwoInTwoOut" else {"in_features": 3}

    def call(side: Any) -> None:
        attrgetter(model)(PACKAGES[side.backend])(**(first | config))

    assert same_error(ValueError, call) == message


OPTIMIZERS = {
    "head_weights": (
        lambda p: p.FactualLoss(head_weights=(1, -1)),
        "head_weights[1]: expected a finite number of at least 0, got -1",
    ),
    "output_weights": (lambda p: p.JointLoss(output_weights=2), "output_weights: expected two numbers, got 2"),
    "name": (
        lambda p: p.training.make_optimizer("adagrad"),
        "optimizer: expected one of 'adam', 'adamw', 'rmsprop', 'sgd', got 'adagrad'",
    ),
    "argument": (
        lambda p: p.training.make_optimizer("adam", momentum=0.9),
        "argument of adam: expected one of 'lr', 'clip_norm', 'schedule', 'average', 'betas', 'eps', "
        "'weight_decay', got 'momentum'",
    ),
    "schedule": (
        lambda p: p.training.make_schedule("linear"),
        "schedule: expected one of 'constant', 'cosine', 'exponential', 'step', got 'linear'",
    ),
    "schedule's argument": (
        lambda p: p.training.make_schedule("cosine", gamma=0.1),
        "argument of cosine: expected one of 'T_max', 'eta_min', got 'gamma'",
    ),
    "missing": (
        lambda p: p.training.make_schedule("step"),
        "step_size: expected a value, as step has no default for it, got none",
    ),
    "step_size": (
        lambda p: p.training.StepDecay(step_size=0),
        "step_size: expected a whole number of at least 1, got 0",
    ),
    "gamma": (lambda p: p.training.Exponential(gamma=0), "gamma: expected a finite number above 0, got 0"),
    "lr": (lambda p: p.Adam(lr=-1), "lr: expected a finite number of at least 0, got -1"),
    "lr text": (lambda p: p.Adam(lr="0.1"), "lr: expected a finite number of at least 0, got '0.1'"),
    "lr array": (lambda p: p.Adam(lr=np.array(-1.0)), "lr: expected a finite number of at least 0, got array(-1.)"),
    "lr bool": (lambda p: p.Adam(lr=True), "lr: expected a finite number of at least 0, got True"),
    "lr huge": (lambda p: p.Adam(lr=1e300), "lr: expected a finite number of at least 0, got 1e+300"),
    "lr digits": (lambda p: p.Adam(lr=10**400), "lr: expected a finite number of at least 0, got 1" + 79 * "0" + "…"),
    "dampening": (lambda p: p.SGD(dampening=None), "dampening: expected a finite number, got None"),
    "alpha": (lambda p: p.RMSprop(alpha=1), "alpha: expected a finite number of at least 0 and below 1, got 1"),
    "one beta": (lambda p: p.Adam(betas=(0.9,)), "betas: expected two numbers, got (0.9,)"),
    "no betas": (lambda p: p.Adam(betas=0.9), "betas: expected two numbers, got 0.9"),
    "schedule text": (
        lambda p: p.Adam(schedule="cosine"),
        "schedule: expected a schedule such as Constant(), got 'cosine'",
    ),
    "step_size huge": (
        lambda p: p.training.StepDecay(step_size=2**32),
        "step_size: expected a whole number of at most 2147483647, got 4294967296",
    ),
    "constant's argument": (
        lambda p: p.training.make_schedule("constant", gamma=0.1),
        "argument of constant: expected none, got 'gamma'",
    ),
    "lr NaN": (lambda p: p.Adam(lr=float("nan")), "lr: expected a finite number of at least 0, got nan"),
    "betas": (
        lambda p: p.Adam(betas=(0.9, 1.0)),
        "betas[1]: expected a finite number of at least 0 and below 1, got 1.0",
    ),
    "clip_norm": (lambda p: p.SGD(clip_norm=0), "clip_norm: expected a finite number above 0, got 0"),
    "nesterov": (
        lambda p: p.SGD(nesterov=True),
        "nesterov: expected a momentum above 0 and no dampening, got momentum=0.0 and dampening=0.0",
    ),
    "criterion": (
        lambda p: p.FactualLoss("mse"),
        "criterion: expected one of 'sigmoid_binary_cross_entropy', 'squared_error', got 'mse'",
    ),
    "reduction": (
        lambda p: p.FactualLoss(reduction="sum"),
        "reduction: expected one of 'per_head', 'batch', got 'sum'",
    ),
    "share": (
        lambda p: p.data.treatment_weights(np.ones(3)),
        "treated_share: expected a finite number above 0 and below 1, got 1.0",
    ),
    "no rows": (
        lambda p: p.data.Scales.of(p.data.synthetic().take(np.arange(0))),
        "data: expected at least one row, got an empty batch",
    ),
}


@pytest.mark.parametrize("case", OPTIMIZERS)
def test_settings(case: str) -> None:
    call, message = OPTIMIZERS[case]
    assert same_error(ValueError, lambda side: call(PACKAGES[side.backend])) == message


def test_numpy_numbers_as_settings(tmp_path: Path) -> None:
    for side in (TorchSide, FlaxSide):
        made = side("TwoHead", {"in_features": np.int64(3), "head_features": [np.int32(4)]})
        made.save(tmp_path / "model.safetensors")
        assert made.package.TwoInTwoOut(hidden_features=np.int64(7)).hidden_features == (7, 7)
        assert made.package.Adam(lr=np.float32(0.5), betas=[0, np.float32(0.5)]) == made.package.Adam(
            lr=0.5, betas=(0.0, 0.5)
        )
