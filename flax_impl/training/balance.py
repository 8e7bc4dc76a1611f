"""Counterfactual regression: the factual loss, and a penalty on how far the arms' representations lie apart.

A penalty takes the codes of all rows for both arms, with weights 0 for the rows of the other: nothing is split.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from torch_ref.common.checks.arguments import check_choice, check_number, check_shape

from .losses import FactualLoss
from .traced_settings import traced

_BLUR = 0.1  # the entropic regularisation, as a share of the mean cost
_ITERATIONS = 30


def linear_mmd(
    code0: Float[Array, "rows0 code"],
    code1: Float[Array, "rows1 code"],
    w0: Float[Array, " rows0"],
    w1: Float[Array, " rows1"],
) -> Float[Array, ""]:
    """Returns the squared distance between the arms' mean codes, or 0 where an arm has no weight.

    Twin: `torch_ref.training.linear_mmd`.

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
        >>> code0, code1 = jnp.zeros((2, 3)), jnp.ones((4, 3))
        >>> round(float(linear_mmd(code0, code1, jnp.ones(2), jnp.ones(4))), 2)
        3.0

    Source: Gretton et al., "A kernel two-sample test", JMLR 2012, with the linear kernel.
    """
    _check(code0, code1, w0, w1)
    p0, p1, both = _distributions(w0, w1)
    return jnp.where(both, ((p1 @ code1 - p0 @ code0) ** 2).sum(), 0)


def rbf_mmd(
    code0: Float[Array, "rows0 code"],
    code1: Float[Array, "rows1 code"],
    w0: Float[Array, " rows0"],
    w1: Float[Array, " rows1"],
) -> Float[Array, ""]:
    """Returns the squared maximum mean discrepancy under a Gaussian kernel, from 0 to 2; 0 where an arm has no weight.

    The kernel's squared width is the mean squared distance between the arms, so that a representation cannot please the
    penalty by shrinking.

    Twin: `torch_ref.training.rbf_mmd`.

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
        >>> code0, code1 = jnp.zeros((2, 3)), jnp.ones((4, 3))
        >>> round(float(rbf_mmd(code0, code1, jnp.ones(2), jnp.ones(4))), 2)
        1.26

    Source: Gretton et al., "A kernel two-sample test", JMLR 2012, the biased estimate.
    """
    _check(code0, code1, w0, w1)
    p0, p1, both = _distributions(w0, w1)
    across = _squared_distances(code0, code1)
    width = p0 @ across @ p1
    width = jnp.where(width > 0, width, 1)

    def mean_kernel(p: Array, distances: Array, q: Array) -> Array:
        return p @ jnp.exp(-distances / width) @ q

    within0 = mean_kernel(p0, _squared_distances(code0, code0), p0)
    within1 = mean_kernel(p1, _squared_distances(code1, code1), p1)
    return jnp.where(both, within0 + within1 - 2 * mean_kernel(p0, across, p1), 0)


def wasserstein(
    code0: Float[Array, "rows0 code"],
    code1: Float[Array, "rows1 code"],
    w0: Float[Array, " rows0"],
    w1: Float[Array, " rows1"],
) -> Float[Array, ""]:
    """Returns what it costs to carry one arm's codes to the other's, by squared distance; 0 where an arm has no weight.

    The plan is Sinkhorn's, from 30 iterations with an entropy of a tenth of the mean cost; gradients go through the
    cost and not through the plan, as in CFR.

    Twin: `torch_ref.training.wasserstein`, whose plan is POT's; here it is OTT's.

    Args:
        code0: the representation of the untreated rows [rows0, code].
        code1: the representation of the treated rows [rows1, code].
        w0: weights of the untreated rows [rows0].
        w1: weights of the treated rows [rows1].

    Returns:
        A number [], differentiable, in the square of the code's unit.

    Raises:
        ImportError: OTT is not installed; the message names the extra.
        ValueError: codes of different widths, or weights that are not one for each code.

    Example:
        >>> code0, code1 = jnp.zeros((2, 3)), jnp.ones((4, 3))
        >>> round(float(wasserstein(code0, code1, jnp.ones(2), jnp.ones(4))), 2)
        3.0

    Source: Cuturi, "Sinkhorn distances", NeurIPS 2013; Shalit, Johansson, Sontag, ICML 2017, algorithm 2.
    """
    _check(code0, code1, w0, w1)
    geometry, linear_problem, sinkhorn = _ott()
    if not (len(code0) and len(code1)):
        return jnp.zeros((), code0.dtype)
    p0, p1, both = _distributions(w0, w1)
    cost = _squared_distances(code0, code1)
    fixed = jax.lax.stop_gradient(cost)
    blur = _BLUR * (p0 @ fixed @ p1)
    problem = linear_problem.LinearProblem(
        geometry.Geometry(cost_matrix=fixed, epsilon=jnp.where(blur > 0, blur, 1)), a=p0, b=p1
    )
    solver = sinkhorn.Sinkhorn(
        threshold=0, inner_iterations=_ITERATIONS, min_iterations=_ITERATIONS, max_iterations=_ITERATIONS
    )
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):  # whatever the caller set
        plan = jax.lax.stop_gradient(solver(problem).matrix)
    return jnp.where(both, (plan * cost).sum(), 0)


BALANCES: dict[str, Callable[[Array, Array, Array, Array], Array]] = {
    "linear_mmd": linear_mmd,
    "rbf_mmd": rbf_mmd,
    "wasserstein": wasserstein,
}


@traced("head_weights", "balance_weight")
@dataclass(frozen=True)
class CFRLoss(FactualLoss):
    """The factual loss, and as a third part a penalty on the distance between the arms' representations.

    Of more arms it is the mean over all pairs of them, and the last part.

    Twin: `torch_ref.CFRLoss`.

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
        >>> def model(x, t, return_representation):
        ...     return jnp.zeros((len(x), 1)), x
        >>> t, y = jnp.array([0, 1, 1, 0]), jnp.array([[1.0], [2.0], [2.0], [3.0]])
        >>> x = t[:, None].astype(jnp.float32)  # here the representation too, and the arms lie apart by 1
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
            _ott()

    def __call__(
        self,
        model: Callable[..., Any],
        x: Float[Array, "batch in"],
        t: Int[Array, " batch"],
        y: Float[Array, "batch out"],
        w: Float[Array, " batch"] | None = None,
        mask: Bool[Array, " batch"] | None = None,
    ) -> tuple[Float[Array, ""], ...]:
        """Returns `(loss0, loss1, penalty)`, or the parts of more arms and the penalty.

        Args:
            model: gives the factual outcome for `x` and `t`, and with `return_representation` the code beside it.
            x: the features.
            t: the treatment, 0 to `arms - 1`.
            y: the outcome under that treatment.
            w: weights of the rows; None is 1 for each.
            mask: False for rows that are padding; None means that all rows count.

        Raises:
            ValueError: an empty batch, or shapes that do not fit.
        """
        codes: list[Array] = []

        def keep_code(x: Array, t: Array) -> Array:
            outcome, code = model(x, t, return_representation=True)
            codes.append(code)
            return outcome

        losses = super().__call__(keep_code, x, t, y, w, mask)
        [code] = codes
        w = jnp.ones(len(x), code.dtype) if w is None else w
        counts = jnp.ones(len(x), bool) if mask is None else mask.astype(bool)
        of_arm = [jnp.where(counts & (t == arm), w, 0) for arm in range(self.arms)]
        pairs = combinations(of_arm, 2)
        penalty = jnp.stack([BALANCES[self.balance](code, code, w0, w1) for w0, w1 in pairs]).mean()
        return *losses, (self.balance_weight * penalty).astype(losses[0].dtype)


