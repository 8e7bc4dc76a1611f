"""Holds the port against its reference, as `twohead parity` does; --kill-matrix plants faults (kill_matrix.py)."""

import sys
from collections.abc import Sequence

import kill_matrix
from flax_impl.commands import parity


def main(arguments: Sequence[str] | None = None) -> int:
    """Compares, or plants faults where --kill-matrix is given; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if "--kill-matrix" not in given:
        return parity.main(given)
    return kill_matrix.main([argument for argument in given if argument != "--kill-matrix"])


if __name__ == "__main__":
    sys.exit(main())
