"""A scikit-learn estimator of effects, for pipelines, searches and pandas frames."""

import os
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float

try:
    from sklearn.base import BaseEstimator
    from sklearn.metrics import d2_log_loss_score, r2_score
    from sklearn.utils import check_consistent_length, column_or_1d
    from sklearn.utils.metadata_routing import UNUSED
    from sklearn.utils.validation import check_is_fitted, check_X_y, validate_data
except ImportError as error:
    raise ImportError("TwoHeadEstimator needs scikit-learn: pip install 'twohead[estimator]'") from error

from torch_ref.common.checks.arguments import check_choice
from torch_ref.common.checks.arrays import check_finite
from torch_ref.common.data.arms import code_arms, find_arms
from torch_ref.common.data.columns import Column
from torch_ref.common.data.design import array_columns, is_table
from torch_ref.common.data.features import describe, to_numbers
from torch_ref.common.data.treatment_data import TreatmentData
from torch_ref.common.settings.optimizers import OPTIMIZERS, Optimizer, make_optimizer
from torch_ref.common.settings.schedules import SCHEDULES, make_schedule

from .averages import AverageEffects
from .effect_model import EffectModel
from .ensemble_file import write_ensemble
from .fit import fit_effects, load_effect_model
from .judging.fresh_rows import score_effects
from .learners.contrast import find_pair
from .prepare import warn_user
from .report import EffectReport
from .settings import EffectSettings

if TYPE_CHECKING:
    from jax.sharding import Mesh


