"""Trains an ensemble of two-head nets on a table, and returns what tells its effects."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from torch_ref.common.checks.arguments import check_choice, listed
from torch_ref.common.checks.divergence import check_losses
from torch_ref.common.data.treatment_data import TreatmentData
from torch_ref.common.settings.optimizers import Optimizer

from ..models.layers import Params
from ..models.two_head import TwoHead
from ..models.weights import rebuild, to_numpy
from ..training.balance import CFRLoss
from ..training.losses import FactualLoss
from ..training.plan import make_plan
from ..training.precision import PRECISIONS
from ..training.predict import predict_replicas
from ..training.replicas.fit import train_replicas
from ..training.replicas.per_core import stack_losses
from .effect_model import EffectModel, TrainingRecord
from .ensemble_file import Ensemble, read_ensemble
from .overlap import feature_names
from .prepare import prepare, stack_rows, warn_user
from .settings import EffectSettings


def fit_effects(
    data: TreatmentData, settings: EffectSettings = EffectSettings(), *, progress: bool = True, mesh: Mesh | None = None
) -> EffectModel:
    """Trains an ensemble of two-head nets on a table, all members at once, and returns what tells its effects.

    Features and outcome are standardised. A net that diverges starts again, once, with a tenth of the learning rate.

    Args:
        data: the table; where it has weights `w`, they weigh the rows in the loss.
        settings: of the nets and their training.
        progress: shows a bar, or plain lines, once it takes long.
        mesh: devices to share the training, see `make_mesh`.

    Returns:
        The ensemble; its `training` holds the losses and the held-out rows of each net.

    Raises:
        ValueError: values that are no finite numbers, an arm without rows, an outcome that is not binary, or a setting
            out of bounds.
        FloatingPointError: a net diverged, and once more with a tenth of the learning rate; the message names the step.
        ConnectionError: another process ended.

    Warns:
        UserWarning: arms with few rows, constant columns, features that determine the treatment; a net that diverged
            and was started again.

    Example:
        >>> from flax_impl.data import synthetic
        >>> data = synthetic(rows=80, features=4)
        >>> small = EffectSettings(representation_features=[4], head_features=[4], members=2, steps=3, bootstrap=True)
        >>> low, high = fit_effects(data, small, progress=False).effect_interval(data.x)
        >>> low.shape, bool((low <= high).all())
        ((80,), True)

    Source: TARNet and CFR; Shalit, Johansson, Sontag, "Estimating individual treatment effect", ICML 2017.
    """
    return fit_effects_each([data], settings, progress=progress, mesh=mesh)[0]


def fit_effects_each(
    datas: Sequence[TreatmentData],
    settings: EffectSettings = EffectSettings(),
    *,
    progress: bool = True,
    mesh: Mesh | None = None,
) -> list[EffectModel]:
    """Does for many tables of one shape what `fit_effects` does for one, and trains all nets of all of them at once.

    So that one program does for all, a table whose arms are larger than another's gives up a few rows.

    Args:
        datas: the tables, with as many rows and features in each: the replications of a benchmark, or bootstraps.
        settings: as for `fit_effects`.
        progress: as for `fit_effects`.
        mesh: as for `fit_effects`.

    Returns:
        An ensemble for each table, in their order.

    Raises:
        ValueError: as `fit_effects`; tables of other shapes.
        FloatingPointError: as `fit_effects`; nets are numbered through, table by table.

    Example:
        >>> from flax_impl.data import synthetic
        >>> datas = [synthetic(rows=80, features=4, seed=seed) for seed in range(2)]
        >>> small = EffectSettings(representation_features=[4], head_features=[4], members=2, steps=3)
        >>> [model.members for model in fit_effects_each(datas, small, progress=False)]
        [2, 2]
    """
    if not len(datas):
        raise ValueError("datas: expected at least one table, got none")
    check_choice("precision", settings.precision, PRECISIONS)
    if jax.dtypes.canonicalize_dtype(settings.dtype) != settings.dtype:
        raise ValueError("dtype: expected float32 while JAX's 64-bit mode is off, got float64; turn on jax_enable_x64")
    prepared = [prepare(data, settings) for data in datas]
    shapes = {one.arrays["x"].shape for one in prepared}
    if len(shapes) > 1:
        got = listed(sorted({str(list(shape)) for shape in shapes}))
        raise ValueError(f"datas: expected as many rows and features in each table, got x of {got}")
    members, first = settings.members, prepared[0]
    held_out = None
    if first.rows.validation is not None:
        held_out = stack_rows([one.rows.validation for one in prepared if one.rows.validation is not None])
    model = TwoHead(
        first.arrays["x"].shape[1], settings.representation_features, settings.head_features,
        activation=settings.activation, final_activation="identity",
    )  # fmt: skip
    start = model.init_params(range(settings.seed, settings.seed + members))
    nets = _Nets(
        model=model,
        start=jax.tree.map(lambda leaf: jnp.concatenate([leaf.astype(settings.dtype)] * len(datas)), start),
        tables=[one.arrays for one in prepared for _ in range(members)],
        seeds=[settings.seed + number for _ in datas for number in range(members)],
        train=stack_rows([one.rows.train for one in prepared]),
        held_out=held_out,
        loss=_loss(settings),
        lengths=first.lengths,
        precision=settings.precision,
        progress=progress,
        mesh=mesh,
    )
    params, losses = nets.fit_twice(settings.optimizer)
    weights = _weights_of_each(params)
    models = []
    for number, (data, one) in enumerate(zip(datas, prepared, strict=True)):
        own = slice(number * members, (number + 1) * members)
        ensemble = Ensemble(model.config, weights[own], one.scales, feature_names(data), settings.bootstrap, {})
        training = TrainingRecord(losses[own], None if held_out is None else held_out[own])
        of_table = jax.tree.map(lambda leaf, own=own: leaf[own], params)
        models.append(EffectModel(ensemble, partial(predict_replicas, model, of_table), training))
    return models


def load_effect_model(path: str | os.PathLike[str]) -> EffectModel:
    """Returns the ensemble that `EffectModel.save` wrote.

    Args:
        path: the file that `EffectModel.save` wrote.

    Returns:
        The ensemble; its `training` is None.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or holds something else.

    Example:
        >>> import tempfile
        >>> from flax_impl.data import synthetic
        >>> data = synthetic(rows=80, features=4)
        >>> small = EffectSettings(representation_features=[4], head_features=[4], members=2, steps=3)
        >>> model = fit_effects(data, small, progress=False)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model.save(f"{folder}/effects.safetensors")
        ...     again = load_effect_model(f"{folder}/effects.safetensors")
        >>> again.ate(data.x) == model.ate(data.x)
        True
    """
    ensemble = read_ensemble(path)
    try:
        nets = [rebuild(TwoHead, ensemble.config, weights) for weights in ensemble.weights]
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: {error}") from error
    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(params for _, params in nets))
    return EffectModel(ensemble, partial(predict_replicas, nets[0][0], params))


@dataclass(frozen=True)
class _Nets:
    """The nets of all tables: lists and first axes have an entry for each."""

    model: TwoHead
    start: Params
    tables: list[dict[str, np.ndarray]]
    seeds: list[int]
    train: Int[np.ndarray, "nets rows"]
    held_out: Int[np.ndarray, "nets held_out"] | None
    loss: FactualLoss
    lengths: dict[str, Any]
    precision: str
    progress: bool
    mesh: Mesh | None

    def fit(
        self, which: Int[np.ndarray, " some"], optimizer: Optimizer
    ) -> tuple[Params, Float[np.ndarray, "some steps columns"]]:
        """Trains the nets of these numbers; one that diverged has parameters that are NaN."""
        plans = [
            make_plan(
                self.model, self.tables[n], optimizer=optimizer, loss=self.loss, rows=self.train[n], seed=self.seeds[n],
                validation_rows=None if self.held_out is None else self.held_out[n], precision=self.precision,
                **self.lengths,
            )
            for n in which
        ]  # fmt: skip
        params = jax.tree.map(lambda leaf: leaf[which], self.start)
        return train_replicas(plans, params, keep_diverged=True, progress=self.progress, mesh=self.mesh)

    def fit_twice(self, optimizer: Optimizer) -> tuple[Params, Float[np.ndarray, "nets steps columns"]]:
        """Trains all nets, and those that diverge once more, with a tenth of the learning rate."""
        params, losses = self.fit(np.arange(len(self.seeds)), optimizer)
        failed = _diverged(params)
        if not len(failed):
            return params, losses
        slower = replace(optimizer, lr=optimizer.lr / 10)
        warn_user(f"net {listed(failed)} diverged and starts again, with lr={slower.lr:g}")
        again, histories = self.fit(failed, slower)
        if len(still := _diverged(again)):
            number, history = int(failed[still[0]]), histories[still[0]]
            why = _reason(history if self.held_out is None else history[:, :-1])
            raise FloatingPointError(f"net {number} diverged, and again with lr={slower.lr:g}: {why}")
        params = jax.tree.map(lambda leaf, other: leaf.at[failed].set(other), params, again)
        kept = dict(zip(failed.tolist(), histories, strict=True))
        return params, stack_losses([kept.get(number, history) for number, history in enumerate(losses)])


def _weights_of_each(params: Params) -> list[dict[str, np.ndarray]]:
    """Returns each net's weights by torch's names, from stacked parameters."""
    params = jax.tree.map(np.asarray, params)
    return [to_numpy(jax.tree.map(lambda leaf, n=n: leaf[n], params)) for n in range(len(jax.tree.leaves(params)[0]))]


def _diverged(params: Params) -> np.ndarray:
    """Returns the numbers of the nets whose parameters are not finite."""
    finite = [np.isfinite(leaf).reshape(len(leaf), -1).all(axis=1) for leaf in map(np.asarray, jax.tree.leaves(params))]
    return np.flatnonzero(~np.all(finite, axis=0))


def _reason(parts: Float[np.ndarray, "steps parts"]) -> str:
    """Returns why a net diverged, in the words of `fit`."""
    try:
        check_losses(parts, 0, len(parts))
    except FloatingPointError as error:
        return str(error)
    return "its weights, or the loss on the held-out rows, are not finite"


def _loss(settings: EffectSettings) -> FactualLoss:
    criterion = "sigmoid_binary_cross_entropy" if settings.binary else "squared_error"
    if settings.balance is None:
        return FactualLoss(criterion, settings.reduction)
    balance, weight = settings.balance, settings.balance_weight
    return CFRLoss(criterion, settings.reduction, balance=balance, balance_weight=weight)
