"""From a table larger than memory to what nets train on: a sample, one pass, and how each batch is encoded."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from torch_ref.common.checks.arguments import check_integer, listed, shown
from torch_ref.common.data.columns import Column
from torch_ref.common.data.design import Design
from torch_ref.common.data.encoding import Encoding, encode_features
from torch_ref.common.data.from_table import from_table
from torch_ref.common.data.treatment_data import Scales, TreatmentData
from torch_ref.common.stream.columns import choose_columns
from torch_ref.common.stream.mixed.coding import RowCoding, check_complete
from torch_ref.common.stream.mixed.sample import sample_rows
from torch_ref.common.stream.mixed.table import MixedTable
from torch_ref.common.stream.source import naming
from torch_ref.common.stream.table import Arrays

from ..ensemble_file import Ensemble
from ..overlap import examine
from ..prepare import Preparation, check_targeted, choose_lengths, warn_user
from ..rows import MemberRows, draw_members
from ..settings import EffectSettings
from .measured import Measured, measure

SAMPLE = 100_000  # rows
IN_MEMORY = "train on a sample of its rows in memory for that"
_MOST_STEPS, _LEAST_EPOCHS = 200_000, 2  # of a net, where nobody says how long it trains


class StreamedPreparation(NamedTuple):
    """What an ensemble trains on, of a table that is read meanwhile.

    Attributes:
        table: gives x, t, y and perhaps w as nets take them.
        prepared: scales, encoding, design and lengths; `arrays` are those of one row, and `rows` has the numbers of the
            held-out rows: nets train on all others.
        measured: what all rows tell.
        arms: the label of each arm.
    """

    table: MixedTable
    prepared: Preparation
    measured: Measured
    arms: tuple[Any, ...]

    def ensemble(self, config: dict[str, Any], weights: list[dict[str, np.ndarray]]) -> Ensemble:
        """Returns the ensemble of trained nets.

        Args:
            config: of each net.
            weights: of each net, by torch's names.
        """
        names = tuple(column.name for column in self.measured.columns)
        scales, encoding, *_, design, _ = self.prepared
        return Ensemble(config, weights, scales, encoding, names, False, {}, arms=self.arms, design=design)

    @property
    def held_out(self) -> Int[np.ndarray, "members held_out"] | None:
        """The numbers of each net's held-out rows, or None."""
        return self.prepared.rows.validation


@dataclass(frozen=True)
class BatchEncoding:
    """Makes of some rows what nets take.

    Args:
        scales: as for `encode_features`.
        encoding: as for `encode_features`.
        design: as for `encode_features`.
        arm_weights: that the rows of each arm get in the loss [arms], or None.
    """

    scales: Scales
    encoding: Encoding | None
    design: Design | None
    arm_weights: Float[np.ndarray, " arms"] | None

    def __call__(self, arrays: Arrays) -> Arrays:
        """Returns x, t, y and perhaps w.

        Args:
            arrays: of some rows, as `RowCoding` makes them.
        """
        x = encode_features(arrays["x"], self.scales, self.encoding, self.design)
        made = arrays | {"x": x, "y": (arrays["y"] - self.scales.y_mean) / self.scales.y_std}
        if self.arm_weights is not None:
            made["w"] = made.get("w", 1.0) * self.arm_weights[arrays["t"]]
        return made


def prepare_streamed(
    source: Any,
    settings: EffectSettings,
    *,
    sample: int = SAMPLE,
    window: int | None = None,
    progress: bool = True,
    weight: str | None = None,
    treatment: str = "t",
    outcome: str = "y",
    **chosen: Any,
) -> StreamedPreparation:
    """Reads a table twice, a sample of its rows and all of them, and warns of what makes effects doubtful.

    Args:
        source: as for `fit_effects_streamed`.
        settings: as for `fit_effects_streamed`.
        sample: as for `fit_effects_streamed`.
        window: as for `fit_effects_streamed`.
        progress: as for `fit_effects_streamed`.
        weight: as for `fit_effects_streamed`.
        treatment: as for `fit_effects_streamed`.
        outcome: as for `fit_effects_streamed`.
        chosen: `control`, `features`, `ignore` and `categories`, as for `fit_effects_streamed`.

    Raises:
        ValueError: as `fit_effects_streamed`.
    """
    _check_settings(settings)
    drawn = _draw(source, sample, window, settings.seed, progress, treatment, outcome, weight, **chosen)
    data, table, arms = drawn.data, drawn.table, len(drawn.data.arms)
    check_targeted(settings, arms)
    columns = data.columns or tuple(map(Column, data.feature_names))
    coding = RowCoding(columns, treatment, data.arms, outcome, weight, settings.binary)
    measured = measure(table, coding, data, progress)
    if not measured.weighs:
        raise ValueError(f"{source}: column {weight}: expected at least one weight that is not zero, got none")
    _warn(data, measured, drawn.part, len(table))
    rows = _held_out(data, drawn.numbers, settings)
    arm_weights = len(table) / (arms * measured.counts) if settings.cfr_weights else None
    encode = BatchEncoding(measured.scales, _encoding(data, measured, settings), measured.design, arm_weights)
    first = encode({name: array[:1] for name, array in data.arrays().items()})
    held_out = 0 if rows.validation is None else rows.validation.shape[1]
    lengths = _lengths(settings, len(table) - held_out)
    prepared = Preparation(measured.scales, encode.encoding, first, rows, lengths, measured.design)
    table = table.reading(
        replace(coding, columns=measured.columns), encode, sum(array.size for array in first.values())
    )
    return StreamedPreparation(table, prepared, measured, data.arms)


