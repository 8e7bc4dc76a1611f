"""A process that trains with checkpoints, to be killed: prints the sha256 of what it ends with.

Its arguments: the backend, the folder, how many steps it takes, and perhaps `wait`, see `tests.support.killed`.
"""

import hashlib
import sys
from typing import Any

import numpy as np

from flax_impl.commands.sides import SIDES
from tests.support.killed import end
from torch_ref.common.data.simulation import synthetic
from torch_ref.common.settings.optimizers import Adam

CONFIG = {"in_features": 4, "representation_features": [8], "head_features": [4], "final_activation": "identity"}


def settings(steps: int = 3000) -> dict[str, Any]:
    return {
        "optimizer": Adam(lr=1e-3, average=0.9), "steps": steps, "batch_size": 16, "seed": 3, "every": 50,
        "validation_rows": list(range(0, 60, 3)), "progress": False,
    }  # fmt: skip


def digest(weights: dict[str, np.ndarray], losses: np.ndarray) -> str:
    found = hashlib.sha256(np.ascontiguousarray(losses).tobytes())
    for name in sorted(weights):
        found.update(np.ascontiguousarray(weights[name]).tobytes())
    return found.hexdigest()


if __name__ == "__main__":
    backend, folder, steps = sys.argv[1], sys.argv[2], int(sys.argv[3])
    side = SIDES[backend]("TwoHead", CONFIG, seed=1)
    print("ready", flush=True)
    losses = side.fit(synthetic(rows=60, features=4).arrays(), checkpoint=folder, **settings(steps))
    end(digest(side.weights(), losses))
