"""The two-head and the two-input/two-output model in plain PyTorch: the reference that `flax_impl` is proved against.

Twin: `flax_impl` has the same files and the same public names.

- `two_head`, `two_in_two_out`: the models. `layers`: what they are made of.
- `losses`: what a training minimises. `optimizers`, `schedules`: how. `training`: `train_step`, `fit`, `predict`, which
  compute in a `precision`. `sharding`: one training over several processes.
- `weights`: to and from numpy under torch's names, and safetensors files.
- `effect_model`: from a table to effects, an ensemble of nets; `effects`: how good estimated effects are. `stopping`:
  early stopping. `balance`: the losses of CFR.
- `record`: runs a model and writes down everything, a trace, to hold a port against; it sees through `capture`,
  takes `steps`, and measures their `noise`.
- `hub`: what both packages share, in numpy only: data, batches, checks, files, traces, progress.
"""

try:
    import torch  # noqa: F401
except ImportError as error:
    raise ImportError("torch_ref needs PyTorch: pip install 'twohead[torch]'") from error

from .balance import BALANCES, CFRLoss, linear_mmd, rbf_mmd, wasserstein
from .effect_model import EffectModel, fit_effects, load_effect_model
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
from .schedules import SCHEDULES, Constant, Cosine, Exponential, Schedule, Step, make_schedule
from .sharding import initialize_distributed
from .training import fit, predict, train_step
from .two_head import TwoHead
from .two_in_two_out import TwoInTwoOut
from .weights import from_numpy, load_model, save_model, to_numpy

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
    "TwoInTwoOut",
    "ate_error",
    "curves",
    "effect_figures",
    "fit",
    "fit_effects",
    "from_numpy",
    "initialize_distributed",
    "linear_mmd",
    "load_curves",
    "load_data",
    "load_effect_model",
    "load_features",
    "load_model",
    "load_trace",
    "make_optimizer",
    "make_schedule",
    "predict",
    "propensity",
    "qini_coefficient",
    "qini_curve",
    "rbf_mmd",
    "record",
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
