"""Estimates the effects of new rows, as `twohead predict` does; see flax_impl/commands/predict.py."""

import sys

from flax_impl.commands.predict import main

if __name__ == "__main__":
    sys.exit(main())
