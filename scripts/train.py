"""Trains a model, as `twohead train` does; see flax_impl/commands/train.py."""

import sys

from flax_impl.commands.train import main

if __name__ == "__main__":
    sys.exit(main())