class _Drawn(NamedTuple):
    """A sample of a table.

    Attributes:
        table: all rows.
        numbers: of those in the sample.
        data: the sample.
        part: says in messages that it is one; empty where it is the whole table.
    """

    table: MixedTable
    numbers: Int[np.ndarray, " sample"]
    data: TreatmentData
    part: str


def _draw(
    source: Any, sample: int, window: int | None, seed: int, progress: bool, treatment: str, outcome: str,
    weight: str | None, features: Sequence[str] | None = None, ignore: Sequence[str] = (),
    categories: Sequence[str] = (), control: object = None,
) -> _Drawn:  # fmt: skip
    columns: dict[str, Any] = choose_columns(
        source, treatment=treatment, outcome=outcome, weight=weight, features=features, ignore=ignore,
        categories=categories,
    )  # fmt: skip
    table = MixedTable(source, columns, window)
    names, *others = columns.values()
    numbers, found = sample_rows(table, sample, seed, lambda group: check_complete(group, others), progress)
    part = "" if len(numbers) == len(table) else f"in a sample of {len(numbers)} rows"
    with naming(f"{source}{part and ', '}{part}"):
        data = from_table(
            found, treatment=treatment, outcome=outcome, weight=weight, control=control, features=names,
            categories=categories,
        )  # fmt: skip
    return _Drawn(table, numbers, data, part)


def _check_settings(settings: EffectSettings) -> None:
    """Raises ValueError for what needs all rows in memory."""
    for name, asked, nothing in (
        ("bootstrap", settings.bootstrap, "False"),
        ("calibrate", settings.calibrate, "False"),
        ("learners", "trees" in settings.learners, "nets alone"),
    ):
        if asked:
            got = shown(getattr(settings, name))
            raise ValueError(f"{name}: expected {nothing} with a table that is read in parts, got {got}; {IN_MEMORY}")


def _encoding(data: TreatmentData, measured: Measured, settings: EffectSettings) -> Encoding | None:
    """Returns the encoding that the sample says."""
    bins = check_integer("bins", settings.bins, at_least=0)
    opened = data.x if measured.design is None else measured.design.for_nets(data.x)
    return Encoding.of(measured.scales.features(opened).astype(settings.dtype), bins) if bins else None


def _held_out(data: TreatmentData, numbers: Int[np.ndarray, " sample"], settings: EffectSettings) -> MemberRows:
    """Returns the numbers, in the table, of the rows of the sample that each net is judged by."""
    found = draw_members(
        data.t, members=settings.members, validation_share=settings.validation_share, bootstrap=False,
        seed=settings.seed, arms=len(data.arms),
    ).validation  # fmt: skip
    nothing = np.empty((settings.members, 0), np.int32)
    return MemberRows(nothing, None if found is None else numbers[found].astype(np.int32))


def _lengths(settings: EffectSettings, rows: int) -> dict[str, Any]:
    """Returns how long nets train: as in memory, but for tables that would take very many steps."""
    lengths = choose_lengths(settings, rows)
    if settings.epochs is None and settings.steps is None:
        an_epoch = -(-rows // lengths["batch_size"])
        lengths["epochs"] = min(lengths["epochs"], max(_LEAST_EPOCHS, _MOST_STEPS // an_epoch))
    return lengths


def _warn(data: TreatmentData, measured: Measured, part: str, rows: int) -> None:
    for sentence in examine(data):
        warn_user(f"{part}{part and ': '}{sentence}")
    if measured.unseen:
        counts = listed(f"{name} in {count} of {rows} rows" for name, count in measured.unseen.items())
        warn_user(f"the sample lacks some levels, which count as an average one: {counts}")
