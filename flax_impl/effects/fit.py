"""From a table to effects: an ensemble of two-head nets with the scales it was trained on."""

import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from torch_ref.common.checks.arguments import check_choice
from torch_ref.common.checks.divergence import check_losses
from torch_ref.common.data.treatment_data import TreatmentData
from torch_ref.common.settings.optimizers import AdamW, Optimizer, check_optimizer

from ..models.layers import Params
from ..models.two_head import TwoHead
from ..models.weights import rebuild, to_numpy
from ..training.balance import CFRLoss
from ..training.losses import FactualLoss
from ..training.predict import predict_replicas
from ..training.replicas.fit import fit_replicas
from .ensemble_file import Ensemble, read_ensemble, write_ensemble
from .estimates import Estimates, Training, padded
from .overlap import feature_names
from .prepare import PREPARED, alike, gave_up, prepare, restarting, warn_user


class EffectModel(Estimates):
    """An ensemble of two-head nets that estimates effects, in the unit of the data.

    Twin: `flax_impl.effects.EffectModel`, which holds a list of nets.

    Args:
        model: what each net is.
        params: of all nets, stacked.
        ensemble: its scales, columns and settings; the weights in it are not looked at.
        training: the losses, as `fit_replicas` returns them, and the held-out rows; None for a loaded one.

    Raises:
        ValueError: from its methods: another number of features than it was trained on, or values that are no finite
            numbers; an interval without at least 2 members trained on bootstrap rows.

    Example:
        >>> import flax_impl
        >>> data = flax_impl.data.synthetic(rows=80, features=4)
        >>> small = {"representation_features": [4], "head_features": [4], "members": 2, "steps": 3, "progress": False}
        >>> model = flax_impl.effects.fit_effects(data, **small)
        >>> model.members, model.effect(data.x).shape
        (2, (80,))
        >>> model.ate(data.x) == float(model.effect(data.x).mean())
        True
    """

    def __init__(self, model: TwoHead, params: Params, ensemble: Ensemble, training: Training | None = None) -> None:
        super().__init__(ensemble, training)
        self.model, self.params = model, params

    @property
    def members(self) -> int:
        """How many nets there are."""
        return len(jax.tree.leaves(self.params)[0])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes nets, scales and columns to one safetensors file, which both packages read.

        Args:
            path: the file; one that is there already is replaced, and folders that are missing are made.

        Raises:
            OSError: the file cannot be written.
        """
        params = jax.tree.map(np.asarray, self.params)
        weights = [to_numpy(jax.tree.map(lambda leaf, n=number: leaf[n], params)) for number in range(self.members)]
        write_ensemble(path, self.ensemble._replace(weights=weights))

    def _outputs(self, x: Float[np.ndarray, "rows features"]) -> tuple[Any, Any]:
        y0, y1 = predict_replicas(self.model, self.params, x)
        return y0, y1


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
    mesh: Mesh | None = None,
) -> EffectModel:
    """Trains an ensemble of two-head nets on a table, all members at once, and returns what tells its effects.

    Features and outcome are standardised. A net that diverges starts again, once, with a tenth of the learning rate.

    Twin: `flax_impl.effects.fit_effects`, which trains one net after the other.

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
        mesh: devices to share the training, see `make_mesh`.

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
        >>> import flax_impl
        >>> data = flax_impl.data.synthetic(rows=80, features=4)
        >>> small = {"representation_features": [4], "head_features": [4], "members": 2, "steps": 3, "progress": False}
        >>> model = fit_effects(data, bootstrap=True, **small)
        >>> low, high = model.effect_interval(data.x)
        >>> low.shape, bool((low <= high).all())
        ((80,), True)

    Source: TARNet and CFR; Shalit, Johansson, Sontag, "Estimating individual treatment effect", ICML 2017.
    """
    settings = {name: value for name, value in locals().items() if name != "data"}
    return fit_effects_each([data], **settings)[0]


def fit_effects_each(datas: Sequence[TreatmentData], **settings: Any) -> list[EffectModel]:
    """Does for many tables of one shape what `fit_effects` does for one, and trains all nets of all of them at once.

    So that one program does for all, a table whose arms are larger than another's gives up a few rows.

    Args:
        datas: the tables, with as many rows and features in each: the replications of a benchmark, or bootstraps.
        settings: those of `fit_effects`.

    Returns:
        An ensemble for each table, in their order.

    Raises:
        ValueError: as `fit_effects`; tables of other shapes.
        TypeError: a setting that `fit_effects` does not have.
        FloatingPointError: as `fit_effects`; nets are numbered through, table by table.

    Example:
        >>> import flax_impl
        >>> datas = [flax_impl.data.synthetic(rows=80, features=4, seed=seed) for seed in range(2)]
        >>> small = {"representation_features": [4], "head_features": [4], "members": 2, "steps": 3, "progress": False}
        >>> models = fit_effects_each(datas, **small)
        >>> [model.members for model in models]
        [2, 2]
    """
    given = inspect.signature(fit_effects).bind(datas, **settings)
    given.apply_defaults()
    chosen = SimpleNamespace(**given.arguments)
    if not len(datas):
        raise ValueError("datas: expected at least one table, got none")
    check_optimizer(chosen.optimizer)
    check_choice("dtype", chosen.dtype, ("float32", "float64"))
    if jax.dtypes.canonicalize_dtype(chosen.dtype) != chosen.dtype:
        raise ValueError("dtype: expected float32 while JAX's 64-bit mode is off, got float64; turn on jax_enable_x64")
    prepared = [prepare(data, **{name: getattr(chosen, name) for name in PREPARED}) for data in datas]
    model = TwoHead(
        datas[0].x.shape[1], chosen.representation_features, chosen.head_features, activation=chosen.activation,
        final_activation="identity",
    )  # fmt: skip
    train = alike([one.rows.train for one in prepared])
    validation = [one.rows.validation for one in prepared if one.rows.validation is not None]
    held_out = alike(validation) if validation else None
    nets = _Nets(
        model=model,
        start=jax.tree.map(
            lambda leaf: jnp.concatenate([leaf.astype(chosen.dtype)] * len(datas)),
            model.init_params(range(chosen.seed, chosen.seed + chosen.members)),
        ),
        arrays=[one.arrays for one in prepared for _ in range(chosen.members)],
        seeds=[chosen.seed + number for _ in datas for number in range(chosen.members)],
        train=train,
        held_out=held_out,
    )
    settings = {name: getattr(chosen, name) for name in ("precision", "progress", "mesh")} | prepared[0].settings
    loss = _loss(chosen.binary, chosen.reduction, chosen.balance, chosen.balance_weight)
    params, losses = _train(nets, chosen.optimizer, {"loss": loss, **settings}, 2 if chosen.balance is None else 3)
    models = []
    for number, (data, one) in enumerate(zip(datas, prepared, strict=True)):
        own = slice(number * chosen.members, (number + 1) * chosen.members)
        ensemble = Ensemble(model.config, [], one.scales, feature_names(data), chosen.bootstrap, {})
        training = Training(losses[own], None if held_out is None else held_out[own])
        models.append(EffectModel(model, jax.tree.map(lambda leaf, own=own: leaf[own], params), ensemble, training))
    return models


def load_effect_model(path: str | os.PathLike[str]) -> EffectModel:
    """Returns the ensemble that `EffectModel.save` wrote, in either framework.

    Twin: `flax_impl.effects.load_effect_model`.

    Args:
        path: the file that `EffectModel.save` wrote.

    Returns:
        The ensemble; its `training` is None.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or holds something else.

    Example:
        >>> import tempfile
        >>> import flax_impl
        >>> data = flax_impl.data.synthetic(rows=80, features=4)
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
        nets = [rebuild(TwoHead, ensemble.config, weights) for weights in ensemble.weights]
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: {error}") from error
    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(params for _, params in nets))
    return EffectModel(nets[0][0], params, ensemble)


