"""Holds the harness against models that nobody here wrote: do honest pairs agree, is every fault in its place?

Without arguments: every pair of the corpus, as it is. Each option writes a table of its own into docs/parity:
--faults plants that many faults by machine, over all pairs; --trainings trains the honest pairs of transformers;
--optimizers trains one with a fault in the port's optimiser, one fault after the other;
--dropout trains two of them with dropout on; --bfloat16 takes ten ports that compute in bfloat16, as they are and with
a constant that is 1% off; --reverse takes torch's side of five for the port, and plants that many faults there;
--shipped reports on a port that has mistakes of its authors.
Needs pip install '.[pairs]'.
"""

import argparse
import json
import random
import resource
import sys
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import jax
from tqdm import tqdm

from corpus import diffusion, huggingface, layers, optimizers, training
from corpus.judge import Bench, Outcome, by_kind, honest
from corpus.plant import Fault
from corpus.reverse import TorchBench, reverse_table
from flax_impl.parity import check_step
from flax_impl.parity.report.text import counted
from torch_ref.common.files.array_file import replacing
from torch_ref.recording import record_tape

TABLES = (huggingface, layers, diffusion)
NAMES = {name: table.pair for table in TABLES for name in table.TABLE if name != diffusion.AS_SHIPPED}
REVERSED = ("bert", "gpt2", "roformer", "t5", "vit")
IN_BFLOAT16 = ("bert", "roberta", "distilbert", "electra", "gpt2", "gpt-neo", "bloom", "opt", "t5", "vit")
_SHARES = ("found", "port", "reference", "proved", "named", "misnamed", "unsure")
FOLDER = Path(__file__).parents[1] / "docs" / "parity"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs, prints and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", nargs="+", choices=NAMES, help="default: all")
    parser.add_argument("--faults", type=int, default=0, metavar="N", help="plant N faults over the pairs")
    parser.add_argument("--together", type=int, default=1, metavar="K", help="plant K faults at once (default: 1)")
    parser.add_argument("--trainings", action="store_true", help="train each pair of transformers with each optimiser")
    parser.add_argument("--dropout", action="store_true", help="train GPT-2 and BERT with dropout on")
    parser.add_argument("--optimizers", action="store_true", help="train with faults in the port's optimiser")
    parser.add_argument("--bfloat16", action="store_true", help="check ports that compute in bfloat16")
    parser.add_argument("--reverse", type=int, default=0, metavar="N", help="plant N faults in ports in torch")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="train with N seeds, from --seed on")
    parser.add_argument("--fresh", action="store_true", help="leave fresh weights as they are")
    parser.add_argument("--shipped", action="store_true", help="report where the UNet of diffusers leaves its twin")
    parser.add_argument("--seed", type=int, default=0, help="of weights, inputs and faults (default: 0)")
    parser.add_argument("--outcomes", type=Path, metavar="FILE", help="add each fault; what it has is not run again")
    arguments = parser.parse_args(argv)
    warnings.filterwarnings("ignore")  # of the libraries that the pairs come from
    names = arguments.pairs or list(NAMES)
    whole = arguments.pairs is None
    if arguments.faults:
        outcomes = planted(names, arguments)
        text, file = faults_table(outcomes, arguments.together), "pair_faults.txt"
        if arguments.together > 1:
            file = "pair_faults_together.txt"
        passed = all(outcome.found for outcome in outcomes if outcome.changes)
    elif arguments.reverse:
        names = arguments.pairs or list(REVERSED)
        text, passed = reversed_table(names, arguments.reverse, arguments.seed)
        file = "pair_faults_reverse.txt"
    elif arguments.shipped:
        text, file = shipped(), "unet_as_shipped.txt"
        whole = passed = True
    elif arguments.dropout:
        text, passed = dropout_table()
        file, whole = "pair_dropout.txt", True
    elif arguments.optimizers:
        text, passed = optimizers_table()
        file, whole = "pair_optimizers.txt", True
    elif arguments.bfloat16:
        text, passed = bfloat16_table(arguments.seed)
        file, whole = "pair_bfloat16.txt", True
    elif arguments.trainings:
        names = [name for name in names if name in huggingface.TABLE]
        seeds = range(arguments.seed, arguments.seed + arguments.seeds)
        text, passed = trainings_table(names, seeds, not arguments.fresh)
        file = "pair_trainings_fresh.txt" if arguments.fresh else "pair_trainings.txt"
    else:
        text, passed = honest_table(names, arguments.seed)
        file = "pairs.txt"
    print(text)
    if whole:
        with replacing(FOLDER / file) as path:
            path.write_text(text + "\n")
    return 0 if passed else 1


