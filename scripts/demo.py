"""Trains both models in both frameworks, from the same start and on the same batches, and shows that they agree.

All in float64, where a difference is a fault and not a rounding. Writes the tables, their numbers, the loss curves laid
over each other, and the weights of all four trainings. Exits with 1 where the sides are further apart than they may be.
"""

import argparse
import importlib.metadata
import json
import platform
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from flax_impl.commands.backends import import_backend
from flax_impl.commands.pictures import loss_curves
from flax_impl.commands.sides import FlaxSide, Side, TorchSide
from flax_impl.effects import ate_error, sqrt_pehe
from flax_impl.parity import largest_difference, relative_difference
from torch_ref.common.data.design import finite_tables
from torch_ref.common.files.array_file import replacing
from torch_ref.data import Scales, TreatmentData, curves, load_data

STEPS = 1000  # of the two-head model
HELD_OUT = 0.2
APART = 1e-9  # how far 5000 steps in float64 may lead the sides apart; docs/demo/demo.txt has how far they do


class Comparison(NamedTuple):
    """Both trainings of a model, their losses, and the largest differences between them."""

    sides: tuple[Side, Side]
    losses: dict[str, np.ndarray]
    differences: dict[str, float]


def compare(
    model: str,
    config: Mapping[str, Any],
    data: Mapping[str, np.ndarray],
    settings: Callable[[ModuleType], dict[str, Any]],
) -> Comparison:
    """Trains a model in both frameworks, and compares it before, meanwhile and after.

    Args:
        model: its name.
        config: its constructor's arguments.
        data: what it is trained on; it is called with what starts with x.
        settings: gives what `fit` is called with, in the words of a package.
    """
    torch = TorchSide(model, config, dtype="float64")
    flax = FlaxSide(model, config, weights=torch.weights())
    found, reference = (side.evaluate(settings(side.package)["loss"], data) for side in (flax, torch))
    differences = {
        f"{what}, first weights": largest_difference(phase_of(phase, found), phase_of(phase, reference))
        for what, phase in (("outputs", "output"), ("losses", "loss"), ("gradients", "grad"))
    }
    losses = {}
    for side in (torch, flax):
        start = time.perf_counter()
        losses[side.backend] = side.fit(data, **settings(side.package))
        print(f"  {side.backend}: {len(losses[side.backend])} steps in {time.perf_counter() - start:.1f} s")
    differences["losses, every step"] = relative_difference(losses["flax"], losses["torch"])
    differences["parameters, trained"] = largest_difference(flax.weights(), torch.weights())
    inputs = [array for name, array in data.items() if name.startswith("x")]
    outputs, reference = (dict(enumerate(side.predict(*inputs))) for side in (flax, torch))
    differences["outputs, trained"] = largest_difference(outputs, reference)
    return Comparison((torch, flax), losses, differences)


