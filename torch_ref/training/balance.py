"""Counterfactual regression: the factual loss, and a penalty on how far the arms' representations lie apart.

A penalty takes the codes of each arm's own rows, as the batch was split.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..common.checks.arguments import check_choice, check_number, check_shape
from .losses import FactualLoss

_BLUR = 0.1  # the entropic regularisation, as a share of the mean cost
_ITERATIONS = 30


def linear_mmd(
    code0: Float[Tensor, "rows0 code"],
    code1: Float[Tensor, "rows1 code"],
    w0: Float[Tensor, " rows0"],
    w1: Float[Tensor, " rows1"],
) -> Float[Tensor, ""]:
    """Returns the squared distance between the arms' mean codes, or 0 where an arm has no weight.

    Twin: `flax_impl.training.linear_mmd`.

    Args:
        code0: the representation of the untreated rows [rows0, code].
        code1: the representation of the treated rows [rows1, code].
        w0: weights of the untreated rows [rows0].
        w1: weights of the treated rows [rows1].

    Returns:
        A number [], differentiable, in the square of the code's unit.

    Raises:
        ValueError: codes of different widths, or weights that are not one for each code.

    Example:
        >>> code0, code1 = torch.zeros(2, 3), torch.ones(4, 3)
        >>> round(float(linear_mmd(code0, code1, torch.ones(2), torch.ones(4))), 2)
        3.0

    Source: Gretton et al., "A kernel two-sample test", JMLR 2012, with the linear kernel.
    """
    _check(code0, code1, w0, w1)
    p0, p1, both = _distributions(w0, w1)
    return ((p1 @ code1 - p0 @ code0) ** 2).sum() * both


def rbf_mmd(
    code0: Float[Tensor, "rows0 code"],
    code1: Float[Tensor, "rows1 code"],
    w0: Float[Tensor, " rows0"],
    w1: Float[Tensor, " rows1"],
) -> Float[Tensor, ""]:
    """Returns the squared maximum mean discrepancy under a Gaussian kernel, from 0 to 2; 0 where an arm has no weight.

    The kernel's squared width is the mean squared distance between the arms, so that a representation cannot please the
    penalty by shrinking.

    Twin: `flax_impl.training.rbf_mmd`.

    Args:
        code0: the representation of the untreated rows [rows0, code].
        code1: the representation of the treated rows [rows1, code].
        w0: weights of the untreated rows [rows0].
        w1: weights of the treated rows [rows1].

    Returns:
        A number [], differentiable; it has no unit.

    Raises:
        ValueError: codes of different widths, or weights that are not one for each code.

    Example:
        >>> code0, code1 = torch.zeros(2, 3), torch.ones(4, 3)
        >>> round(float(rbf_mmd(code0, code1, torch.ones(2), torch.ones(4))), 2)
        1.26

    Source: Gretton et al., "A kernel two-sample test", JMLR 2012, the biased estimate.
    """
    _check(code0, code1, w0, w1)
    p0, p1, both = _distributions(w0, w1)
    across = _squared_distances(code0, code1)
    width = p0 @ across @ p1
    width = torch.where(width > 0, width, 1)

    def mean_kernel(p: Tensor, distances: Tensor, q: Tensor) -> Tensor:
        return p @ torch.exp(-distances / width) @ q

    within0 = mean_kernel(p0, _squared_distances(code0, code0), p0)
    within1 = mean_kernel(p1, _squared_distances(code1, code1), p1)
    return (within0 + within1 - 2 * mean_kernel(p0, across, p1)) * both


def wasserstein(
    code0: Float[Tensor, "rows0 code"],
    code1: Float[Tensor, "rows1 code"],
    w0: Float[Tensor, " rows0"],
    w1: Float[Tensor, " rows1"],
) -> Float[Tensor, ""]:
    """Returns what it costs to carry one arm's codes to the other's, by squared distance; 0 where an arm has no weight.

    The plan is Sinkhorn's, from 30 iterations with an entropy of a tenth of the mean cost; gradients go through the
    cost and not through the plan, as in CFR.

    Twin: `flax_impl.training.wasserstein`, whose plan is OTT's; here it is POT's.

    Args:
        code0: the representation of the untreated rows [rows0, code].
        code1: the representation of the treated rows [rows1, code].
        w0: weights of the untreated rows [rows0].
        w1: weights of the treated rows [rows1].

    Returns:
        A number [], differentiable, in the square of the code's unit.

    Raises:
        ImportError: POT is not installed; the message names the extra.
        ValueError: codes of different widths, or weights that are not one for each code.

    Example:
        >>> code0, code1 = torch.zeros(2, 3), torch.ones(4, 3)
        >>> round(float(wasserstein(code0, code1, torch.ones(2), torch.ones(4))), 2)
        3.0

    Source: Cuturi, "Sinkhorn distances", NeurIPS 2013; Shalit, Johansson, Sontag, ICML 2017, algorithm 2.
    """
    _check(code0, code1, w0, w1)
    sinkhorn = _pot()
    code0, code1, w0, w1 = code0[w0 > 0], code1[w1 > 0], w0[w0 > 0], w1[w1 > 0]  # POT begins with rows of weight 0 too
    p0, p1, both = _distributions(w0, w1)
    cost = _squared_distances(code0, code1)
    if not both:
        return cost.sum() * 0
    fixed = cost.detach()
    blur = _BLUR * (p0 @ fixed @ p1)
    with torch.no_grad():
        blur = torch.where(blur > 0, blur, 1)
        plan = sinkhorn(p0, p1, fixed, blur, numItermax=_ITERATIONS, stopThr=0, warn=False)
    return (plan * cost).sum()


BALANCES: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "linear_mmd": linear_mmd,
    "rbf_mmd": rbf_mmd,
    "wasserstein": wasserstein,
}


@dataclass(frozen=True)
class CFRLoss(FactualLoss):
    """The factual loss, and as a third part a penalty on the distance between the arms' representations.

    Of more arms it is the mean over all pairs of them, and the last part.

    Twin: `flax_impl.CFRLoss`.

    Args:
        criterion: as for `FactualLoss`.
        reduction: as for `FactualLoss`.
        head_weights: factors of the heads' parts; None is 1 for each.
        balance: `"linear_mmd"`, `"rbf_mmd"` or `"wasserstein"`. Weights of the rows count in it, within each arm.
        balance_weight: factor of the penalty.
        arms: as for `FactualLoss`.

    Raises:
        ValueError: as for `FactualLoss`; an unknown balance, or a factor below 0.
        ImportError: `"wasserstein"` needs a package that is not installed; the message names the extra.

    Example:
        >>> def model(x, return_representation):
        ...     return (torch.zeros(len(x), 1), torch.zeros(len(x), 1)), x
        >>> t, y = torch.tensor([0, 1, 1, 0]), torch.tensor([[1.0], [2.0], [2.0], [3.0]])
        >>> x = t[:, None].float()  # here the representation too, and the arms lie apart by 1
        >>> [float(loss) for loss in CFRLoss(balance="linear_mmd", balance_weight=0.5)(model, x, t, y)]
        [5.0, 4.0, 0.5]

    Source: CFR; Shalit, Johansson, Sontag, "Estimating individual treatment effect", ICML 2017.
    """

    balance: str = "linear_mmd"
    balance_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("balance", self.balance, BALANCES)
        object.__setattr__(self, "balance_weight", check_number("balance_weight", self.balance_weight, at_least=0))
        if self.balance == "wasserstein":
            _pot()

    def __call__(
        self,
        model: Callable[..., Any],
        x: Float[Tensor, "batch in"],
        t: Int[Tensor, " batch"],
        y: Float[Tensor, "batch out"],
        w: Float[Tensor, " batch"] | None = None,
        mask: Bool[Tensor, " batch"] | None = None,
    ) -> tuple[Float[Tensor, ""], ...]:
        """Returns `(loss0, loss1, penalty)`, or the parts of more arms and the penalty.

        Args:
            model: gives an outcome for each arm for `x`, and with `return_representation` the code beside them.
            x: the features.
            t: the treatment, 0 to `arms - 1`.
            y: the outcome under that treatment.
            w: weights of the rows; None is 1 for each.
            mask: False for rows that are padding; None means that all rows count.

        Raises:
            ValueError: an empty batch, or shapes that do not fit.
        """
        codes: list[Tensor] = []

        def keep_code(x: Tensor) -> tuple[Tensor, Tensor]:
            outcomes, code = model(x, return_representation=True)
            codes.append(code)
            return outcomes

        losses = super().__call__(keep_code, x, t, y, w, mask)
        w = x.new_ones(len(x)) if w is None else w
        counts = x.new_ones(len(x), dtype=torch.bool) if mask is None else mask.to(torch.bool)
        of_arm = [w[(t == arm) & counts] for arm in range(self.arms)]
        pairs = combinations(range(self.arms), 2)
        penalties = [BALANCES[self.balance](codes[a], codes[b], of_arm[a], of_arm[b]) for a, b in pairs]
        return *losses, self.balance_weight * torch.stack(penalties).mean()


def _check(code0: Tensor, code1: Tensor, w0: Tensor, w1: Tensor) -> None:
    check_shape("code0", code0, ("rows0", "code"))
    check_shape("code1", code1, ("rows1", code0.shape[1]))
    check_shape("w0", w0, (len(code0),))
    check_shape("w1", w1, (len(code1),))


def _distributions(w0: Tensor, w1: Tensor) -> tuple[Tensor, Tensor, bool]:
    """Returns the weights as shares, and whether both arms have some."""
    totals = w0.sum(), w1.sum()
    p0, p1 = (w / torch.where(total > 0, total, 1) for w, total in zip((w0, w1), totals, strict=True))
    return p0, p1, bool((totals[0] > 0) & (totals[1] > 0))


def _squared_distances(a: Float[Tensor, "rows code"], b: Float[Tensor, "others code"]) -> Float[Tensor, "rows others"]:
    # Not |a|^2 + |b|^2 - 2ab, which has no digits left where codes lie close together.
    return ((a[:, None] - b[None, :]) ** 2).sum(dim=2)


def _pot() -> Any:
    try:
        from ot.bregman import sinkhorn_log
    except ImportError as error:
        raise ImportError("the wasserstein balance needs POT: pip install 'twohead[balance]'") from error
    return sinkhorn_log
