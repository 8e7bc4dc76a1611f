"""Trains an ensemble of two-head nets on a table, and returns the model that estimates effects."""

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float, Int

try:
    import jax
    import jax.numpy as jnp
    from jax.sharding import Mesh
except ImportError as error:
    raise ImportError("flax_impl needs jax: pip install 'twohead[jax]'") from error

from torch_ref.common.checks.arguments import check_choice
from torch_ref.common.cores import count_cores
from torch_ref.common.data.treatment_data import TreatmentData
from torch_ref.common.settings.optimizers import Optimizer

from ..models.layers import Params
from ..models.two_head import TwoHead
from ..models.weights import rebuild, to_numpy
from ..training.balance import CFRLoss
from ..training.checkpoints.stages import Stages, in_stages
from ..training.losses import FactualLoss
from ..training.plan import make_plan
from ..training.precision import PRECISIONS
from ..training.predict import predict_replicas
from ..training.replicas.fit import train_replicas
from ..training.targeted import TargetedLoss
from .effect_model import EffectModel
from .ensemble_file import Ensemble, read_ensemble
from .intervals.calibrated import calibrate
from .intervals.held_out import in_held_out
from .learners.kept_blend import keep_blend
from .learners.second_try import Trained, train_all_twice
from .learners.training_record import TrainingRecord
from .overlap import feature_names
from .prepare import check_table, net_config, net_loss, prepare_alike, stack_rows, warn_user
from .settings import EffectSettings

LOSSES: dict[str, type[FactualLoss]] = {"CFRLoss": CFRLoss, "FactualLoss": FactualLoss, "TargetedLoss": TargetedLoss}
_FEWEST = 4  # rows of an arm that intervals are calibrated with


def fit_effects(
    data: TreatmentData,
    settings: EffectSettings = EffectSettings(),
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    every: int | None = None,
    progress: bool = True,
    mesh: Mesh | None = None,
) -> EffectModel:
    """Trains an ensemble of two-head nets on a table, all members at once.

    Features and outcome are standardised. A net that diverges starts again, once, with a tenth of the learning rate.

    Args:
        data: the table; where it has weights `w`, they weigh the rows in the loss.
        settings: of the nets and their training.
        checkpoint: a folder of its own for this training, with a folder for each stage: `nets`, `nets-again` for those
            that diverged, `trees`, and `calibration` for the second ensemble. The same call goes on from the last good
            checkpoint, to the same result; a finished training returns soon. None keeps none.
        every: steps of a net between two checkpoints; None lets a clock say when, as for `fit_replicas`.
        progress: shows a bar, or plain lines, once it takes long.
        mesh: devices to share the training, see `make_mesh`.

    Returns:
        The ensemble; its `training` holds the losses and the held-out rows of each net.

    Raises:
        ValueError: values that are no finite numbers, an arm without rows, an outcome that is not binary, or a setting
            out of bounds; checkpoints of another training, or a folder that another process trains in.
        OSError: a checkpoint cannot be written; those before it are whole.
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
    [model] = fit_effects_each([data], settings, checkpoint=checkpoint, every=every, progress=progress, mesh=mesh)
    return model


def fit_effects_each(
    datas: Sequence[TreatmentData],
    settings: EffectSettings = EffectSettings(),
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    every: int | None = None,
    progress: bool = True,
    mesh: Mesh | None = None,
) -> list[EffectModel]:
    """Trains an ensemble for each of many tables of one shape, all nets of all tables at once.

    All tables share one program, so a table whose arms are larger than another's gives up a few rows.

    Args:
        datas: the tables, with as many rows and features in each: the replications of a benchmark, or bootstraps.
        settings: as for `fit_effects`.
        checkpoint: as for `fit_effects`; of several tables, each has folders `table-0` and so on for its later stages.
        every: as for `fit_effects`.
        progress: as for `fit_effects`.
        mesh: as for `fit_effects`.

    Returns:
        An ensemble for each table, in their order.

    Raises:
        ValueError: as `fit_effects`; tables of other shapes.
        OSError: as `fit_effects`.
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
    check_machine(settings)
    with in_stages(checkpoint, every, mesh, "net-*") as stages:
        return _fit_each(datas, settings, stages, progress)


