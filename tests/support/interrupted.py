"""Ends trainings in the middle, after a number of checkpoints."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from torch_ref.common.files.checkpoints import Checkpoints


class StoppedError(Exception):
    """Ends a training in the middle."""


@contextmanager
def interrupting(after: int) -> Iterator[None]:
    """Ends the training inside, once it has written so many checkpoints."""
    with pytest.raises(StoppedError), mock.patch.object(Checkpoints, "save", _stopping(after)):
        yield


def steps_in(folder: Path) -> list[int]:
    """Returns the steps of the checkpoints in a folder, in their order."""
    return sorted(int(path.name.removeprefix("step-")) for path in folder.glob("step-*"))


def _stopping(after: int) -> Callable[..., None]:
    save, left = Checkpoints.save, [after]

    def stopping(self: Checkpoints, *arguments: Any, **named: Any) -> None:
        save(self, *arguments, **named)
        left[0] -= 1
        if not left[0]:
            raise StoppedError

    return stopping