def honest_table(names: Sequence[str], seed: int) -> tuple[str, bool]:
    """Returns a line for each pair, and whether all pass."""
    lines = [
        "pair                     float64  float32      weights by themselves  operations: torch, jax  with a partner"
        "  seconds  memory"
    ]
    passed = True
    for name in tqdm(names, unit="pair", disable=not sys.stderr.isatty(), leave=False):
        start = time.perf_counter()
        _forget_peak()
        found = honest(NAMES[name](name, seed))
        seconds = time.perf_counter() - start
        passed &= found.agrees and found.single <= 1
        partners = found.partners
        counts = f"{len(partners.reference.operations):>10}, {len(partners.port.operations):>5}"
        share = f"{len(partners.of_reference) / len(partners.reference.values):.0%}, {partners.share:.0%}"
        verdicts = ["agrees" if agrees else "differs" for agrees in (found.agrees, found.single <= 1)]
        in_single = f"{verdicts[1]}, {found.single:.2f}"
        lines.append(
            f"{name:<24} {verdicts[0]:<8} {in_single:<12} {found.weights:<21} {counts:>23}  {share:>14}"
            f"  {seconds:>7.1f}  {_peak():>3.1f} GB"
        )
    return "\n".join(lines), passed


def optimizers_table() -> tuple[str, bool]:
    """Returns a line for each fault of an optimiser, and whether all are caught and named, and honest ones agree."""
    lines, counts, right = [f"{'reference':<15} {'fault in the port':<30} caught  first cause"], [0, 0, 0], True
    for case, report in tqdm(optimizers.faults("distilbert"), disable=not sys.stderr.isatty(), leave=False):
        if not case.words:
            right &= report.passed
            lines.append(f"{case.reference:<15} {'none':<30} {'no' if report.passed else 'yes':<6}")
            continue
        first = report.diagnosis[0] if report.diagnosis else None
        named = first is not None and first.certain and any(word in first.text for word in case.words)
        counts = [counts[0] + 1, counts[1] + (not report.passed), counts[2] + named]
        cause = "right" if named else str(first)
        lines.append(f"{case.reference:<15} {case.title:<30} {'no' if report.passed else 'yes':<6}  {cause}")
    lines += ["", f"{counts[0]} faults of an optimiser: {counts[1]} caught, {counts[2]} named."]
    return "\n".join(lines), right and counts[0] == counts[1] == counts[2]


def bfloat16_table(seed: int) -> tuple[str, bool]:
    """Returns a line for each port in bfloat16, and whether honest ones agree and all faults are in their place."""
    lines = [f"{'pair':<11} honest   in bfloat16  a constant 1% off: caught  place  torch's line  cause"]
    passed = True
    for name in tqdm(IN_BFLOAT16, unit="pair", disable=not sys.stderr.isatty(), leave=False):
        pair = huggingface.pair(name, seed, dtype="bfloat16")
        tape = record_tape(pair.reference, pair.batch, pair.loss)
        report = check_step(tape, pair.model, pair.batch, pair.port_loss, params=pair.params)
        bench = Bench(pair)
        faults = [fault for fault in bench.faults if fault.kind == "a constant 1% off"]
        random.Random(seed).shuffle(faults)
        judged = (bench.judge([fault])[0] for fault in faults)
        found = next(outcome for outcome in judged if outcome.changes)
        passed &= report.passed and found.found and found.port
        words = ["yes" if one else "no" for one in (found.found, found.port, found.reference)]
        cause = "right" if found.named else "wrong" if found.misnamed else "none, or a perhaps"
        lines.append(
            f"{name:<11} {'agrees' if report.passed else 'differs':<7} {len(report.precisions):>5} lines"
            f"{words[0]:>26}  {words[1]:>5}  {words[2]:>12}  {cause}"
        )
    return "\n".join(lines), passed


