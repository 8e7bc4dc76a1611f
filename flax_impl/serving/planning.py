"""Reads a trained model into the tables of a plan."""

from itertools import combinations
from typing import Any

import numpy as np

from torch_ref.common.data.design import GAP, OTHERS, VALUE, Design
from torch_ref.common.data.encoding import Encoding

from ..effects.effect_model import EffectModel
from ..effects.intervals.bootstrap import student_factor
from ..effects.intervals.calibrated import calibrated_factor
from ..effects.learners.blend import Blend
from ..effects.propensities import NEAREST
from .forest import read_forest
from .plan import Encoder, Joined, Layer, Margin, Names, Nets, Opener, Plan

_NEVER = float(np.finfo(np.float64).max)  # where a column that stays 0 would start to rise


def make_plan(model: EffectModel, alpha: float) -> Plan:
    """Returns what a model computes with.

    Args:
        model: the model.
        alpha: the probability that an interval misses.

    Raises:
        ValueError: `alpha` is out of bounds, or the model holds trees that are no oblivious ones.
    """
    scales, ensemble = model.scales, model.ensemble
    return Plan(
        len(model.feature_names),
        None if ensemble.design is None else _opener(ensemble.design),
        _encoder(scales.x_mean, scales.x_std, ensemble.encoding),
        _nets(ensemble.config, ensemble.weights),
        float(scales.y_mean[0]),
        float(scales.y_std[0]),
        scales.binary,
        None if ensemble.blend is None else _joined(ensemble.blend),
        _margins(model, alpha) if model.has_intervals else None,
        _names(model.arms),
    )


def _opener(design: Design) -> Opener:
    source, meaning, features = design.source, design.meaning, range(len(design.columns))
    is_value, is_other = meaning == VALUE, meaning == OTHERS
    gaps = np.array([column.gaps for column in design.columns])
    siblings = (source[:, None] == source) & (meaning >= 0)[:, None] & is_other
    categories = [feature for feature in features if design.columns[feature].levels is not None]
    levels = [len(design.columns[feature].levels or ()) for feature in categories]
    embedded = [design.columns[feature] for feature in design.embedded]
    return Opener(
        source=source,
        is_value=is_value[None],
        may_lack=(is_value & gaps[source])[None],
        level=np.where(meaning >= 0, meaning, np.nan)[None],
        is_gap=(meaning == GAP)[None].astype(float),
        is_other=is_other[None].astype(float),
        siblings=siblings.astype(float) if is_other.any() else None,
        seen=(~is_value & (design.mean > 0))[None].astype(float),
        feature_of=(source[:, None] == np.array(features)).astype(float),
        mean=design.mean[None],
        columns=design.finite_entries,
        for_nets=design.net_entries,
        categories=np.array(categories, np.int64),
        highest=np.array(levels, float)[None] - 1,
        embedded=design.embedded,
        gap_codes=tuple(float(len(column.levels or ())) if column.gaps else -1.0 for column in embedded),
    )


def _encoder(mean: np.ndarray, std: np.ndarray, encoding: Encoding | None) -> Encoder:
    numbers, none = len(mean), np.empty(0)
    if encoding is None:
        one, zero = np.ones(numbers, int), np.zeros(numbers, int)
        encoding = Encoding(none, none, zero, none, zero, one)
    places = np.flatnonzero(encoding.ends)
    of_number = (_split(encoding.values, encoding.points), _split(encoding.normals, encoding.points))
    values, levels = ([of[place].astype(float) for place in places] for of in of_number)
    # Beyond the values seen in training a line is level.
    line_x = [np.append(x[:1], x) for x in values]
    line_y = [np.append(y[:1], y) for y in levels]
    slope = [np.concatenate([[0], np.diff(y) / np.diff(x), [0]]) for x, y in zip(values, levels, strict=True)]
    rank_of = {place: numbers + rank for rank, place in enumerate(places.tolist())}
    order, column_of, piece_of, low, high = [], [], [], [], []
    for number, (knots, width) in enumerate(
        zip(_split(encoding.knots.astype(float), encoding.ends), encoding.widths.tolist(), strict=True)
    ):
        own = [number, *([rank_of[number]] if number in rank_of else [])]
        pieces = width - len(own)
        unused = [_NEVER] * (pieces - max(0, len(knots) - 1))
        order += own + [numbers + len(places) + len(piece_of) + piece for piece in range(pieces)]
        column_of += [number] * width
        piece_of += own[-1:] * pieces
        low += [*knots[:-1], *unused]
        high += [*knots[1:], *unused]
    rises = np.array(low) < _NEVER
    return Encoder(
        mean=mean[None],
        std=std[None],
        ranked=places,
        values=tuple(values),
        starts=np.cumsum([0, *map(len, line_x)])[:-1],
        line_x=np.concatenate([none, *line_x]),
        line_y=np.concatenate([none, *line_y]),
        slope=np.concatenate([none, *slope]),
        piece_of=np.array(piece_of, np.int64),
        low=np.array(low, float)[None],
        width=np.where(rises, np.subtract(high, low), 1.0)[None],
        order=np.array(order, np.int64),
        column_of=np.array(column_of, np.int64),
    )


