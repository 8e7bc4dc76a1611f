"""The two-head and the two-input/two-output model in Flax: pure functions, jitted, the head picked with `jnp.where`.

Twin: `torch_ref` has the same files and the same public names.

- `two_head`, `two_in_two_out`: the models, in Linen; `nnx`: the same as NNX modules. `layers`: what they are made of.
- `losses`: what a training minimises. `optimizers`, `schedules`: how. `training`: `train_step`, `fit`, `predict`, which
  take a model as something `functional`, are `compiled`, run in `loops` and compute in a `precision`.
- `replicas`: many trainings at once (`replica_runs`). `sharding`: one over many devices and hosts.
- `weights`: to and from numpy under torch's names, and safetensors files.
- `effect_model`: from a table to effects, an ensemble of nets; `estimator`: the same for scikit-learn; `effects`: how
  good estimated effects are. `stopping`: early stopping inside the loop. `balance`: the losses of CFR.
- `record`: runs a model and writes down everything, a trace; it sees through `capture`, compiles in `programs`, and
  knows optax's `moments`. `replay`: `check_parity` runs a port through its reference's training, and names the cause
  where they part.
- `hub`: what both packages share, in numpy only: data, batches, checks, files, traces, progress.
- `parity`: compares two traces, finds the first divergence, names the cause and shows it, in numpy only.
"""

from typing import TYPE_CHECKING, Any

try:
    import jax  # noqa: F401
except ImportError as error:
    # `flax_impl.parity` and `flax_impl.hub` work where there is numpy only; the rest says what it needs.
    _missing = error

    def __getattr__(name: str) -> Any:
        if name in __all__:
            raise ImportError("flax_impl needs JAX: pip install 'twohead'") from _missing
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

else:
    from . import nnx
    from .balance import BALANCES, CFRLoss, linear_mmd, rbf_mmd, wasserstein
    from .compiled import cache_compilations
    from .effect_model import EffectModel, fit_effects, fit_effects_each, load_effect_model
    from .effects import ate_error, sqrt_pehe
    from .hub.data import Scales, TreatmentData, treatment_weights
    from .hub.effect_plots import effect_figures
    from .hub.effect_report import EffectReport
    from .hub.overlap import propensity
    from .hub.simulation import curves, synthetic
    from .hub.sources import load_curves, load_data, load_features
    from .hub.trace import Trace, load_trace
    from .hub.uplift import qini_coefficient, qini_curve
    from .layers import ACTIVATIONS, MLP
    from .losses import CRITERIA, FactualLoss, JointLoss, sigmoid_binary_cross_entropy, squared_error
    from .optimizers import OPTIMIZERS, SGD, Adam, AdamW, Optimizer, RMSprop, make_optimizer
    from .record import record
    from .replay import check_parity, map_weights, replay
    from .replicas import fit_replicas, predict_replicas
    from .schedules import SCHEDULES, Constant, Cosine, Exponential, Schedule, Step, make_schedule
    from .sharding import initialize_distributed, make_mesh
    from .training import fit, predict, train_step
    from .two_head import TwoHead
    from .two_in_two_out import TwoInTwoOut
    from .weights import from_numpy, load_model, save_model, to_numpy

    if TYPE_CHECKING:
        from .estimator import TwoHeadEstimator

    def __getattr__(name: str) -> Any:
        if name == "TwoHeadEstimator":  # scikit-learn is an extra, and takes a second to import
            from .estimator import TwoHeadEstimator

            return TwoHeadEstimator
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "ACTIVATIONS",
    "BALANCES",
    "CRITERIA",
    "MLP",
    "OPTIMIZERS",
    "SCHEDULES",
    "SGD",
    "Adam",
    "AdamW",
    "CFRLoss",
    "Constant",
    "Cosine",
    "EffectModel",
    "EffectReport",
    "Exponential",
    "FactualLoss",
    "JointLoss",
    "Optimizer",
    "RMSprop",
    "Scales",
    "Schedule",
    "Step",
    "Trace",
    "TreatmentData",
    "TwoHead",
    "TwoHeadEstimator",
    "TwoInTwoOut",
    "ate_error",
    "cache_compilations",
    "check_parity",
    "curves",
    "effect_figures",
    "fit",
    "fit_effects",
    "fit_effects_each",
    "fit_replicas",
    "from_numpy",
    "initialize_distributed",
    "linear_mmd",
    "load_curves",
    "load_data",
    "load_effect_model",
    "load_features",
    "load_model",
    "load_trace",
    "make_mesh",
    "make_optimizer",
    "make_schedule",
    "map_weights",
    "nnx",
    "predict",
    "predict_replicas",
    "propensity",
    "qini_coefficient",
    "qini_curve",
    "rbf_mmd",
    "record",
    "replay",
    "save_model",
    "sigmoid_binary_cross_entropy",
    "sqrt_pehe",
    "squared_error",
    "synthetic",
    "to_numpy",
    "train_step",
    "treatment_weights",
    "wasserstein",
]