def reversed_table(names: Sequence[str], count: int, seed: int) -> tuple[str, bool]:
    """Returns the table of faults in ports in torch, and whether honest ports agree and every fault is caught."""
    outcomes, agree = [], True
    for i, name in enumerate(tqdm(names, unit="pair", disable=not sys.stderr.isatty(), leave=False)):
        bench = TorchBench(NAMES[name](name, seed))
        agree &= bench.agrees
        outcomes += bench.drawn(count * (i + 1) // len(names) - count * i // len(names), seed)
    verdict = "all agree without a fault" if agree else "not all agree without a fault"
    head = f"ports in torch of references in JAX: {', '.join(names)}; {verdict}\n\n"
    return head + reverse_table(outcomes), agree and all(outcome.found for outcome in outcomes)


def shipped() -> str:
    """Returns the report of the one pair whose port, as its authors ship it, is not its twin."""
    pair = diffusion.pair(diffusion.AS_SHIPPED)
    tape = record_tape(pair.reference, pair.batch, pair.loss)
    return str(check_step(tape, pair.model, pair.batch, pair.port_loss, params=pair.params))


def dropout_table() -> tuple[str, bool]:
    """Returns a line for each step of a training with dropout on, and what is said where the port's rate is another."""
    lines, passed = ["pair  step  verdict  losses apart  gradients apart"], True
    for name in ("gpt2", "bert"):
        for step, (report, loss, gradient) in enumerate(training.with_dropout(name, (0.1, 0.1), 5)):
            passed &= report.passed
            verdict = "agrees" if report.passed else "differs"
            lines.append(f"{name:<4}  {step:>4}  {verdict}   {loss:>12.1e}  {gradient:>15.1e}")
    for name in ("gpt2", "bert"):
        report = next(training.with_dropout(name, (0.1, 0.2), 1))[0]
        causes = {finding.text for place in report.causes for finding in place}
        lines += ["", f"{name}, with 0.2 in the port:", *sorted(causes)]
        passed &= not report.passed
    return "\n".join(lines), passed


def trainings_table(names: Sequence[str], seeds: Sequence[int], stirred: bool) -> tuple[str, bool]:
    """Returns a line for each training that differs, and how many there were; and whether none does."""
    lines: dict[str, list[int]] = {}  # with the seeds that it differs for
    count = 0
    for name in tqdm(names, unit="pair", disable=not sys.stderr.isatty(), leave=False):
        for seed in seeds:
            for what, report in training.reports(name, seed, stirred):
                count += 1
                if not report.passed:
                    because = "; ".join(map(str, report.diagnosis)) or "no cause named"
                    lines.setdefault(f"{name}, {what}: {report.first_divergence}: {because}", []).append(seed)
            jax.clear_caches()
        if not sys.stderr.isatty():
            print(f"{name}: done", file=sys.stderr, flush=True)
    weights, wrong = "stirred" if stirred else "fresh", sum(map(len, lines.values()))
    rows = [f"{line} [{counted(len(found), 'seed', 'seeds')}]" for line, found in lines.items()]
    each = counted(len(seeds), "seed", "seeds")
    rows += ["", f"{count} trainings of {len(names)} honest pairs, {weights} weights, {each}: {wrong} differ."]
    return "\n".join(rows).lstrip("\n"), not wrong


def _forget_peak() -> None:
    """Starts counting anew how much memory the process takes at most, where the system lets it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _peak() -> float:
    """Returns how many gigabytes the process took at most."""
    try:
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**20
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def planted(names: Sequence[str], arguments: argparse.Namespace) -> list[Outcome]:
    """Plants the faults, pair by pair, and returns what became of them; those of earlier runs are taken over."""
    outcomes: list[Outcome] = []
    together, total = arguments.together, arguments.faults // arguments.together
    earlier = _earlier(arguments.outcomes)
    with tqdm(total=total, unit="fault", disable=not sys.stderr.isatty(), leave=False) as bar:
        for i, name in enumerate(names):
            count = total * (i + 1) // len(names) - total * i // len(names)
            kept = earlier.get(name, [])[: count * together]
            outcomes += kept
            bar.update(done := len(kept) // together)
            if done < count:
                bench, drawn = Bench(NAMES[name](name, arguments.seed)), random.Random(f"{arguments.seed} {name}")
                for chosen in [drawn.sample(bench.faults, together) for _ in range(count)][done:]:
                    outcomes += (found := bench.judge(chosen))
                    _add(arguments.outcomes, found)
                    bar.update()
            if not sys.stderr.isatty():
                print(f"{name}: {count} done", file=sys.stderr, flush=True)
    return outcomes


def _earlier(file: Path | None) -> dict[str, list[Outcome]]:
    """Returns the outcomes that a file holds, by pair."""
    found: dict[str, list[Outcome]] = {}
    for line in file.read_text().splitlines() if file and file.exists() else ():
        held = json.loads(line)
        found.setdefault(held["pair"], []).append(Outcome(**{**held, "fault": Fault(**held["fault"])}))
    return found


def _add(file: Path | None, outcomes: Sequence[Outcome]) -> None:
    """Adds outcomes to a file at once, so that a run that is stopped between two faults can go on."""
    if file:
        with file.open("a") as opened:
            opened.write("".join(json.dumps(vars(o) | {"fault": vars(o.fault)}) + "\n" for o in outcomes))


def faults_table(outcomes: Sequence[Outcome], together: int) -> str:
    """Returns a line for each kind of fault."""
    head = f"{len(outcomes)} faults, {together} at once; those that change no result by more than rounding do not count"
    rows = [head, "", f"{'kind':<34} count  caught  port's place  torch's line  proved   named  misnamed  perhaps"]
    counted = [outcome for outcome in outcomes if outcome.changes]
    for kind, of_kind in {**by_kind(counted), "all": counted}.items():
        n = max(len(of_kind), 1)
        shares = [sum(getattr(o, name) for o in of_kind) / n for name in _SHARES]
        cells = zip(shares, (6, 12, 12, 6, 6, 8, 7), strict=True)
        rows.append(f"{kind:<34} {len(of_kind):>5}  " + "  ".join(f"{share:>{width}.1%}" for share, width in cells))
    seconds = sorted(outcome.seconds for outcome in outcomes)
    rows += ["", f"median seconds a fault: {seconds[len(seconds) // 2]:.1f}" if seconds else ""]
    unnamed = Counter(f"{outcome.fault.kind}, of {outcome.equation}" for outcome in counted if not outcome.named)
    rows += ["", "commonest without the right name:", *(f"{n:>4}  {what}" for what, n in unnamed.most_common(10))]
    rows += ["", summary(counted)]
    if together > 1:
        groups = [group for i in range(0, len(outcomes), together) if (group := outcomes[i : i + together])[0].changes]
        whole = [sum(all(getattr(o, side) for o in group) for group in groups) for side in ("port", "reference")]
        rows.append(f"{len(groups)} groups: all lines of torch found in {whole[1]}, all operations in {whole[0]}.")
    return "\n".join(rows)


def summary(outcomes: Sequence[Outcome]) -> str:
    """Returns one line for all faults."""
    caught, port, reference, proved, named, misnamed, unsure = (
        sum(getattr(outcome, name) for outcome in outcomes) for name in _SHARES
    )
    return (
        f"{len(outcomes)} faults that change a result: {caught} caught, {port} at the planted operation, "
        f"{reference} at its line in torch, {proved} proved by repair, {named} named, {misnamed} named wrongly, "
        f"{unsure} named wrongly with a perhaps."
    )


if __name__ == "__main__":
    sys.exit(main())
