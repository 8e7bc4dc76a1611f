"""The E-value: how strong a hidden confounder must be, in ratios of risks, to explain an effect away."""

import math

from torch_ref.common.checks.arguments import check_number


def e_value(risk_ratio: float) -> float:
    """Returns the least ratio of risks by which a hidden confounder must go with both, treatment and outcome.

    For the end of an interval, ask with the end that is nearer to 1; where the interval holds 1, the E-value is 1.

    Args:
        risk_ratio: the average outcome with treatment over the average without, of an outcome of 0 and 1; above 0.

    Returns:
        A ratio of at least 1: of probabilities of the outcome, and of the confounder between the arms, alike.

    Raises:
        ValueError: a ratio that is not above 0.

    Example:
        >>> round(e_value(3.9), 2), round(e_value(1 / 3.9), 2), e_value(1.0)
        (7.26, 7.26, 1.0)

    Source: VanderWeele, Ding, "Sensitivity analysis in observational research: introducing the E-value", 2017.
    """
    ratio = check_number("risk_ratio", risk_ratio, above=0)
    ratio = max(ratio, 1 / ratio)
    return ratio + math.sqrt(ratio * (ratio - 1))