def _check(code0: Array, code1: Array, w0: Array, w1: Array) -> None:
    check_shape("code0", code0, ("rows0", "code"))
    check_shape("code1", code1, ("rows1", code0.shape[1]))
    check_shape("w0", w0, (len(code0),))
    check_shape("w1", w1, (len(code1),))


def _distributions(w0: Array, w1: Array) -> tuple[Array, Array, Array]:
    """Returns the weights as shares, even ones where there are none, and whether both arms have some."""
    totals = w0.sum(), w1.sum()
    p0, p1 = (
        jnp.where(total > 0, w / jnp.where(total > 0, total, 1), 1 / max(len(w), 1))
        for w, total in zip((w0, w1), totals, strict=True)
    )
    return p0, p1, (totals[0] > 0) & (totals[1] > 0)


def _squared_distances(a: Float[Array, "rows code"], b: Float[Array, "others code"]) -> Float[Array, "rows others"]:
    # Not |a|^2 + |b|^2 - 2ab, which has no digits left where codes lie close together.
    return ((a[:, None] - b[None, :]) ** 2).sum(axis=2)


def _ott() -> tuple[Any, Any, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of JAXopt, which OTT imports
            from ott.geometry import geometry
            from ott.problems.linear import linear_problem
            from ott.solvers.linear import sinkhorn
    except ImportError as error:
        raise ImportError("the wasserstein balance needs OTT: pip install 'twohead[balance]'") from error
    return geometry, linear_problem, sinkhorn
