"""From a table to effects: an ensemble of two-head nets with the scales it was trained on."""

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float

from .balance import CFRLoss
from .hub.checks import check_choice, check_optimizer
from .hub.data import TreatmentData
from .hub.estimates import Estimates, Training, padded
from .hub.files import Ensemble, read_ensemble, write_ensemble
from .hub.overlap import feature_names
from .hub.preparation import gave_up, prepare, restarting, warn_user
from .losses import FactualLoss
from .optimizers import AdamW, Optimizer
from .training import fit, predict
from .two_head import TwoHead
from .weights import rebuild, to_numpy


class EffectModel(Estimates):
    """An ensemble of two-head nets that estimates effects, in the unit of the data.

    Twin: `flax_impl.EffectModel`, which holds a model and stacked parameters.

    Args:
        models: the nets.
        ensemble: its scales, columns and settings; the weights in it are not looked at.
        training: the losses, as `fit` returns them, and the held-out rows; None for a loaded one.

    Raises:
        ValueError: from its methods: another number of features than it was trained on, or values that are no finite
            numbers; an interval without at least 2 members trained on bootstrap rows.

    Example:
        >>> import torch_ref
        >>> data = torch_ref.synthetic(rows=80, features=4)
        >>> small = {"representation_features": [4], "head_features": [4], "members": 2, "steps": 3, "progress": False}
        >>> model = torch_ref.fit_effects(data, **small)
        >>> model.members, model.effect(data.x).shape
        (2, (80,))
        >>> model.ate(data.x) == float(model.effect(data.x).mean())
        True
    """

    def __init__(self, models: Sequence[TwoHead], ensemble: Ensemble, training: Training | None = None) -> None:
        super().__init__(ensemble, training)
        self.models = list(models)

    @property
    def members(self) -> int:
        """How many nets there are."""
        return len(self.models)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes nets, scales and columns to one safetensors file, which both packages read.

        Args:
            path: the file; one that is there already is replaced, and folders that are missing are made.

        Raises:
            OSError: the file cannot be written.
        """
        write_ensemble(path, self.ensemble._replace(weights=[to_numpy(model) for model in self.models]))

    def _outputs(self, x: Float[np.ndarray, "rows features"]) -> tuple[Any, Any]:
        each = [predict(model, x) for model in self.models]
        return np.stack([y0 for y0, _ in each]), np.stack([y1 for _, y1 in each])


def fit_effects(
    data: TreatmentData,
    *,
    binary: bool = False,
    representation_features: Sequence[int] = (100, 100, 100),
    head_features: Sequence[int] = (100, 100, 100, 100),
    activation: str = "gelu",
    optimizer: Optimizer = AdamW(lr=1e-3, weight_decay=2.0),
    reduction: Literal["per_head", "batch"] = "batch",
    cfr_weights: bool = False,
    balance: str | None = None,
    balance_weight: float = 1.0,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    validation_share: float = 0.2,
    patience: int | None = None,
    members: int = 5,
    bootstrap: bool = False,
    seed: int = 0,
    precision: str = "float32",
    dtype: str = "float32",
    progress: bool = True,
    process_group: dist.ProcessGroup | None = None,
) -> EffectModel:
    """Trains an ensemble of two-head nets on a table, one after the other, and returns what tells its effects.

    Features and outcome are standardised. A net that diverges starts again, once, with a tenth of the learning rate.

    Twin: `flax_impl.fit_effects`, which trains all nets at once.

    Args:
        data: the table; where it has weights `w`, they weigh the rows in the loss.
        binary: the outcome is 0 or 1, and effects are differences of probabilities.
        representation_features: width of each representation layer.
        head_features: width of each hidden layer of a head.
        activation: of the hidden layers.
        optimizer: settings of the optimiser.
        reduction: of the loss, see `FactualLoss`.
        cfr_weights: weighs the arms alike, see `treatment_weights`.
        balance: penalty on how far the arms' representations lie apart, see `CFRLoss`; None is none.
        balance_weight: its factor.
        epochs: how often a net sees its rows at most; None is 300, or as `steps` says.
        steps: how many steps a net takes at most.
        batch_size: rows in a batch; None is 100.
        validation_share: of each arm, held out from a net to judge it by; the best of its parameters are kept. 0 keeps
            the last.
        patience: epochs without a better loss on these rows, after which a net stops; None is 30, or as many as a
            thousand steps make, but at least 5.
        members: nets in the ensemble, each with first weights and held-out rows of its own.
        bootstrap: trains each net on rows drawn with replacement, so that their spread gives intervals.
        seed: of first weights, held-out rows and batches.
        precision: of the products, see `fit`.
        dtype: of the parameters, `"float32"` or `"float64"`.
        progress: shows a bar, or plain lines, once it takes long.
        process_group: processes to share the training, see `fit`.

    Returns:
        The ensemble; its `training` holds the losses and the held-out rows of each net.

    Raises:
        ValueError: values that are no finite numbers, an arm without rows, an outcome that is not binary, or an
            argument out of bounds.
        FloatingPointError: a net diverged, and once more with a tenth of the learning rate; the message names the step.
        ConnectionError: another process ended.

    Warns:
        UserWarning: arms with few rows, constant columns, features that determine the treatment; a net that diverged
            and was started again.

    Example:
        >>> import torch_ref
        >>> data = torch_ref.synthetic(rows=80, features=4)
        >>> small = {"representation_features": [4], "head_features": [4], "members": 2, "steps": 3, "progress": False}
        >>> model = fit_effects(data, bootstrap=True, **small)
        >>> low, high = model.effect_interval(data.x)
        >>> low.shape, bool((low <= high).all())
        ((80,), True)

    Source: TARNet and CFR; Shalit, Johansson, Sontag, "Estimating individual treatment effect", ICML 2017.
    """
    check_optimizer(optimizer, Optimizer)
    check_choice("dtype", dtype, ("float32", "float64"))
    prepared = prepare(
        data, binary=binary, cfr_weights=cfr_weights, epochs=epochs, steps=steps, batch_size=batch_size,
        patience=patience, members=members, validation_share=validation_share, bootstrap=bootstrap, seed=seed,
    )  # fmt: skip
    loss = _loss(binary, reduction, balance, balance_weight)
    train, held_out = prepared.rows
    settings = {"loss": loss, "precision": precision, "progress": progress, "process_group": process_group}
    models, losses = [], []
    for number in range(members):

        def trained(optimizer: Optimizer, number: int = number) -> tuple[TwoHead, np.ndarray]:
            torch.manual_seed(seed + number)
            model = TwoHead(
                data.x.shape[1],
                representation_features,
                head_features,
                activation=activation,
                final_activation="identity",
            ).to(getattr(torch, dtype))
            rows = {"rows": train[number], "validation_rows": None if held_out is None else held_out[number]}
            return model, fit(
                model, prepared.arrays, optimizer=optimizer, seed=seed + number, **rows, **settings, **prepared.settings
            )

        try:
            model, history = trained(optimizer)
        except FloatingPointError:
            slower = replace(optimizer, lr=optimizer.lr / 10)
            warn_user(restarting([number], slower.lr))
            try:
                model, history = trained(slower)
            except FloatingPointError as error:
                raise FloatingPointError(gave_up(number, slower.lr, str(error))) from error
        models.append(model)
        losses.append(history)
    ensemble = Ensemble(models[0].config, [], prepared.scales, feature_names(data), bootstrap, {})
    return EffectModel(models, ensemble, Training(padded(losses), held_out))


def load_effect_model(path: str | os.PathLike[str]) -> EffectModel:
    """Returns the ensemble that `EffectModel.save` wrote, in either framework.

    Twin: `flax_impl.load_effect_model`.

    Args:
        path: the file that `EffectModel.save` wrote.

    Returns:
        The ensemble; its `training` is None.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or holds something else.

    Example:
        >>> import tempfile
        >>> import torch_ref
        >>> data = torch_ref.synthetic(rows=80, features=4)
        >>> small = {"representation_features": [4], "head_features": [4], "members": 2, "steps": 3, "progress": False}
        >>> model = fit_effects(data, **small)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model.save(f"{folder}/effects.safetensors")
        ...     again = load_effect_model(f"{folder}/effects.safetensors")
        >>> again.ate(data.x) == model.ate(data.x)
        True
    """
    ensemble = read_ensemble(path)
    try:
        models = [rebuild(TwoHead, ensemble.config, weights) for weights in ensemble.weights]
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: {error}") from error
    return EffectModel(models, ensemble)


def _loss(binary: bool, reduction: Any, balance: str | None, balance_weight: float) -> FactualLoss:
    criterion = "sigmoid_binary_cross_entropy" if binary else "squared_error"
    if balance is None:
        return FactualLoss(criterion, reduction)
    return CFRLoss(criterion, reduction, balance=balance, balance_weight=balance_weight)
