"""Measures what nets make of categories: taken as they are, or as columns of 0 and 1 that somebody made by hand.

On made-up data with 200 levels of 20 rows, each of which moves the outcome and the effect, nets embed the levels: once
each level has a part of its own in both, once it bends what features do, and there is less noise. On ACIC 2016, three
columns are text; nets see the same columns as if they had been made by hand.
"""

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from flax_impl.commands.backends import run_command
from flax_impl.commands.ihdp import split
from flax_impl.data import TreatmentData
from flax_impl.effects import EffectSettings, fit_effects, prepare, sqrt_pehe
from torch_ref.common.data.columns import Column
from torch_ref.common.data.treatment_data import sigmoid
from torch_ref.common.files.array_file import replacing

_NUMBERS, _LAST = 5, f"{'mean':>9}{'seconds':>9}"
# What a level does, and the standard deviation of the noise.
_KINDS = {"a part of its own": 1.0, "bends what features do": 0.5}
Tables = tuple[TreatmentData, TreatmentData]
Way = Callable[[TreatmentData, TreatmentData], Tables]


def parse() -> argparse.Namespace:
    """Returns the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--seeds", type=int, default=2, help="of the made-up tables (default: 2)")
    add("--levels", type=int, default=200, help="of the category (default: 200)")
    add("--rows", type=int, default=20, help="of each level, to train on (default: 20)")
    add("--replications", type=int, nargs="*", default=[1, 2, 3], help="of ACIC 2016 (default: 1 2 3)")
    add("--widths", type=int, nargs="*", default=[16], help="of embeddings, besides our own (default: 16)")
    add("--members", type=int, default=2, help="nets in an ensemble (default: 2)")
    add("--out", type=Path, metavar="FILE", help="where to write the table")
    return parser.parse_args()


def made_up(levels: int, rows: int, seed: int, kind: str) -> Tables:
    """Returns rows to train on, so many a level on average, and a quarter as many to test on.

    Each level has two traits, standard normal, of which the first moves the treatment, too.
    """
    generator = np.random.default_rng(seed)
    traits = generator.standard_normal((2, levels))
    count = levels * rows * 5 // 4
    level, x = generator.integers(0, levels, count), generator.standard_normal((count, _NUMBERS))
    one, two = traits[:, level]
    t = (generator.random(count) < sigmoid(0.8 * one + 0.4 * x[:, 0])).astype(np.int32)
    if kind == "a part of its own":
        mu0, effect = one + x[:, 0], 1 + 0.5 * x[:, 0] + two
    else:
        mu0, effect = one + two * x[:, 0], 1 + np.tanh(2 * one) + 0.5 * two * x[:, 2]
    mu0 = mu0 + np.sin(2 * x[:, 1])
    mu1 = mu0 + effect
    y = np.where(t == 1, mu1, mu0) + _KINDS[kind] * generator.standard_normal(count)
    names = tuple(f"x{i + 1}" for i in range(_NUMBERS))
    columns = (*map(Column, names), Column("level", levels=tuple(range(levels))))
    data = TreatmentData(
        np.column_stack([x, level]), t, y[:, None], mu0=mu0[:, None], mu1=mu1[:, None],
        feature_names=(*names, "level"), columns=columns,
    )  # fmt: skip
    train = levels * rows
    return data.take(np.arange(train)), data.take(np.arange(train, count))


def by_hand(train: TreatmentData, test: TreatmentData) -> Tables:
    """Returns the tables with a column of 0 and 1 for each level but the first."""
    columns = train.columns or ()
    text = [i for i, column in enumerate(columns) if column.levels is not None]
    numbers = [i for i in range(len(columns)) if i not in text]
    names = [columns[i].name for i in numbers]
    names += [f"{columns[i].name} is {level}" for i in text for level in (columns[i].levels or ())[1:]]

    def opened(data: TreatmentData) -> TreatmentData:
        levels = [data.x[:, i : i + 1] == np.arange(1, len(columns[i].levels or ())) for i in text]
        return replace(data, x=np.hstack([data.x[:, numbers], *levels]), feature_names=tuple(names), columns=None)

    return opened(train), opened(test)


def left_out(train: TreatmentData, test: TreatmentData) -> Tables:
    """Returns the tables without their categories."""
    columns = train.columns or ()
    kept = [i for i, column in enumerate(columns) if column.levels is None]
    names = tuple(columns[i].name for i in kept)
    first, second = (replace(data, x=data.x[:, kept], feature_names=names, columns=None) for data in (train, test))
    return first, second


def as_they_are(train: TreatmentData, test: TreatmentData) -> Tables:
    """Returns the tables with their categories."""
    return train, test


def error(tables: Tables, members: int) -> float:
    """Returns the root of the mean squared error of the effects (PEHE) on the test rows."""
    train, test = tables
    model = fit_effects(train, EffectSettings(members=members), progress=False)
    y0, y1 = (outcome[:, None] for outcome in model.potential_outcomes(test.x))
    assert test.mu0 is not None
    assert test.mu1 is not None
    return sqrt_pehe(y0, y1, test.mu0, test.mu1)


@contextmanager
def of_width(width: int | None) -> Iterator[None]:
    """Makes all embeddings so wide inside the block; None leaves them as they are."""
    own = prepare.embedding_width
    if width is not None:
        prepare.embedding_width = lambda levels: width
    try:
        yield
    finally:
        prepare.embedding_width = own


def measure(args: argparse.Namespace, say: Callable[[str], None]) -> None:
    """Trains all contestants on all tables, and says their errors."""
    own = prepare.embedding_width(args.levels)
    for kind, noise in _KINDS.items():
        made = [made_up(args.levels, args.rows, seed, kind) for seed in range(args.seeds)]
        say(f"{args.levels} levels of {args.rows} rows; a level: {kind}; noise {noise}; {args.members} nets")
        say(f"{'sqrt PEHE on test rows':<34}" + "".join(f"{f'seed {seed}':>9}" for seed in range(args.seeds)) + _LAST)
        rivals: list[tuple[str, Way, int | None]] = [
            ("left out", left_out, None), ("columns of 0 and 1, by hand", by_hand, None),
            *((f"embedded, {width} wide", as_they_are, width) for width in args.widths if width != own),
            (f"embedded, {own} wide (ours)", as_they_are, None),
        ]  # fmt: skip
        _lines(rivals, made, args.members, say)
        say("")
    if not args.replications:
        return
    say(f"ACIC 2016, three text columns; {args.members} nets")
    say(f"{'sqrt PEHE on test rows':<34}" + "".join(f"{number:>9}" for number in args.replications) + _LAST)
    acic = [split("acic2016", number) for number in args.replications]
    rivals = [("columns of 0 and 1, by hand", by_hand, None), ("as they are (ours)", as_they_are, None)]
    _lines(rivals, acic, args.members, say)


def _lines(
    rivals: Sequence[tuple[str, Way, int | None]], tables: Sequence[Tables], members: int, say: Callable[[str], None]
) -> None:
    for name, way, width in rivals:
        start = time.perf_counter()
        with of_width(width):
            errors = [error(way(*both), members) for both in tables]
        seconds = (time.perf_counter() - start) / len(tables)
        numbers = "".join(f"{value:>9.3f}" for value in (*errors, np.mean(errors)))
        say(f"{name:<34}{numbers}{seconds:>9.1f}")


def run(args: argparse.Namespace) -> int:
    """Measures, prints and writes the table; returns 0."""
    warnings.simplefilter("ignore", UserWarning)  # the tables are what they are
    lines: list[str] = []

    def say(line: str) -> None:
        print(line, flush=True)
        lines.append(line)

    measure(args, say)
    if args.out:
        with replacing(args.out) as beside:
            beside.write_text("\n".join(lines) + "\n")
    return 0


def main() -> int:
    """Measures; returns 0, or 2 for arguments that cannot be used."""
    args = parse()
    return run_command(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