def phase_of(phase: str, found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the arrays of one phase."""
    return {name: array for name, array in found.items() if name.startswith(f"{phase}/")}


def article_run() -> Comparison:
    """The article's run of the two-input/two-output model: 5000 steps of SGD on 100 points."""
    print("two-in/two-out, the article's 5000 steps")
    result = compare(
        "TwoInTwoOut",
        {"in_features": 1, "hidden_features": 20, "out_features": 1},
        curves(100),
        lambda package: {
            "optimizer": package.SGD(lr=0.1),
            "loss": package.JointLoss(),
            "steps": 5000,
            "shuffle": False,
        },
    )
    for step in range(0, 5000, 100):
        texts = [f"{name} Loss1 = {x[step, 0]:.4f} Loss2 = {x[step, 1]:.4f}" for name, x in result.losses.items()]
        print(f"  step {step:4d}  {'   '.join(texts)}")
    return result


def effects_run() -> tuple[Comparison, dict[str, dict[str, float]]]:
    """The two-head model on the first instance of ACIC 2016: the comparison, and each side's effect metrics."""
    print(f"two-head on acic2016:1, {STEPS} steps")
    data, held_out = finite_tables(*load_data("acic2016:1").split(HELD_OUT))
    scales = Scales.of(data)

    def settings(package: ModuleType) -> dict[str, Any]:
        optimizer = package.Adam(lr=1e-3)
        return {"optimizer": optimizer, "loss": package.FactualLoss(), "steps": STEPS, "batch_size": 100}

    config = {"in_features": data.x.shape[1], "final_activation": "identity"}
    result = compare("TwoHead", config, scales.standardize(data).arrays(), settings)
    metrics = {}
    for side in result.sides:
        in_sample, out_of_sample = effect_errors(side, scales, data), effect_errors(side, scales, held_out)
        metrics[side.backend] = {f"{name}, in sample": value for name, value in in_sample.items()}
        metrics[side.backend] |= {f"{name}, held out": value for name, value in out_of_sample.items()}
    return result, metrics


def effect_errors(side: Side, scales: Scales, data: TreatmentData) -> dict[str, float]:
    """How far a side's effects are from the known ones, in the unit of the outcome."""
    y0, y1 = (scales.outcome(y) for y in side.predict(scales.standardize(data).x))
    assert data.mu0 is not None
    assert data.mu1 is not None
    return {
        "sqrt PEHE": float(sqrt_pehe(y0, y1, data.mu0, data.mu1)),
        "ATE error": float(ate_error(y0, y1, data.mu0, data.mu1)),
    }


def table(title: str, columns: Mapping[str, Mapping[str, float]], style: str) -> str:
    """Returns a table in text: a column for each mapping, a row for each of their names."""
    rows = list(next(iter(columns.values())))
    width = max(len(name) for name in [title, *rows])
    lines = [f"{title:{width}}" + "".join(f"{name:>18}" for name in columns)]
    lines += [f"{row:{width}}" + "".join(f"{column[row]:>18{style}}" for column in columns.values()) for row in rows]
    return "\n".join(lines)


def main() -> int:
    """Runs both comparisons, prints the tables and writes everything into a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for what is written (default: out)")
    out: Path = parser.parse_args().out
    import_backend("flax", "float64")
    joint, (two_head, effects) = article_run(), effects_run()
    differences = {"two-head": two_head.differences, "two-in/two-out": joint.differences}
    text = "\n\n".join(
        [
            table("largest scaled difference, float64", differences, ".1e"),
            table("acic2016:1, two-head", effects, ".6f"),
        ]
    )
    print(f"\n{text}\n")
    packages = ("torch", "jax", "flax", "optax", "numpy", "causallib")
    results = {
        "differences": differences,
        "effects": effects,
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    }
    with replacing(out / "demo.json") as path:
        path.write_text(json.dumps(results, indent=2) + "\n")
    with replacing(out / "demo.txt") as path:
        path.write_text(text + "\n")
    names = ("two_head", "two_in_two_out")
    titles = ("two-head on acic2016:1", "two-in/two-out, the article's run")
    outputs = (("loss of head 0", "loss of head 1"), ("Loss1", "Loss2"))
    for name, result, title, of in zip(names, (two_head, joint), titles, outputs, strict=True):
        with replacing(out / f"{name}_losses.png") as path:
            loss_curves(result.losses, of, f"{title}: torch and flax laid over each other").savefig(path, dpi=120)
        for side in result.sides:
            side.save(out / f"{name}_{side.backend}.safetensors")
    print(f"written to {out}: {', '.join(sorted(path.name for path in out.iterdir() if path.is_file()))}")
    worst = max(max(differences.values()) for differences in results["differences"].values())
    if worst > APART:
        print(f"the sides are {worst:.1e} apart, more than {APART:.0e}", file=sys.stderr)
    return int(worst > APART)


if __name__ == "__main__":
    sys.exit(main())
