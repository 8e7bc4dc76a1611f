"""What an exported model computes with: tables of arrays, which `program` reads and every format gets."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from .forest import Forest

# Kernels for each part of the input [members, in, out], and the bias [members, 1, out].
Layer = tuple[tuple[np.ndarray, ...], np.ndarray]


class Opener(NamedTuple):
    """How features with gaps and categories become the entries of a `Design`, and these the columns for nets and trees.

    Attributes:
        source: the place of each entry's feature [entries].
        is_value: the entry is a number itself [1, entries].
        may_lack: it is a number that had gaps in training [1, entries].
        level: the code whose rows the entry marks with 1, NaN for none [1, entries].
        is_gap: 1 where it marks gaps [1, entries].
        is_other: 1 where it marks the levels that have no entry of their own [1, entries].
        siblings: 1 from each level's entry to its feature's entry of other levels [entries, entries]; or None.
        seen: 1 where the entry marked a row of the training [1, entries].
        feature_of: 1 from each entry to its feature [entries, features].
        mean: what stands for what training had not [1, entries].
        columns: the places of the entries that trees and propensities take [columns].
        for_nets: the places of the entries that nets take [net].
        categories: the places of the features that are categories [categories].
        highest: the last code of each [1, categories].
        embedded: the places of the features whose codes nets take.
        gap_codes: the code of a gap of each, -1 for none.
    """

    source: Int[np.ndarray, " entries"]
    is_value: Bool[np.ndarray, "1 entries"]
    may_lack: Bool[np.ndarray, "1 entries"]
    level: Float[np.ndarray, "1 entries"]
    is_gap: Float[np.ndarray, "1 entries"]
    is_other: Float[np.ndarray, "1 entries"]
    siblings: Float[np.ndarray, "entries entries"] | None
    seen: Float[np.ndarray, "1 entries"]
    feature_of: Float[np.ndarray, "entries features"]
    mean: Float[np.ndarray, "1 entries"]
    columns: Int[np.ndarray, " columns"]
    for_nets: Int[np.ndarray, " net"]
    categories: Int[np.ndarray, " categories"]
    highest: Float[np.ndarray, "1 categories"]
    embedded: tuple[int, ...]
    gap_codes: tuple[float, ...]


class Encoder(NamedTuple):
    """How numbers become the nets' columns: standardised, ranked, in pieces, and put in their order.

    Between two neighbouring values a rank is a straight line, and the lines of all numbers lie in one table.

    Attributes:
        mean: of each number [1, numbers].
        std: of each number [1, numbers].
        ranked: the places of the numbers that have a rank [ranks].
        values: for each of them, where a new line starts.
        starts: for each of them, where its lines start in the table [ranks].
        line_x: where each line starts, on the standardised scale [lines].
        line_y: the rank there [lines].
        slope: of each line [lines].
        piece_of: the place of each piece's number or rank, among all numbers and then all ranks [pieces].
        low: where each piece starts to rise from 0 [1, pieces].
        width: after what length it has reached 1 [1, pieces].
        order: the places of the nets' columns among all numbers, ranks and pieces [columns].
        column_of: the place of each of these columns' number [columns].
    """

    mean: Float[np.ndarray, "1 numbers"]
    std: Float[np.ndarray, "1 numbers"]
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
    column_of: Int[np.ndarray, " columns"]


class Nets(NamedTuple):
    """The weights of all members, a net's layers one after the other; gates are part of the first.

    Attributes:
        tables: what nets make of each embedded category [members, 1 + codes, width]; first zeros, for code -1.
        representation: the layers that all heads share.
        heads: the layers of each arm's head.
        activation: after every layer but a head's last.
        final_activation: after a head's last.
    """

    tables: tuple[Float[np.ndarray, "members codes width"], ...]
    representation: tuple[Layer, ...]
    heads: tuple[tuple[Layer, ...], ...]
    activation: str
    final_activation: str

    @property
    def dtype(self) -> np.dtype:
        """Of all weights."""
        return self.heads[0][-1][1].dtype

    @property
    def members(self) -> int:
        """How many nets there are."""
        return len(self.heads[0][-1][1])


class Joined(NamedTuple):
    """The trees beside the nets, and the weights of both; see `Blend`.

    Attributes:
        of_outcomes: trees of each arm's outcome.
        of_effects: trees of the effect of each other arm against the first: learnt from the first's rows and its own.
        outcome_weights: of nets and trees in each arm's outcome [arms, 2].
        effect_weights: of nets, T- and X-learner in the effect of each other arm [others, 3].
        slopes: of the arms' logits: of the second of two, or of each [features, logits].
        intercepts: of them [1, logits].
        nearest: how close to 0 and 1 a propensity comes.
    """

    of_outcomes: tuple[Forest, ...]
    of_effects: tuple[tuple[Forest, Forest], ...]
    outcome_weights: Float[np.ndarray, "arms 2"]
    effect_weights: Float[np.ndarray, "others 3"]
    slopes: Float[np.ndarray, "features logits"]
    intercepts: Float[np.ndarray, "1 logits"]
    nearest: float


class Margin(NamedTuple):
    """Half an interval's width, from the variance of the members' effects: `factor * sqrt(share * variance + more)`."""

    factor: float
    share: float
    more: float


class Names(NamedTuple):
    """What the outputs are called.

    Attributes:
        outcomes: of each arm.
        effects: of each other arm against the first.
        ends: lower and upper of each effect's interval.
    """

    outcomes: tuple[str, ...]
    effects: tuple[str, ...]
    ends: tuple[tuple[str, str], ...]


class Plan(NamedTuple):
    """All that an exported model computes with.

    Attributes:
        features: how many there are.
        opener: from features to a design; None where all features are numbers without gaps.
        encoder: from numbers to columns.
        nets: from columns to outcomes, standardised or in log odds.
        mean: of the outcome.
        std: of the outcome.
        binary: the outcome is 0 or 1.
        joined: the trees; or None.
        margins: of the interval of each other arm's effect; or None.
        names: of the outputs.
    """

    features: int
    opener: Opener | None
    encoder: Encoder
    nets: Nets
    mean: float
    std: float
    binary: bool
    joined: Joined | None
    margins: tuple[Margin, ...] | None
    names: Names

    @property
    def outputs(self) -> list[str]:
        """The names of all outputs, in their order."""
        ends = self.names.ends if self.margins is not None else [()] * len(self.names.effects)
        effects = [
            name for effect, of_effect in zip(self.names.effects, ends, strict=True) for name in (effect, *of_effect)
        ]
        return [*self.names.outcomes, *effects]
