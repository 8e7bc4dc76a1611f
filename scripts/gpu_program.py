"""What a training's program for a GPU is made of, and how fast an H200 might run it at best. No GPU is needed.

One training and a thousand, in each precision, are lowered for CUDA, as a machine with a GPU would lower them. Counted
are the operations in the loop's body, whatever waits for the host, and the precision that each product asks for. The
milliseconds are bounds from the H200's data sheet, and no measurement.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.contestants import Task
from bench.program import BANDWIDTH, PEAKS, Body, loop_body
from bench.thousand import THOUSAND
from flax_impl.commands.backends import run_command
from torch_ref.common.files.array_file import replacing

TILE = 128  # rows and columns of a product that one part of the GPU takes at once


def table(bodies: Mapping[tuple[str, bool], Body], task: Task) -> str:
    """Returns what was counted as a text.

    Args:
        bodies: of the loops by precision, and by whether they are of all replicas.
        task: that was lowered.
    """
    heads = [f"{task.replicas if many else 1} x {precision}" for precision, many in bodies]
    lines = [_line("a step of the loop, lowered for CUDA", heads)]

    def add(words: str, *values: object) -> None:
        lines.append(_line(words, [value if isinstance(value, str) else f"{value:,}" for value in values]))

    found = list(bodies.values())
    add("operations", *(len(body.operations) for body in found))
    add("of them waiting for the host", *(body.waits.total() for body in found))
    add("matrix products", *(len(body.products) for body in found))
    precisions = [{asked for product in body.products for asked in product.precision} for body in found]
    add("precision that they ask for", *("/".join(sorted(asked)) for asked in precisions))
    flops = [sum(product.flops for product in body.products) for body in found]
    padded = [sum(product.padded(TILE) for product in body.products) for body in found]
    moved = [
        body.bytes_of_products + task.adam_bytes * (task.replicas if many else 1)
        for (_, many), body in bodies.items()
    ]  # fmt: skip
    add("GFLOP in products", *(f"{value / 1e9:.3f}" for value in flops))
    add(f"the same, in whole tiles of {TILE}", *(f"{value / 1e9:.3f}" for value in padded))
    add("GB moved, products and Adam apart", *(f"{value / 1e9:.4f}" for value in moved))
    lines += ["", "bounds from the data sheet of an H200, in ms per step; no measurement"]
    rates = [PEAKS[precision] for precision, _ in bodies]
    add("by the products' FLOPs", *_milliseconds(flops, rates))
    add("by those in whole tiles", *_milliseconds(padded, rates))
    add("by the bytes, all from memory", *_milliseconds(moved, [BANDWIDTH] * len(moved)))
    lines.append("what one training moves fits into the cache of 50 MB: its bounds are out of reach")
    lines += ["", "operations by kind"]
    for kind in sorted({kind for body in found for kind in body.kinds}, key=lambda kind: -found[0].kinds[kind]):
        add(kind, *(body.kinds[kind] for body in found))
    return "\n".join(lines)


def _milliseconds(work: Sequence[float], rates: Sequence[float]) -> list[str]:
    return [f"{1e3 * amount / rate:.4f}" for amount, rate in zip(work, rates, strict=True)]


def _line(words: str, values: Sequence[str]) -> str:
    return f"{words:38}" + "".join(f"{value:>17}" for value in values)


def run(args: argparse.Namespace) -> int:
    """Counts, prints the table and writes it; returns 0, or 1 where a loop waits for the host."""
    bodies = {(precision, many): loop_body(THOUSAND, precision, many) for many in (False, True) for precision in PEAKS}
    text = table(bodies, THOUSAND)
    print(text)
    if args.out:
        with replacing(args.out) as path:
            path.write_text(text + "\n")
    return int(any(body.waits for body in bodies.values()))


def main(arguments: Sequence[str] | None = None) -> int:
    """Counts; returns 0, 1 where a loop waits for the host, or 2 for arguments that cannot be used."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table there too")
    args = parser.parse_args(arguments)
    return run_command(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