class _Nets(NamedTuple):
    """The nets of all tables: an entry for each, what differs between them."""

    model: TwoHead
    start: Params
    arrays: list[dict[str, np.ndarray]]
    seeds: list[int]
    train: Int[np.ndarray, "nets rows"]
    held_out: Int[np.ndarray, "nets held_out"] | None

    def fit(
        self, which: Int[np.ndarray, " some"], optimizer: Optimizer, settings: Mapping[str, Any]
    ) -> tuple[Params, Float[np.ndarray, "some steps columns"]]:
        """Trains those of these numbers; one that diverged has parameters that are NaN."""
        return fit_replicas(
            self.model, jax.tree.map(lambda leaf: leaf[which], self.start), [self.arrays[n] for n in which],
            optimizer=optimizer, seed=[self.seeds[n] for n in which], rows=self.train[which],
            validation_rows=None if self.held_out is None else self.held_out[which], keep_diverged=True, **settings,
        )  # fmt: skip


def _train(
    nets: _Nets, optimizer: Optimizer, settings: Mapping[str, Any], parts: int
) -> tuple[Params, Float[np.ndarray, "nets steps columns"]]:
    """Trains all nets, and those that diverge once more; `parts` is the number of parts of the loss."""
    params, losses = nets.fit(np.arange(len(nets.seeds)), optimizer, settings)
    failed = _diverged(params)
    if not len(failed):
        return params, losses
    slower = replace(optimizer, lr=optimizer.lr / 10)
    warn_user(restarting(failed, slower.lr))
    again, histories = nets.fit(failed, slower, settings)
    if len(still := _diverged(again)):
        raise FloatingPointError(gave_up(int(failed[still[0]]), slower.lr, _reason(histories[still[0]], parts)))
    params = jax.tree.map(lambda leaf, other: leaf.at[failed].set(other), params, again)
    kept = dict(zip(failed.tolist(), histories, strict=True))
    return params, padded([kept.get(number, history) for number, history in enumerate(losses)])


def _diverged(params: Params) -> np.ndarray:
    """Returns the numbers of the nets whose parameters are not finite."""
    finite = [np.isfinite(leaf).reshape(len(leaf), -1).all(axis=1) for leaf in map(np.asarray, jax.tree.leaves(params))]
    return np.flatnonzero(~np.all(finite, axis=0))


def _reason(history: Float[np.ndarray, "steps columns"], parts: int) -> str:
    """Returns why a net diverged, in the words of `fit`."""
    try:
        check_losses(history[:, :parts], 0, len(history))
    except FloatingPointError as error:
        return str(error)
    return "its weights, or the loss on the held-out rows, are not finite"


def _loss(binary: bool, reduction: Any, balance: str | None, balance_weight: float) -> FactualLoss:
    criterion = "sigmoid_binary_cross_entropy" if binary else "squared_error"
    if balance is None:
        return FactualLoss(criterion, reduction)
    return CFRLoss(criterion, reduction, balance=balance, balance_weight=balance_weight)
