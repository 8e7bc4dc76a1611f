"""What an exported model computes with: tables of arrays, which each writer turns into its own format."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from torch_ref.common.data.encoding import Encoding

from ..effects.effect_model import EffectModel, student_factor
from ..effects.intervals.calibrated import calibrated_factor
from ..effects.learners.blend import Blend
from ..effects.propensities import NEAREST
from .forest import Forest, read_forest

Layer = tuple[Float[np.ndarray, "members in out"], Float[np.ndarray, "members 1 out"]]
_NEVER = float(np.finfo(np.float64).max)  # where a column that stays 0 would start to rise


class Encoder(NamedTuple):
    """How features become the nets' columns: standardised, ranked, in pieces, and put in their order.

    Between two neighbouring values a rank is a straight line, and the lines of all features lie in one table.

    Attributes:
        mean: of each feature [1, features].
        std: of each feature [1, features].
        ranked: the places of the features that have a rank [ranks].
        values: for each of them, where a new line starts.
        starts: for each of them, where its lines start in the table [ranks].
        line_x: where each line starts, on the standardised scale [lines].
        line_y: the rank there [lines].
        slope: of each line [lines].
        piece_of: the place of each piece's feature or rank, among all features and then all ranks [pieces].
        low: where each piece starts to rise from 0 [1, pieces].
        width: after what length it has reached 1 [1, pieces].
        order: the places of the nets' columns among all features, ranks and pieces [columns].
    """

    mean: Float[np.ndarray, "1 features"]
    std: Float[np.ndarray, "1 features"]
    ranked: Int[np.ndarray, " ranks"]
    values: tuple[Float[np.ndarray, " values"], ...]
    starts: Int[np.ndarray, " ranks"]
    line_x: Float[np.ndarray, " lines"]
    line_y: Float[np.ndarray, " lines"]
    slope: Float[np.ndarray, " lines"]
    piece_of: Int[np.ndarray, " pieces"]
    low: Float[np.ndarray, "1 pieces"]
    width: Float[np.ndarray, "1 pieces"]
    order: Int[np.ndarray, " columns"]


class Nets(NamedTuple):
    """The weights of all members, a net's layers one after the other; gates are part of the first.

    Attributes:
        representation: the layers that all heads share.
        heads: the layers of each arm's head.
        activation: after every layer but a head's last.
        final_activation: after a head's last.
    """

    representation: tuple[Layer, ...]
    heads: tuple[tuple[Layer, ...], ...]
    activation: str
    final_activation: str


class Joined(NamedTuple):
    """The trees beside the nets, and the weights of both; see `Blend`.

    Attributes:
        outcomes: of each arm's outcome.
        effects: of the effect, learnt from the rows of each arm.
        of_outcomes: weights of nets and trees in each arm's outcome [arms, 2].
        of_effects: weights of nets, T- and X-learner in the effect [3].
        slopes: of the propensity's log odds [features, 1].
        intercept: of them.
        nearest: how close to 0 and 1 a propensity comes.
    """

    outcomes: tuple[Forest, Forest]
    effects: tuple[Forest, Forest]
    of_outcomes: Float[np.ndarray, "arms 2"]
    of_effects: Float[np.ndarray, " 3"]
    slopes: Float[np.ndarray, "features 1"]
    intercept: float
    nearest: float


class Margin(NamedTuple):
    """Half an interval's width, from the variance of the members' effects: `factor * sqrt(share * variance + more)`."""

    factor: float
    share: float
    more: float


class Plan(NamedTuple):
    """All that an exported model computes with.

    Attributes:
        encoder: from features to columns.
        nets: from columns to outcomes, standardised or in log odds.
        mean: of the outcome.
        std: of the outcome.
        binary: the outcome is 0 or 1.
        joined: the trees; or None.
        margin: of the effects' intervals; or None.
    """

    encoder: Encoder
    nets: Nets
    mean: float
    std: float
    binary: bool
    joined: Joined | None
    margin: Margin | None


def make_plan(model: EffectModel, alpha: float) -> Plan:
    """Returns what a model computes with.

    Args:
        model: the model.
        alpha: the probability that an interval misses.

    Raises:
        ValueError: `alpha` is out of bounds.
    """
    scales, ensemble = model.scales, model.ensemble
    return Plan(
        _encoder(scales.x_mean, scales.x_std, ensemble.encoding),
        _nets(ensemble.config, ensemble.weights),
        float(scales.y_mean[0]),
        float(scales.y_std[0]),
        scales.binary,
        None if ensemble.blend is None else _joined(ensemble.blend),
        _margin(model, alpha) if model.has_intervals else None,
    )


def _encoder(mean: np.ndarray, std: np.ndarray, encoding: Encoding | None) -> Encoder:
    features, none = len(mean), np.empty(0)
    if encoding is None:
        places = np.empty(0, np.int64)
        encoding = Encoding(none, none, np.ones(features, int), none, np.zeros(features, int), np.ones(features, int))
    else:
        places = np.flatnonzero(encoding.ends)
    of_feature = _split(encoding.values, encoding.points), _split(encoding.normals, encoding.points)
    values = tuple(of_feature[0][place].astype(float) for place in places)
    levels = [of_feature[1][place].astype(float) for place in places]
    ends = [knots.astype(float) for knots in _split(encoding.knots, encoding.ends)]
    # Beyond the values seen in training a line is level.
    line_x = [np.append(x[:1], x) for x in values]
    line_y = [np.append(y[:1], y) for y in levels]
    slope = [np.concatenate([[0], np.diff(y) / np.diff(x), [0]]) for x, y in zip(values, levels, strict=True)]
    rank_of = {place: features + number for number, place in enumerate(places.tolist())}
    order, piece_of, low, high = [], [], [], []
    for feature, (knots, width) in enumerate(zip(ends, encoding.widths.tolist(), strict=True)):
        own = [feature, *([rank_of[feature]] if feature in rank_of else [])]
        pieces = width - len(own)
        unused = pieces - max(0, len(knots) - 1)
        order += own + [features + len(places) + len(piece_of) + number for number in range(pieces)]
        piece_of += own[-1:] * pieces
        low += [*knots[:-1], *[_NEVER] * unused]
        high += [*knots[1:], *[_NEVER] * unused]
    unrisen = np.array(low) == _NEVER
    return Encoder(
        mean[None], std[None], places, values,
        np.cumsum([0, *map(len, line_x)])[:-1], *(np.concatenate([none, *lines]) for lines in (line_x, line_y, slope)),
        np.array(piece_of, np.int64), np.array(low, float)[None], np.where(unrisen, 1, np.subtract(high, low))[None],
        np.array(order, np.int64),
    )  # fmt: skip


def _split(values: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    return np.split(values, np.cumsum(lengths)[:-1])


def _nets(config: dict[str, Any], weights: list[dict[str, np.ndarray]]) -> Nets:
    stacked = {name: np.stack([net[name] for net in weights]) for name in weights[0]}
    gate = None
    if config.get("input_groups") is not None:
        gate = np.repeat(stacked["gate.scale"].astype(float) ** 4, config["input_groups"], axis=1)

    def layers(part: str, first: bool) -> tuple[Layer, ...]:
        found: list[Layer] = []
        while (name := f"{part}.layer{len(found)}.weight") in stacked:
            kernel, bias = stacked[name].transpose(0, 2, 1), stacked[name.replace("weight", "bias")][:, None]
            if first and not found and gate is not None:
                kernel = (gate[:, :, None] * kernel).astype(kernel.dtype)
            found.append((np.ascontiguousarray(kernel), bias))
        return tuple(found)

    representation = layers("representation", first=True)
    arms = sum(1 for name in stacked if name.startswith("head") and name.endswith(".layer0.weight"))
    heads = tuple(layers(f"head{arm}", first=not representation) for arm in range(arms))
    return Nets(representation, heads, config["activation"], config["final_activation"])


def _joined(blend: Blend) -> Joined:
    trees, scales = blend.trees, blend.trees.scales
    forests = [
        read_forest(model, scales.x_mean, scales.x_std)
        for model in (trees.outcome0, trees.outcome1, trees.effect0, trees.effect1)
    ]
    outcome0, outcome1, effect0, effect1 = forests
    return Joined(
        (outcome0, outcome1), (effect0, effect1), blend.outcomes, blend.effects, blend.slopes[:, None],
        blend.intercept, NEAREST,
    )  # fmt: skip


def _margin(model: EffectModel, alpha: float) -> Margin:
    calibration = model.ensemble.calibration
    if calibration is None:
        return Margin(student_factor(model.members, alpha), 1.0, 0.0)
    least = student_factor(model.members, alpha) if model.ensemble.bootstrap else 0.0
    return Margin(max(calibrated_factor(calibration, alpha), least), 0.5, float(calibration[0]) / 2)
