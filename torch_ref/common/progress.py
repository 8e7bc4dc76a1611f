"""Progress of long work: a bar on a terminal, plain lines elsewhere, nothing while it is short."""

import sys
import time
from collections.abc import Sequence
from types import TracebackType

from tqdm import tqdm

_BAR_AFTER = 2.0  # seconds: what is over sooner needs no bar
_BAR_EVERY = 0.1  # seconds between looks at the losses, which on a GPU wait for it
_LINE_EVERY = 10.0  # seconds between plain lines, so that a log stays readable


class Progress:
    """Shows how far a training is and what its losses are, or how far other long work is, on standard error.

    Args:
        steps: the number of steps in all; None where nobody knows it beforehand.
        shown: False keeps it silent.
        unit: what is counted.
    """

    def __init__(self, steps: int | None, shown: bool = True, unit: str = "step") -> None:
        self.steps, self.unit = steps, unit
        terminal = sys.stderr is not None and sys.stderr.isatty()
        self.shown = shown and sys.stderr is not None
        self.bar = tqdm(total=steps, delay=_BAR_AFTER, unit=unit) if shown and terminal else None
        self.started = self.last = time.monotonic()

    def __call__(self, step: int, losses: Sequence[float] = ()) -> None:
        """Takes note that `step` steps are done and what the last one's losses were, if it had any."""
        now = time.monotonic()
        late = now - self.last
        if self.bar is not None and (late > _BAR_EVERY or step == self.steps):
            self.bar.set_postfix_str(_text(losses), refresh=False)
            self.bar.update(step - self.bar.n)
        elif self.bar is None and self.shown and late > _LINE_EVERY:
            rate = step / (now - self.started)
            of = f" of {self.steps}" if self.steps else ""
            text = [f"{self.unit} {step}{of}", f"{rate:.3g} {self.unit}s/s", *filter(None, [_text(losses)])]
            print(", ".join(text), file=sys.stderr, flush=True)
        else:
            return
        self.last = now

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.close()


def _text(losses: Sequence[float]) -> str:
    return "loss " + " + ".join(f"{float(loss):.4g}" for loss in losses) if len(losses) else ""
