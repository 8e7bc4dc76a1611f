"""Effects by nets of the reference: a single net trained in torch, and the nets of a file run in torch."""

import os
from typing import Any

import numpy as np
from jaxtyping import Float

from torch_ref.common.data.treatment_data import TreatmentData

from ..effects.effect_model import EffectModel
from ..effects.ensemble_file import Ensemble, read_ensemble
from ..effects.learners.training_record import TrainingRecord
from ..effects.overlap import feature_names
from ..effects.prepare import Preparation, net_config, net_loss, prepare_alike
from ..effects.settings import EffectSettings
from ..effects.streams.prepare import StreamedPreparation
from .sides import TorchSide


def fit_net(data: TreatmentData, settings: EffectSettings, **shared: Any) -> EffectModel:
    """Trains one net in torch on a table, and returns an ensemble of this net.

    Args:
        data: the table.
        settings: with `members=1`.
        shared: arguments of `torch_ref.fit` that share the training with other processes.

    Raises:
        ValueError: as `fit_effects`.
        FloatingPointError: the net diverged.
    """
    [prepared] = prepare_alike([data], settings)
    train, held_out = prepared.rows
    side, losses = _train(prepared, prepared.arrays, settings, len(data.arms), held_out, rows=train[0], **shared)
    ensemble = Ensemble(
        side.model.config, [side.weights()], prepared.scales, prepared.encoding, feature_names(data),
        settings.bootstrap, {}, arms=data.arms, design=prepared.design,
    )  # fmt: skip
    return effect_model(ensemble, TrainingRecord(losses[None], held_out))


def train_streamed_net(prepared: StreamedPreparation, settings: EffectSettings, **shared: Any) -> EffectModel:
    """Trains one net in torch on a table that is read meanwhile; as `fit_net`.

    Args:
        prepared: what it trains on.
        settings: with `members=1`.
        shared: as for `fit_net`.

    Raises:
        ValueError: as `fit_effects_streamed`.
        FloatingPointError: the net diverged.
    """
    arms, held_out = len(prepared.arms), prepared.held_out
    side, losses = _train(prepared.prepared, prepared.table, settings, arms, held_out, **shared)
    ensemble = prepared.ensemble(side.model.config, [side.weights()])
    return effect_model(ensemble, TrainingRecord(losses[None], held_out))


def _train(
    prepared: Preparation, data: Any, settings: EffectSettings, arms: int, held_out: np.ndarray | None, **asked: Any
) -> tuple[TorchSide, np.ndarray]:
    """Returns a trained net, and its losses."""
    side = TorchSide("TwoHead", net_config(prepared, settings, arms), seed=settings.seed, dtype=settings.dtype)
    kind, arguments = net_loss(settings, arms)
    losses = side.fit(
        data, optimizer=settings.optimizer, loss=getattr(side.package, kind)(**arguments), seed=settings.seed,
        precision=settings.precision, validation_rows=None if held_out is None else held_out[0], **prepared.lengths,
        **asked,
    )  # fmt: skip
    return side, losses


def load_nets(path: str | os.PathLike[str]) -> EffectModel:
    """Returns the ensemble in a file, whose nets run in torch.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or holds something else.
    """
    ensemble = read_ensemble(path)
    try:
        return effect_model(ensemble, None)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: {error}") from error


def effect_model(ensemble: Ensemble, training: TrainingRecord | None) -> EffectModel:
    """Returns the effect model of an ensemble, whose nets run in torch."""
    nets = [TorchSide("TwoHead", ensemble.config, weights=weights) for weights in ensemble.weights]

    def outputs(x: Float[np.ndarray, "rows features"]) -> tuple[np.ndarray, ...]:
        each = [net.predict(x) for net in nets]
        return tuple(map(np.stack, zip(*each, strict=True)))

    def targets(x: Float[np.ndarray, "rows columns"]) -> tuple[np.ndarray, np.ndarray]:
        each = [net.propensity(x) for net in nets]
        return np.stack([logit for logit, _ in each]), np.array([epsilon for _, epsilon in each])

    return EffectModel(ensemble, outputs, training, targets if ensemble.config.get("propensity_head") else None)
