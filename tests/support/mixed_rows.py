"""Tables of any types that tests of streamed effects share."""

from typing import Any

import numpy as np
import pyarrow

from flax_impl.effects import EffectSettings

SMALL: dict[str, Any] = {"representation_features": [4], "head_features": [4], "members": 2, "batch_size": 16}


def mixed_rows(rows: int = 120, seed: int = 0) -> Any:
    """Returns a pyarrow table: numbers, truth values, texts, categories, gaps in two columns, arms, weights."""
    draw = np.random.default_rng(seed)
    city = draw.choice(["Bonn", "Oslo", "Rome"], rows)
    gaps = draw.random((2, rows)) < 0.2
    columns = {
        "age": draw.normal(50, 9, rows).astype(np.float32),
        "dose": pyarrow.array(draw.integers(1, 9, rows), mask=gaps[0]),
        "city": pyarrow.array(city, mask=gaps[1]),
        "grade": pyarrow.array(draw.choice(["a", "b"], rows)).dictionary_encode(),
        "flag": draw.random(rows) < 0.5,
        "arm": draw.choice(["none", "drug"], rows),
        "w": draw.uniform(0.5, 2, rows),
    }
    effect = 1 + (city == "Rome")
    columns["y"] = columns["age"] / 9.0 + effect * (columns["arm"] == "drug") + draw.normal(0, 0.1, rows)
    return pyarrow.table(columns)


NAMED: dict[str, Any] = {"treatment": "arm", "control": "none", "weight": "w"}


def small(**chosen: Any) -> EffectSettings:
    """Returns settings of small nets."""
    return EffectSettings(**(SMALL | chosen))
