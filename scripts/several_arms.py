"""Several arms: made-up data whose effects are known, and two trials of others in which lots decided on the arm.

In a trial every method should hold the difference of the means. Needs pip install '.[peers]' for the trials.
"""

import argparse
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from flax_impl.commands.backends import run_command
from flax_impl.data import TreatmentData, load_data
from flax_impl.effects import AverageEffects, EffectSettings, average_effects, fit_effects
from flax_impl.effects.learners.contrast import take_pair
from torch_ref.common.files.array_file import replacing

Say = Callable[[str], None]
_NETS = EffectSettings(members=5)
METHODS = {"ours, nets": _NETS, "ours, nets and trees": replace(_NETS, learners=("nets", "trees"))}
_ARMS = ("none", "low", "high")


def parse() -> argparse.Namespace:
    """Returns the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--draws", type=int, default=10, metavar="N", help="of the made-up data (default: 10)")
    add("--rows", type=int, default=1000, metavar="N", help="of each draw (default: 1000)")
    add("--no-trials", action="store_true", help="made-up data only")
    add("--out", type=Path, metavar="FILE", help="where to write the table")
    return parser.parse_args()


def made_up(rows: int, seed: int) -> tuple[TreatmentData, np.ndarray]:
    """Returns a table of three arms, and the expected outcome of each row in each arm [arms, rows].

    "low" adds 1, and "high" 2 and half of a feature squared; who gets which hangs on what moves the outcome, too.
    """
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(rows, 6))
    base = x[:, 1] + np.sin(2 * x[:, 2])
    mu = np.stack([base, base + 1, base + 2 + 0.5 * (x[:, 0] ** 2 - 1)])
    odds = np.exp(np.stack([np.zeros(rows), 0.7 * x[:, 1], -0.7 * x[:, 1] + 0.3 * x[:, 0]]))
    t = (generator.random(rows) > np.cumsum(odds / odds.sum(axis=0), axis=0)[:-1]).sum(axis=0)
    y = mu[t, np.arange(rows)] + generator.normal(size=rows)
    return TreatmentData(x, t.astype(np.int32), y[:, None], arms=_ARMS), mu


def two_at_a_time(data: TreatmentData, fresh: np.ndarray, settings: EffectSettings, pair: tuple[int, int]) -> Any:
    """Returns the effects on fresh rows and the average, of a fit that sees the rows of two arms only."""
    first, second = pair
    two = take_pair(data, data.arms[first], data.arms[second])
    model = fit_effects(two, settings, progress=False)
    return model.effect(fresh), model.cross_fit(two).averages().ate


def known(say: Say, draws: int, rows: int) -> None:
    """Says how near each method comes to the known effects of made-up data."""
    pairs = list(combinations(range(3), 2))
    errors: dict[str, list[list[float]]] = {}
    for seed in range(draws):
        (data, _), (fresh, truth) = made_up(rows, seed), made_up(rows, 1000 + seed)
        for name, settings in {**METHODS, "nets, two arms at a time": _NETS}.items():
            model = found = None
            if name in METHODS:
                model = fit_effects(data, settings, progress=False)
                found = model.cross_fit(data)
            for first, second in pairs:
                if model is None or found is None:
                    effect, ate = two_at_a_time(data, fresh.x, settings, (first, second))
                else:
                    labels = {"control": _ARMS[first], "treatment": _ARMS[second]}
                    effect, ate = model.effect(fresh.x, **labels), found.averages(**labels).ate
                expected = {(0, 1): 1.0, (0, 2): 2.0, (1, 2): 1.0}[first, second]
                errors.setdefault(f"{name}|{first}{second}", []).append(
                    [
                        float(np.sqrt(np.mean((effect - (truth[second] - truth[first])) ** 2))),
                        abs(ate.value - expected),
                        float(ate.low <= expected <= ate.high),
                    ]
                )
    say(f"three arms, {draws} tables of {rows} rows; on fresh rows, means")
    say(f"{'':<26}{'arms':>16}{'sqrt PEHE':>11}{'ATE error':>11}{'ATE held':>10}")
    for key, each in errors.items():
        name, places = key.split("|")
        pehe, ate, held = np.mean(each, axis=0)
        arms = f"{_ARMS[int(places[1])]} - {_ARMS[int(places[0])]}"
        say(f"{name:<26}{arms:>16}{pehe:>11.3f}{ate:>11.3f}{held:>10.0%}")


def trials() -> dict[str, TreatmentData]:
    """Returns the tables of the trials by name."""
    try:
        from causaldata import social_insure, thornton_hiv  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("the trials need causaldata: pip install 'twohead[peers]'") from error
    hiv, insurance = (source.load_pandas().data for source in (thornton_hiv, social_insure))
    hiv = hiv[hiv["villnum"].notna()]
    hiv = hiv.assign(
        arm=np.select([hiv["tinc"].isna(), hiv["tinc"] == 0, hiv["tinc"] <= 1], [None, "nothing", "up to 1 dollar"],
                      "up to 3 dollars")
    )  # fmt: skip
    named = np.array([["simple", "intensive"], ["simple, default", "intensive, default"]])
    insurance = insurance.assign(arm=named[insurance["default"], insurance["intensive"]])
    features = ["age", "agpop", "ricearea_2010", "disaster_prob", "male", "risk_averse", "literacy"]
    return {
        "who fetched the result of an HIV test (Thornton 2008), by what was paid for it": load_data(
            hiv, treatment="arm", outcome="got", groups="villnum", features=["age", "distvct", "hiv2004"],
            control="nothing", missing="drop",
        ),
        "who insured his rice (Cai, de Janvry, Sadoulet 2015), by how he was told": load_data(
            insurance, treatment="arm", outcome="takeup_survey", groups="village", features=features,
            control="simple", missing="drop",
        ),
    }  # fmt: skip


def difference(data: TreatmentData, arm: int) -> AverageEffects:
    """Returns the difference of an arm's mean and the first's; rows of a cluster count together in its error."""
    rows = np.flatnonzero((data.t == 0) | (data.t == arm))
    two = data.take(rows)
    t, y = (two.t == arm).astype(int), two.y[:, 0]
    mu0, mu1 = (np.full(len(y), y[t == of].mean()) for of in (0, 1))
    return average_effects(t, y, mu0, mu1, np.full(len(y), t.mean()), groups=two.groups)


def measure(name: str, data: TreatmentData, say: Say) -> None:
    """Says what each method finds in a trial, of each arm against the first."""
    gaps = [column.name for column in data.columns or () if column.gaps]
    say(f"{name}: {len(data)} rows" + (f"; with gaps: {', '.join(gaps)}" if gaps else ""))
    say(f"{'':<24}" + "".join(f"{label:>30}" for label in data.arms[1:]))
    found = {"difference of means": [difference(data, arm).ate for arm in range(1, len(data.arms))]}
    for of, settings in METHODS.items():
        fitted = fit_effects(data, replace(settings, binary=True), progress=False).cross_fit(data)
        found[of] = [fitted.averages(control=data.arms[0], treatment=label).ate for label in data.arms[1:]]
    for of, each in found.items():
        cells = (f"{one.value:.3f} ({one.low:.3f} to {one.high:.3f})" for one in each)
        say(f"{of:<24}" + "".join(f"{cell:>30}" for cell in cells))


def run(args: argparse.Namespace) -> int:
    """Measures, prints the table and writes it; returns 0."""
    warnings.simplefilter("ignore", UserWarning)
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        print(line, flush=True)

    known(say, args.draws, args.rows)
    for name, data in ({} if args.no_trials else trials()).items():
        say("")
        measure(name, data, say)
    if args.out:
        with replacing(args.out) as beside:
            beside.write_text("\n".join(lines).strip() + "\n")
    return 0


def main() -> int:
    """Measures; returns 0, or 2 for arguments that cannot be used."""
    args = parse()
    return run_command(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