def _fit_each(
    datas: Sequence[TreatmentData], settings: EffectSettings, stages: Stages, progress: bool
) -> list[EffectModel]:
    prepared = prepare_alike(datas, settings)
    members, first = settings.members, prepared[0]
    rows = stack_rows([one.rows.train for one in prepared])
    held_out = None
    if first.rows.validation is not None:
        held_out = stack_rows([one.rows.validation for one in prepared if one.rows.validation is not None])
    arms = len(datas[0].arms)
    kind, arguments = net_loss(settings, arms)
    loss = LOSSES[kind](**arguments)
    model = TwoHead(**net_config(first, settings, arms))
    start = model.init_params(range(settings.seed, settings.seed + members))
    # In numpy, which compiles nothing for each shape.
    start = jax.tree.map(lambda leaf: np.concatenate([np.asarray(leaf, settings.dtype)] * len(datas)), start)

    def train(nets: Int[np.ndarray, " nets"], optimizer: Optimizer, stage: str) -> Trained:
        plans = [
            make_plan(
                model, prepared[n // members].arrays, optimizer=optimizer, loss=loss, rows=rows[n],
                validation_rows=None if held_out is None else held_out[n], seed=settings.seed + int(n % members),
                precision=settings.precision, **first.lengths,
            )
            for n in nets
        ]  # fmt: skip
        params = jax.tree.map(lambda leaf: leaf[nets], start)
        kept = {"folder": stages.of(stage), "every": stages.every, "mesh": stages.mesh}
        return train_replicas(plans, params, keep_diverged=True, progress=progress, **kept)

    params, losses = train_all_twice(train, len(rows), settings.optimizer, watched=held_out is not None)
    weights = _weights_of_each(params)
    models = []
    for number, (data, one) in enumerate(zip(datas, prepared, strict=True)):
        own = slice(number * members, (number + 1) * members)
        ensemble = Ensemble(
            model.config, weights[own], one.scales, one.encoding, feature_names(data), settings.bootstrap, {},
            arms=data.arms, design=one.design,
        )  # fmt: skip
        training = TrainingRecord(losses[own], None if held_out is None else held_out[own])
        of_table = jax.tree.map(lambda leaf, own=own: leaf[own], params)
        made = EffectModel(ensemble, partial(predict_replicas, model, of_table), training, _targets(model, of_table))
        own_stages = stages if len(datas) == 1 else replace(stages, folder=stages.of(f"table-{number}"))
        made = _with_trees(made, data, settings, own_stages) if "trees" in settings.learners else made
        models.append(_calibrated(made, data, settings, own_stages, progress) if settings.calibrate else made)
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
        ImportError: there are trees in it, and CatBoost is not installed; the message names the extra.

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
        return run_ensemble(ensemble)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: {error}") from error


def run_ensemble(ensemble: Ensemble, training: TrainingRecord | None = None) -> EffectModel:
    """Returns the model of an ensemble, whose nets run in JAX; raises what `TwoHead` does for weights that do not fit.

    Args:
        ensemble: the nets' weights and scales.
        training: how they were trained, or None.
    """
    nets = [rebuild(TwoHead, ensemble.config, weights) for weights in ensemble.weights]
    params = jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *(params for _, params in nets))
    outputs = partial(predict_replicas, nets[0][0], params)
    return EffectModel(ensemble, outputs, training, _targets(nets[0][0], params))


def check_machine(settings: EffectSettings) -> None:
    """Raises ValueError for a precision or a dtype that JAX does not compute in now."""
    check_choice("precision", settings.precision, PRECISIONS)
    if jax.dtypes.canonicalize_dtype(settings.dtype) != settings.dtype:
        raise ValueError("dtype: expected float32 while JAX's 64-bit mode is off, got float64; turn on jax_enable_x64")


def _with_trees(model: EffectModel, data: TreatmentData, settings: EffectSettings, stages: Stages) -> EffectModel:
    """Returns the model with trees beside its nets."""
    data = check_table(data)
    of_nets = model.cross_fit(data)
    blend, found = keep_blend(
        stages, data, of_nets, scales=model.ensemble.finite_scales, seed=settings.seed, threads=count_cores()
    )
    assert model.training is not None
    training = model.training._replace(cross_fit=found)
    return EffectModel(model.ensemble._replace(blend=blend), model.outputs, training, model.targets)


def _calibrated(
    model: EffectModel, data: TreatmentData, settings: EffectSettings, stages: Stages, progress: bool
) -> EffectModel:
    """Returns the model with calibrated intervals, by a second ensemble on half the rows."""
    fewest = int(np.bincount(data.t, minlength=len(data.arms)).min())
    if fewest < _FEWEST:
        warn_user(f"intervals are not calibrated: half of an arm of {fewest} rows says nothing")
        return model

    def refit(half: Int[np.ndarray, " half"]) -> Float[np.ndarray, "arms members rows"]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of the whole table they were said
            halved = fit_effects(
                data.take(half), replace(settings, calibrate=False), checkpoint=stages.of("calibration"),
                every=stages.every, progress=progress, mesh=stages.mesh,
            )  # fmt: skip
        return halved.joint_outcomes(data.x)

    assert model.training is not None
    members, held_out = model.joint_outcomes(data.x), model.training.held_out
    unseen = np.zeros((model.members, len(data)), bool) if held_out is None else in_held_out(held_out, len(data))
    t, y = np.asarray(data.t), np.asarray(data.y, float)[:, 0]
    found = calibrate(members, unseen, t, y, refit, seed=settings.seed)
    return EffectModel(model.ensemble._replace(calibration=found), model.outputs, model.training, model.targets)


def _targets(model: TwoHead, params: Params) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]] | None:
    """Returns what runs the nets' propensity heads: gives logits [members, rows] and epsilons [members]."""
    if not model.propensity_head:
        return None

    @jax.jit
    def run(params: Params, x: Any) -> Any:
        return jax.vmap(lambda one: model.apply({"params": one}, x, return_propensity=True))(params)

    def targets(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        *_, (logit, epsilon) = run(params, x.astype(jax.tree.leaves(params)[0].dtype))
        return np.asarray(logit, float), np.asarray(epsilon, float)[:, 0]

    return targets


def _weights_of_each(params: Params) -> list[dict[str, np.ndarray]]:
    """Returns each net's weights by torch's names, from stacked parameters."""
    params = jax.tree.map(np.asarray, params)
    return [to_numpy(jax.tree.map(lambda leaf, n=n: leaf[n], params)) for n in range(len(jax.tree.leaves(params)[0]))]
