"""Tables that tests of effects share."""

from typing import Any

import numpy as np

from torch_ref.data import TreatmentData


def table(rows: int = 60, treated: int | None = None, **changes: Any) -> TreatmentData:
    """Returns a table with nothing to complain of; the treated rows are its last."""
    generator = np.random.default_rng(0)
    t = (np.arange(rows) >= rows - (rows // 2 if treated is None else treated)).astype(np.int32)
    made = {"x": generator.normal(size=(rows, 3)), "t": t, "y": generator.normal(size=(rows, 1))}
    return TreatmentData(**(made | changes))
