"""Measures the effects on benchmarks, as `twohead ihdp` does, beside the peers that are installed."""

import sys

from bench.effect_peers import installed
from flax_impl.commands.ihdp import main

if __name__ == "__main__":
    sys.exit(main(peers=installed()))