def _split(values: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    return np.split(values, np.cumsum(lengths)[:-1])


def _nets(config: dict[str, Any], weights: list[dict[str, np.ndarray]]) -> Nets:
    stacked = {name: np.stack([net[name] for net in weights]) for name in weights[0]}
    embeddings = config.get("embeddings") or []
    tables = tuple(
        np.pad(stacked[f"embedding.table{number}"], ((0, 0), (1, 0), (0, 0))) for number in range(len(embeddings))
    )
    parts = np.cumsum([config["in_features"] - len(embeddings), *(width for _, width in embeddings)])

    def layers(part: str, first: bool) -> tuple[Layer, ...]:
        found: list[Layer] = []
        while (name := f"{part}.layer{len(found)}.weight") in stacked:
            kernel, bias = stacked[name].transpose(0, 2, 1), stacked[name.replace("weight", "bias")][:, None]
            kernels = np.split(kernel, parts[:-1], axis=1) if first and not found else [kernel]
            if first and not found and config.get("input_groups") is not None:
                gate = np.repeat(stacked["gate.scale"].astype(float) ** 4, config["input_groups"], axis=1)
                kernels[0] = (gate[:, :, None] * kernels[0]).astype(kernel.dtype)
            found.append((tuple(map(np.ascontiguousarray, kernels)), bias))
        return tuple(found)

    representation = layers("representation", first=True)
    heads = tuple(layers(f"head{arm}", first=not representation) for arm in range(config.get("arms", 2)))
    return Nets(tables, representation, heads, config["activation"], config["final_activation"])


def _joined(blend: Blend) -> Joined:
    trees, scales = blend.trees, blend.trees.scales

    def read(model: Any) -> Any:
        return read_forest(model, scales.x_mean, scales.x_std)

    return Joined(
        tuple(map(read, trees.of_outcomes)),
        tuple((read(by_first), read(by_own)) for by_first, by_own in trees.of_effects),
        blend.outcomes,
        blend.effects,
        blend.slopes.T,
        blend.intercepts[None],
        NEAREST,
    )


def _margins(model: EffectModel, alpha: float) -> tuple[Margin, ...]:
    ensemble, others = model.ensemble, range(1, len(model.arms))
    if ensemble.calibration is None:
        return (Margin(student_factor(model.members, alpha), 1.0, 0.0),) * len(others)
    least = student_factor(model.members, alpha) if ensemble.bootstrap else 0.0
    pairs = list(combinations(range(len(model.arms)), 2))
    of_pairs = [ensemble.calibration[pairs.index((0, arm))] for arm in others]
    return tuple(Margin(max(calibrated_factor(of, alpha), least), 0.5, float(of[0]) / 2) for of in of_pairs)


def _names(arms: tuple[Any, ...]) -> Names:
    """Returns the names that `twohead predict` gives its columns."""
    if len(arms) == 2:
        return Names(("y0", "y1"), ("effect",), (("low", "high"),))
    others = arms[1:]
    return Names(
        tuple(f"y_{label}" for label in arms),
        tuple(f"effect_{label}" for label in others),
        tuple((f"low_{label}", f"high_{label}") for label in others),
    )