class TwoHeadEstimator(BaseEstimator):
    """Estimates the effect of a treatment, or of several, from a table, with an ensemble of two-head nets.

    The settings are those of `EffectSettings`, which says more of each.

    Args:
        control: label of the treatment to compare with; None is 0, or the first in order.
        binary: the outcome is 0 or 1, and effects are differences of probabilities.
        representation_features: width of each representation layer.
        head_features: width of each hidden layer of a head.
        activation: of the hidden layers.
        bins: pieces that each feature is cut into; 0 gives the nets standardised features alone.
        gates: a factor for each feature, which decay turns off where the feature tells nothing.
        optimizer: settings of the optimiser; None is the default of `EffectSettings`.
        reduction: of the loss, `"batch"` or `"per_head"`.
        cfr_weights: weighs the arms alike.
        balance: penalty on how far the arms' representations lie apart: None, `"linear_mmd"`, `"rbf_mmd"` or
            `"wasserstein"`.
        balance_weight: its factor.
        targeted: targeted regularisation, under which the average effect is targeted.
        epochs: how often a net sees its rows at most.
        steps: how many steps a net takes at most.
        batch_size: rows in a batch.
        validation_share: of each arm, held out from a net for early stopping.
        patience: epochs without a better loss, after which a net stops.
        members: nets in the ensemble.
        learners: `("nets",)`, or `("nets", "trees")` for boosted T- and X-learners beside the nets.
        bootstrap: trains each net on bootstrap rows, whose spread gives intervals.
        calibrate: calibrates intervals of effects by a second ensemble on half the rows.
        scoring: what `score` returns: `"outcome"`, the share of the outcome's deviance that is explained; or `"r_loss"`
            or `"dr_loss"`, which judge the effects themselves, negative, so that more is better.
        seed: of first weights, held-out rows and batches.
        precision: of the products.
        dtype: of the parameters.
        progress: shows a bar, or plain lines, once it takes long.
        mesh: devices to share the training.

    Attributes:
        effect_model_: the ensemble, an `EffectModel`.
        treatments_: the labels of the treatments, the one to compare with first.
        n_features_in_: how many columns `X` had.
        feature_names_in_: their names, where they were strings.

    Raises:
        ImportError: scikit-learn is not installed, when the name is first used, or CatBoost, when `fit` trains trees;
            the message names the extra.
        ValueError: from `fit`, since scikit-learn's constructors check nothing: an argument out of bounds; from the
            other methods: features unlike those of `fit`, a `T0` or `T1` that no treatment has, or an interval without
            `bootstrap=True` and at least 2 members.

    Example:
        >>> import flax_impl
        >>> data = flax_impl.data.load_data("synthetic")
        >>> estimator = TwoHeadEstimator(members=2, epochs=3)
        >>> estimator.fit(data.x, data.y[:, 0], treatment=data.t).effect(data.x).shape
        (1000,)

    Source: TARNet and CFR; Shalit, Johansson, Sontag, "Estimating individual treatment effect", ICML 2017.
    """

    # EconML's names, which `fit` takes too, are no metadata of their own, and checkpoints are none of a row.
    __metadata_request__fit: ClassVar[dict[str, str]] = dict.fromkeys(("T", "checkpoint", "every"), UNUSED)
    __metadata_request__score: ClassVar[dict[str, str]] = {"T": UNUSED}

    def __init__(
        self,
        *,
        control: Any = None,
        binary: bool = False,
        representation_features: Sequence[int] = (100, 100, 100),
        head_features: Sequence[int] = (100, 100, 100, 100),
        activation: str = "gelu",
        bins: int = 8,
        gates: bool = True,
        optimizer: Optimizer | None = None,
        reduction: Literal["per_head", "batch"] = "batch",
        cfr_weights: bool = False,
        balance: str | None = None,
        balance_weight: float = 1.0,
        targeted: bool = False,
        epochs: int | None = None,
        steps: int | None = None,
        batch_size: int | None = None,
        validation_share: float = 0.2,
        patience: int | None = None,
        members: int = 5,
        learners: Sequence[str] = ("nets",),
        bootstrap: bool = False,
        calibrate: bool = False,
        scoring: Literal["outcome", "r_loss", "dr_loss"] = "outcome",
        seed: int = 0,
        precision: str = "float32",
        dtype: str = "float32",
        progress: bool = True,
        mesh: "Mesh | None" = None,
    ) -> None:
        self.control = control
        self.binary = binary
        self.representation_features = representation_features
        self.head_features = head_features
        self.activation = activation
        self.bins = bins
        self.gates = gates
        self.optimizer = optimizer
        self.reduction = reduction
        self.cfr_weights = cfr_weights
        self.balance = balance
        self.balance_weight = balance_weight
        self.targeted = targeted
        self.epochs = epochs
        self.steps = steps
        self.batch_size = batch_size
        self.validation_share = validation_share
        self.patience = patience
        self.members = members
        self.learners = learners
        self.bootstrap = bootstrap
        self.calibrate = calibrate
        self.scoring = scoring
        self.seed = seed
        self.precision = precision
        self.dtype = dtype
        self.progress = progress
        self.mesh = mesh

    def fit(
        self,
        X: Any,  # noqa: N803 (scikit-learn's name)
        y: Any = None,
        *,
        treatment: Any = None,
        sample_weight: Any = None,
        groups: Any = None,
        Y: Any = None,  # noqa: N803 (EconML's name)
        T: Any = None,  # noqa: N803 (EconML's name)
        checkpoint: str | os.PathLike[str] | None = None,
        every: int | None = None,
    ) -> "TwoHeadEstimator":
        """Trains the ensemble.

        Args:
            X: the features [rows, features]: a table of pandas, polars or pyarrow, whose text and categories are
                categories; or an array of numbers. Missing values (NaN in an array) are taken as such.
            y: the outcome that was observed [rows].
            treatment: the label of each row's treatment [rows]: 0 and 1, or others, of two treatments or of several.
            sample_weight: weights of the rows in the loss [rows], or None.
            groups: the cluster of each row [rows], whose rows are held out together and counted as one; or None.
            Y: `y` by EconML's name.
            T: `treatment` by EconML's name.
            checkpoint: a folder of its own for this training, which goes on there after an interruption, see
                `fit_effects`.
            every: steps of a net between two checkpoints.

        Returns:
            The estimator.

        Raises:
            ValueError: text in an array, dates, infinity, other lengths, a single treatment, or an argument out of
                bounds; checkpoints of another training.
            OSError: a checkpoint cannot be written.
            FloatingPointError: a net diverged twice.

        Warns:
            UserWarning: what makes the effects doubtful, see `fit_effects`.
        """
        data = self._table(
            X, _one_of("y", y, "Y", Y), _one_of("treatment", treatment, "T", T), sample_weight, reset=True
        )
        if groups is not None:
            check_consistent_length(data.x, groups)
            data = replace(data, groups=np.asarray(groups))
        arguments = self.get_params(deep=False)
        progress, mesh, _ = (arguments.pop(name) for name in ("progress", "mesh", "control"))
        check_choice("scoring", arguments.pop("scoring"), ("outcome", "r_loss", "dr_loss"))
        if self.optimizer is None:
            del arguments["optimizer"]
        self.effect_model_ = fit_effects(
            data, EffectSettings(**arguments), checkpoint=checkpoint, every=every, progress=progress, mesh=mesh
        )
        self._table_of_fit, self.treatments_ = data, self.effect_model_.arms
        return self

    def effect(self, X: Any, *, T0: Any = None, T1: Any = None) -> Float[np.ndarray, " rows"]:  # noqa: N803
        """Returns each row's effect (CATE), in the unit of the outcome.

        Args:
            X: the features [rows, features].
            T0: the treatment to compare with, by EconML's name; None is the first of `treatments_`.
            T1: the treatment, by EconML's name; None is the second of two, and is refused where there are more.
        """
        return self._model().effect(self._features(X), **self._arms(T0, T1))

    def predict(self, X: Any) -> Float[np.ndarray, "rows ..."]:  # noqa: N803
        """Returns the effect, under the name by which pipelines and `cross_val_predict` ask for it.

        Args:
            X: the features [rows, features].

        Returns:
            `effect(X)` [rows]; of more than two arms, the effect of each against the first [rows, arms - 1].
        """
        first, *others = self._model().arms
        if len(others) == 1:
            return self.effect(X)
        return np.stack([self.effect(X, T0=first, T1=label) for label in others], axis=1)

    def potential_outcomes(self, X: Any) -> tuple[Float[np.ndarray, " rows"], ...]:  # noqa: N803
        """Returns the expected outcomes in each arm, `(y0, y1)` of two; for a binary outcome, probabilities.

        Args:
            X: the features [rows, features].
        """
        return self._model().potential_outcomes(self._features(X))

    def effect_interval(
        self, X: Any, *, alpha: float = 0.05, T0: Any = None, T1: Any = None  # noqa: N803
    ) -> tuple[Float[np.ndarray, " rows"], Float[np.ndarray, " rows"]]:  # fmt: skip
        """Returns the ends of intervals that hold each row's effect with probability `1 - alpha`.

        Args:
            X: the features [rows, features].
            alpha: the probability that an interval misses, above 0 and below 1.
            T0: as for `effect`.
            T1: as for `effect`.
        """
        return self._model().effect_interval(self._features(X), alpha, **self._arms(T0, T1))

    def ate(self, X: Any, *, T0: Any = None, T1: Any = None) -> float:  # noqa: N803
        """Returns the average effect over these rows (ATE), in the unit of the outcome.

        Args:
            X: the features [rows, features].
            T0: as for `effect`.
            T1: as for `effect`.
        """
        return self._model().ate(self._features(X), **self._arms(T0, T1))

    def ate_interval(
        self, X: Any, *, alpha: float = 0.05, T0: Any = None, T1: Any = None  # noqa: N803
    ) -> tuple[float, float]:  # fmt: skip
        """Returns the ends of an interval that holds the average effect over these rows with probability `1 - alpha`.

        Args:
            X: the features [rows, features].
            alpha: the probability that an interval misses, above 0 and below 1.
            T0: as for `effect`.
            T1: as for `effect`.
        """
        return self._model().ate_interval(self._features(X), alpha, **self._arms(T0, T1))

    def average_effects(
        self,
        *,
        T0: Any = None,  # noqa: N803
        T1: Any = None,  # noqa: N803
        by: Any = None,
        trim: float | None = None,
        alpha: float = 0.05,
        target: Literal["population", "sample"] = "population",
    ) -> AverageEffects:
        """Returns the average effects on the rows of `fit`, cross-fitted and doubly robust; see `average_effects`.

        Each row counts with what the learners that did not see it expect of it. Weights and groups are those of `fit`.

        Args:
            T0: as for `effect`.
            T1: as for `effect`.
            by: the group of each row of `fit` [rows], for an average in each; or None.
            trim: leaves out rows whose propensity is below it or above 1 - trim; None leaves out none.
            alpha: the probability that an interval misses, above 0 and below 1.
            target: `"population"` or `"sample"`, see `average_effects`.

        Raises:
            ValueError: `validation_share=0`, under which no row is unseen; an argument out of bounds.

        Warns:
            UserWarning: each of the `doubts` of the averages, such as poor overlap.
        """
        model = self._model()
        if model.training is not None and model.training.held_out is None:
            raise ValueError("validation_share: expected above 0 for averages, as nets saw all rows, got 0")
        found = model.cross_fit(self._rows_of_fit())
        labels = by
        if by is not None:
            check_consistent_length(self._rows_of_fit().x, by)
            labels = np.asarray(by)[found.rows]
        averages = found.averages(**self._arms(T0, T1), by=labels, trim=trim, alpha=alpha, target=target)
        for doubt in averages.doubts:
            warn_user(doubt)
        return averages

    def report(self, *, trim: float | None = None) -> EffectReport:
        """Returns what was found in the rows of `fit`; `print` shows it, the average effects first.

        Args:
            trim: as for `average_effects`.

        Warns:
            UserWarning: each of the `doubts` of the report, such as poor overlap.
        """
        report = EffectReport.of(self._model(), self._rows_of_fit(), trim=trim)
        for doubt in report.doubts():
            warn_user(doubt)
        return report

    def score(
        self,
        X: Any,  # noqa: N803
        y: Any = None,
        *,
        treatment: Any = None,
        sample_weight: Any = None,
        T: Any = None,  # noqa: N803
    ) -> float:
        """Returns how good the model is on these rows; more is better. What is measured, `scoring` says.

        `"outcome"` is the share of the observed outcome's deviance that is explained: R² for a continuous outcome, D²
        of the log loss for a binary one; at best 1; the mean alone has 0. `"r_loss"` and `"dr_loss"` judge the effects,
        against what boosted trees and a logistic propensity say of these rows, cross-fitted; needs 20 rows an arm.

        Args:
            X: the features [rows, features].
            y: the outcome [rows].
            treatment: the label of each row's treatment [rows].
            sample_weight: weights of the rows [rows], or None.
            T: `treatment` by EconML's name.
        """
        model = self._model()
        data = self._table(X, y, _one_of("treatment", treatment, "T", T), sample_weight, reset=False)
        if self.scoring != "outcome":
            return score_effects(self.predict(X).reshape(len(data), -1).T, data, self.scoring)
        factual, observed = np.choose(data.t, model.potential_outcomes(data.x)), data.y[:, 0]
        if self.binary:
            return float(d2_log_loss_score(observed, factual, sample_weight=data.w, labels=[0, 1]))
        return float(r2_score(observed, factual, sample_weight=data.w))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the estimator to one safetensors file: nets, scales, columns and arguments, but for the mesh.

        Both `load` and `load_effect_model` read it.

        Args:
            path: the file; one that is there already is replaced, and folders that are missing are made.

        Raises:
            OSError: the file cannot be written.
        """
        model = self._model()
        arguments = self.get_params(deep=False) | {
            "mesh": None,
            "optimizer": self.optimizer and _described(self.optimizer),
        }
        named = hasattr(self, "feature_names_in_")
        settings = {"arguments": _plain(arguments), "named": named}
        write_ensemble(path, model.ensemble._replace(settings=settings))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "TwoHeadEstimator":
        """Returns the estimator that `save` wrote.

        Args:
            path: the file that `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged, or holds something else.
        """
        model = load_effect_model(path)
        try:
            # What older files lack, whose nets took standardised features alone.
            older = {"bins": 0, "gates": False, "learners": ("nets",)}
            arguments = older | model.ensemble.settings["arguments"]
            if arguments["optimizer"] is not None:
                arguments["optimizer"] = _made(arguments["optimizer"])
            for name in ("representation_features", "head_features", "learners"):
                arguments[name] = tuple(arguments[name])  # JSON knows lists only
            made = cls(**arguments)
            named = bool(model.ensemble.settings["named"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: expected an estimator's file, written by save, got {error!r}") from error
        fitted: dict[str, Any] = {"effect_model_": model, "n_features_in_": len(model.feature_names)} | {
            "treatments_": model.arms
        }
        if named:
            fitted["feature_names_in_"] = np.array(model.feature_names, object)
        vars(made).update(fitted)
        return made

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "effect_model_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.input_tags.allow_nan = tags.input_tags.categorical = True
        return tags

    def _model(self) -> EffectModel:
        check_is_fitted(self)
        return self.effect_model_

    def _arms(self, T0: Any, T1: Any) -> dict[str, Any]:  # noqa: N803
        """Returns the labels of two treatments as the model's methods take them."""
        arms = self._model().arms
        first, second = find_pair(arms, T0, T1, names=("T0", "T1"))
        return {"control": arms[first], "treatment": arms[second]}

    def _rows_of_fit(self) -> TreatmentData:
        if not hasattr(self, "_table_of_fit"):
            raise ValueError("averages, report: expected an estimator that was fitted here, got a loaded one")
        return self._table_of_fit

    def _features(self, X: Any) -> Float[np.ndarray, "rows features"]:  # noqa: N803
        columns = self._model().columns
        _refuse_mapping(X)
        if columns is not None and is_table(X):
            validate_data(self, X, reset=False, skip_check_array=True)  # names and their order
            return to_numbers(X, columns)
        checked: Any = validate_data(self, X, reset=False, dtype=np.float64, ensure_all_finite="allow-nan")
        if columns is None:
            check_finite("X", checked)  # `fit` takes gaps, and scikit-learn's words would say that nothing does
        return checked

    def _table(self, X: Any, y: Any, treatment: Any, sample_weight: Any, *, reset: bool) -> TreatmentData:  # noqa: N803
        """Returns the table, checked in scikit-learn's words where it has some."""
        columns = _described_columns(X) if reset else self._model().columns
        numeric: dict[str, Any] = {"dtype": np.float64, "y_numeric": True, "ensure_min_samples": 2}
        numeric["ensure_all_finite"] = "allow-nan" if reset or columns is not None else True
        if columns is not None and is_table(X):
            validate_data(self, X, y, reset=reset, skip_check_array=True)
            checked: Any = check_X_y(to_numbers(X, columns), y, estimator=self, **numeric)
        else:
            checked = validate_data(self, X, y, reset=reset, **numeric)
        x, y = checked
        if treatment is None:
            raise ValueError("treatment: expected a label for each row, got None")
        t = column_or_1d(treatment)
        check_consistent_length(x, y, t)
        t, arms = code_arms(t, self.control) if reset else (find_arms(t, self.treatments_), self.treatments_)
        w = None if sample_weight is None else np.asarray(sample_weight, np.float64)
        names = tuple(getattr(self, "feature_names_in_", ()))
        return TreatmentData(
            x, t, np.asarray(y, np.float64)[:, None], w, feature_names=names, arms=arms,
            columns=columns or array_columns(x, names),
        )  # fmt: skip


def _described_columns(X: Any) -> tuple[Column, ...] | None:  # noqa: N803
    """Returns what the columns of a table are, where some are categories or have gaps; None for numbers alone."""
    _refuse_mapping(X)
    described = describe(X) if is_table(X) else ()
    return described if any(column.levels is not None or column.gaps for column in described) else None


def _refuse_mapping(X: Any) -> None:  # noqa: N803
    """Raises ValueError for arrays by name, which scikit-learn takes for rows."""
    if isinstance(X, dict) and not hasattr(X, "shape"):
        raise ValueError(f"X: expected a table of pandas, polars or pyarrow, or an array, got {type(X).__name__}")


def _one_of(name: str, value: Any, alias: str, other: Any) -> Any:
    """Returns what was given by one of two names; raises ValueError where both were."""
    if value is not None and other is not None:
        raise ValueError(f"{name}, {alias}: expected one of the two names, got both")
    return value if other is None else other


def _described(optimizer: Any) -> dict[str, Any]:
    """Returns an optimiser's name and settings, its schedule's too, as JSON takes them."""
    kinds = {**{kind: name for name, kind in OPTIMIZERS.items()}, **{kind: name for name, kind in SCHEDULES.items()}}
    arguments = {field.name: getattr(optimizer, field.name) for field in fields(optimizer)}
    if "schedule" in arguments:
        arguments["schedule"] = _described(arguments["schedule"])
    return {"name": kinds[type(optimizer)], "arguments": arguments}


def _made(described: dict[str, Any]) -> Optimizer:
    """Returns the optimiser that `_described` describes."""
    arguments = dict(described["arguments"])
    schedule = make_schedule(arguments["schedule"]["name"], **arguments["schedule"]["arguments"])
    return make_optimizer(described["name"], **arguments | {"schedule": schedule})


def _plain(value: Any) -> Any:
    """Returns numpy's numbers and arrays in what JSON takes, as a search gives them."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(part) for part in value]
    return value.item() if isinstance(value, np.generic) else value
