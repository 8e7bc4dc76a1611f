"""What an attack found."""

from dataclasses import dataclass, field

from attacks.processes import Ended

CODES = (0, 1, 2, 130)  # of a command that ends by itself
COUNTS = ("tried", "lost", "wrong", "tracebacks", "hangs")


@dataclass
class Record:
    """The counts of an attack.

    Args:
        tried: blows that were dealt.
        lost: files that were whole before, and are not any more.
        wrong: results or exit codes other than they should be.
        tracebacks: processes that ended with one, crashed, or told more than one error.
        hangs: processes that did not end in time.
        skipped: why the attack is not possible on this machine, or empty.
        notes: what happened, for each that is counted as bad.
    """

    tried: int = 0
    lost: int = 0
    wrong: int = 0
    tracebacks: int = 0
    hangs: int = 0
    skipped: str = ""
    notes: list[str] = field(default_factory=list)

    def bad(self, kind: str, note: str) -> None:
        """Counts something bad and notes what it was."""
        setattr(self, kind, getattr(self, kind) + 1)
        self.notes.append(f"{kind}: {note}")

    def judge(self, ended: Ended, what: str, codes: tuple[int, ...] = CODES) -> bool:
        """Counts what is bad about how a process ended, and returns whether nothing was.

        Args:
            ended: how it did.
            what: the blow, for the note.
            codes: the exit codes that are right.
        """
        errors = [line for line in ended.err.splitlines() if line.startswith("error: ")]
        if ended.hung:
            self.bad("hangs", f"{what}: not ended after {ended.seconds:.0f} s: {ended.last}")
        elif "Traceback" in ended.err + ended.out or len(errors) > 1 or (ended.code < 0 and ended.code not in codes):
            self.bad("tracebacks", f"{what}: exit code {ended.code}: {ended.last}")
        elif ended.code not in codes:
            self.bad("wrong", f"{what}: exit code {ended.code}, expected one of {codes}: {ended.last}")
        elif ended.code == 2 and not errors:
            self.bad("wrong", f"{what}: exit code 2 without an error: {ended.last}")
        else:
            return True
        return False

    def add(self, other: "Record") -> None:
        """Adds the counts of another round."""
        for name in COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.skipped = other.skipped
        self.notes += other.notes

    @property
    def passed(self) -> bool:
        """Whether nothing bad was counted."""
        return not (self.lost or self.wrong or self.tracebacks or self.hangs)
