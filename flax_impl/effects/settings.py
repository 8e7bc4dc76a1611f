"""Settings of an ensemble that estimates effects."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch_ref.common.checks.arguments import check_choice, check_flag, shown
from torch_ref.common.settings.optimizers import AdamW, Optimizer, check_optimizer


@dataclass(frozen=True, kw_only=True)
class EffectSettings:
    """How an ensemble of two-head nets is built and trained.

    One set of defaults for all tables; docs/results.md shows what they do on IHDP and ACIC 2016.

    Args:
        binary: the outcome is 0 or 1, and effects are differences of probabilities.
        representation_features: width of each representation layer.
        head_features: width of each hidden layer of a head.
        activation: of the hidden layers.
        bins: pieces that each feature is cut into, see `torch_ref.common.data.encoding.Encoding`; 0 gives the nets
            standardised features alone, as TARNet has them.
        gates: a factor for each feature, which decay turns off where the feature tells nothing; see `InputGate`.
        optimizer: settings of the optimiser.
        reduction: of the loss, `"batch"` or `"per_head"`; see `FactualLoss`.
        cfr_weights: weighs the arms alike, see `treatment_weights`.
        balance: penalty on the distance between the arms' representations: None, `"linear_mmd"`, `"rbf_mmd"` or
            `"wasserstein"`; see `CFRLoss`.
        balance_weight: its factor.
        targeted: a propensity head and targeted regularisation, see `TargetedLoss`; `ate` is then targeted.
        epochs: how often a net sees its rows at most; None is 300, or as `steps` says.
        steps: how many steps a net takes at most.
        batch_size: rows in a batch; None is 100.
        validation_share: of each arm, held out from a net to stop by; the best parameters are kept. 0 keeps the last.
        patience: epochs without a better loss on the held-out rows, after which a net stops; None is 20, or as many as
            500 steps make, but at least 12.
        members: nets in the ensemble, each with first weights and held-out rows of its own.
        learners: `("nets",)`, or `("nets", "trees")` for boosted T- and X-learners beside the nets, each weighed by how
            well it does on rows that it did not see. Trees do better where outcomes have steps.
        bootstrap: trains each net on rows drawn with replacement, so that their spread gives intervals.
        calibrate: trains a second ensemble on half the rows, which says how wide intervals of effects have to be; it
            takes about half as long again. See `calibrate`.
        seed: of first weights, held-out rows and batches.
        precision: of the products, see `fit`.
        dtype: of the parameters, `"float32"` or `"float64"`.

    Raises:
        ValueError: an `optimizer`, `dtype` or `learners` of another kind, or trees without held-out rows; the other
            settings are checked when they are used.

    Example:
        >>> EffectSettings(members=20, bootstrap=True).patience is None
        True

    Source: TARNet and CFR; Shalit, Johansson, Sontag, "Estimating individual treatment effect", ICML 2017.
    """

    binary: bool = False
    representation_features: Sequence[int] = (100, 100, 100)
    head_features: Sequence[int] = (100, 100, 100, 100)
    activation: str = "gelu"
    bins: int = 8
    gates: bool = True
    optimizer: Optimizer = AdamW(lr=2e-3, weight_decay=0.5, average=0.99)
    reduction: Literal["per_head", "batch"] = "batch"
    cfr_weights: bool = False
    balance: str | None = None
    balance_weight: float = 1.0
    targeted: bool = False
    epochs: int | None = None
    steps: int | None = None
    batch_size: int | None = None
    validation_share: float = 0.2
    patience: int | None = None
    members: int = 5
    learners: Sequence[str] = ("nets",)
    bootstrap: bool = False
    calibrate: bool = False
    seed: int = 0
    precision: str = "float32"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        check_optimizer(self.optimizer)
        check_choice("dtype", self.dtype, ("float32", "float64"))
        for name in ("gates", "targeted", "bootstrap", "calibrate"):
            check_flag(name, getattr(self, name))
        if not isinstance(self.learners, list | tuple) or tuple(self.learners) not in (("nets",), ("nets", "trees")):
            raise ValueError(f"learners: expected ('nets',) or ('nets', 'trees'), got {shown(self.learners)}")
        if self.targeted and self.balance is not None:
            raise ValueError(f"balance: expected None with targeted, got {shown(self.balance)}")
        if len(self.learners) > 1 and not self.validation_share:
            raise ValueError("validation_share: expected above 0 with trees, which are weighed on held-out rows, got 0")
