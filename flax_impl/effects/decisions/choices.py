"""Which rows to treat with which arm: by gain less cost, and by gain per cost where money or places are short."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from torch_ref.common.checks.arguments import check_number, check_shape
from torch_ref.common.checks.arrays import check_rows

from ..judging.columns import check_columns, check_of_arms, row_weights

_SLACK = 1e-9  # of a budget: what adding up costs rounds


def choose_arms(
    effects: Float[np.ndarray, " rows"] | Float[np.ndarray, "arms rows"],
    costs: float | Float[np.ndarray, " of_arms"] | Float[np.ndarray, "arms rows"] = 0.0,
    *,
    budget: float | None = None,
    share: float | None = None,
    w: Float[np.ndarray, " rows"] | None = None,
) -> Int[np.ndarray, " rows"]:
    """Returns the arm that each row should get, so that all gain as much as possible, less what that costs.

    Without a limit each row gets the arm with the most gain less cost. Under a `budget`, rows and arms are taken by
    falling gain per cost until nothing else fits. Of several arms, a row moves from the control to the arm with the
    most gain per cost, then to dearer arms by their additional gain per additional cost. That is the greedy rule of the
    multiple-choice knapsack, at most one step short of the best. Ties go to the first row, and to the first arm.

    Args:
        effects: the effect of treatment on each row [rows], for two arms. Or what each arm does [arms, rows], the
            control first, as effects or as outcomes: only differences from the control count. Larger is better.
        costs: in the outcome's unit. A number: of each treatment. [arms]: of each arm, the control's first. [rows]: of
            each row, whatever its treatment; as many numbers as arms are taken for those of the arms. [arms, rows]:
            of each arm in each row.
        budget: what may be spent on all rows, beyond giving all the control; None for no limit.
        share: of the rows that may get another arm than the control, from 0 to 1: those with the most gain less cost;
            None for all.
        w: how many rows of the population each row stands for [rows], in any unit; None for the same. A row counts so
            often in a budget or a share, against the mean row, and gets its arm as a whole.

    Returns:
        The place of each row's arm [rows]: 0 is the control.

    Raises:
        ValueError: other shapes, no rows, numbers that are not finite, costs below 0, a budget below 0, a share outside
            0 to 1, weights that are negative or all zero, or both limits at once.

    Example:
        >>> choose_arms(np.array([3.0, 1.0, 2.0]), costs=1.5).tolist()
        [1, 0, 1]
        >>> choose_arms(np.array([3.0, 1.0, 2.0]), costs=1.5, budget=2.0).tolist()
        [1, 0, 0]
        >>> three = np.array([[0.0, 0.0], [2.0, 3.0], [5.0, 3.5]])
        >>> choose_arms(three, costs=np.array([0.0, 1.0, 2.0]), budget=3.0).tolist()
        [2, 1]

    Source: Sinha, Zoltners, "The multiple-choice knapsack problem", 1979; Bhattacharya, Dupas, "Inferring welfare
    maximizing treatment assignment under budget constraints", 2012.
    """
    gains = _gains(effects)
    costs, w = cost_table(costs, *gains.shape), row_weights(w, gains.shape[1])
    if budget is not None and share is not None:
        raise ValueError("budget: expected a budget or a share, got both")
    if budget is not None:
        return _within_budget(gains, costs - costs[0], check_number("budget", budget, at_least=0), w)
    net = gains - costs
    choice = np.argmax(net, axis=0)
    if share is not None:
        check_number("share", share, at_least=0)
        if share > 1:
            raise ValueError(f"share: expected a share of at most 1, got {share}")
        rows = len(choice)
        best = net.max(axis=0) - net[0]
        order = np.argsort(-best, kind="stable")
        first = order[np.cumsum(w[order]) <= share * rows + _SLACK * rows]
        choice = np.where(np.isin(np.arange(rows), first), choice, 0)
    return choice


def cost_table(costs: Any, arms: int, rows: int) -> Float[np.ndarray, "arms rows"]:
    """Returns the cost of each arm in each row [arms, rows], from what `choose_arms` takes as costs.

    Raises ValueError for other shapes, and for costs that are no finite numbers of at least 0.
    """
    array = np.asarray(costs)
    if array.ndim == 2:
        table = check_of_arms("costs", array, rows, arms)
    elif array.ndim == 1 and len(array) == arms:
        table = np.repeat(check_columns(costs=array)[0][:, None], rows, axis=1)
    else:
        if array.ndim:
            check_shape("costs", array, (rows,))
        table = np.zeros((arms, rows))  # the control is no treatment
        table[1:] = check_columns(costs=array)[0] if array.ndim else check_number("costs", costs)
    low = np.argwhere(table < 0)
    if len(low):
        raise ValueError(f"costs: expected costs of at least 0, got {table[tuple(low[0])]:g}")
    return table


def check_arm_of_rows(name: str, choice: Any, arms: int, rows: int) -> Int[np.ndarray, " rows"]:
    """Returns the arm of each row as an int; raises ValueError, naming the first row, unless it is one of the arms."""
    array = np.asarray(choice)
    check_shape(name, array, (rows,))
    wrong = np.flatnonzero((array < 0) | (array >= arms)) if array.dtype.kind in "bui" else np.arange(rows)
    if len(wrong):
        raise ValueError(f"{name}: expected an arm from 0 to {arms - 1}, got {array[wrong[0]]} in row {wrong[0]}")
    return array.astype(np.int64)


def _gains(effects: Any) -> Float[np.ndarray, "arms rows"]:
    """Returns what each arm does beyond the control [arms, rows]."""
    array = np.asarray(effects)
    if array.ndim == 1:
        check_rows("effects", array)
        [effect] = check_columns(effects=array)
        return np.stack([np.zeros_like(effect), effect])
    check_shape("effects", array, ("arms", "rows"))
    found = check_of_arms("effects", array, array.shape[1])
    check_rows("effects", found.T)
    return found - found[0]


def _within_budget(gains: np.ndarray, costs: np.ndarray, budget: float, w: np.ndarray) -> np.ndarray:
    """Returns the arms by falling gain per cost; both are measured from the control [arms, rows], costs times `w`."""
    rows = np.arange(gains.shape[1])
    # What costs no more than the control needs no budget.
    at = np.argmax(np.where(costs <= 0, gains - costs, -np.inf), axis=0)
    choice = at.copy()
    left = budget * (1 + _SLACK) - float((w * costs[at, rows]).sum())
    steps: list[tuple[np.ndarray, ...]] = []
    before = np.full(len(rows), np.inf)
    for _ in range(len(gains) - 1):
        more = costs - costs[at, rows]
        with np.errstate(divide="ignore", invalid="ignore"):
            per_cost = np.where(more > 0, (gains - gains[at, rows]) / more, -np.inf)
        top = per_cost.max(axis=0)
        to = np.argmin(np.where(per_cost == top, more, np.inf), axis=0)  # of equally good steps, the smallest
        goes = top > 1  # what costs more than it gains is not worth it
        # A later step is never the better one, but for rounding.
        before = np.where(goes, np.minimum(before, top), before)
        steps.append((rows[goes], to[goes], (w * more[to, rows])[goes], before[goes]))
        at = np.where(goes, to, at)
    of_row, to_arm, cost, per_cost = (np.concatenate(column) for column in zip(*steps, strict=True))
    order = np.argsort(-per_cost, kind="stable")
    stopped = np.zeros(len(rows), bool)
    for row, arm, price in zip(of_row[order].tolist(), to_arm[order].tolist(), cost[order].tolist(), strict=True):
        if price <= left and not stopped[row]:
            choice[row], left = arm, left - price
        else:
            stopped[row] = True  # its dearer arms do not fit either
    return choice
