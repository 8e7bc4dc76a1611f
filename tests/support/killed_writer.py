"""A process that computes a long sum with checkpoints, to be killed: prints its result. Starts in no time."""

import sys
from pathlib import Path

import numpy as np

from tests.support.killed import end
from torch_ref.common.files.checkpoints import Checkpoints

if __name__ == "__main__":
    folder, steps = Path(sys.argv[1]), int(sys.argv[2])
    state, done = np.arange(1000.0), 0
    with Checkpoints(folder, {}, {}, 1) as checkpoints:
        if checkpoints.found is not None:
            state, done = checkpoints.found.arrays["state"].copy(), checkpoints.found.step
        print("ready", flush=True)
        for step in range(done, steps):
            state = np.sin(state * (step + 1))
            checkpoints.save(step + 1, lambda made=state: {"state": made}, finished=step + 1 == steps)
    end(str(state.sum()))
