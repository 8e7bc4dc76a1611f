"""Writes a model for processes without this package, as `twohead export` does; see flax_impl/commands/export.py."""

import sys

from flax_impl.commands.export import main

if __name__ == "__main__":
    sys.exit(main())
