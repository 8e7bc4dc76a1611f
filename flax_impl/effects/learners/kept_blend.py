"""Trees that are trained once, and kept for a training that goes on after an interruption."""

from dataclasses import replace

import numpy as np

from torch_ref.common.data.treatment_data import Scales, TreatmentData
from torch_ref.common.files.settings_text import text_of

from ...training.checkpoints.stages import Stages
from .blend import Blend, blend_from_arrays, blend_to_arrays, fit_blend
from .cross_fit import CrossFit


def keep_blend(
    stages: Stages, data: TreatmentData, of_nets: CrossFit, *, scales: Scales, seed: int, threads: int
) -> tuple[Blend, CrossFit]:
    """Returns what `fit_blend` returns, or what it returned before; its stage is called `trees`.

    Args:
        stages: of the training.
        data: as for `fit_blend`.
        of_nets: as for `fit_blend`; its own stage says which nets they are.
        scales: as for `fit_blend`.
        seed: as for `fit_blend`.
        threads: as for `fit_blend`.

    Raises:
        ImportError: as `fit_blend`.
        ValueError: as `fit_blend`; checkpoints of another training, or that are damaged.
        OSError: nothing can be written to the folder.
    """
    if stages.folder is None:
        return fit_blend(data, of_nets, scales=scales, seed=seed, threads=threads)

    def compute() -> dict[str, np.ndarray]:
        blend, found = fit_blend(data, of_nets, scales=scales, seed=seed, threads=threads)
        arrays = blend_to_arrays(blend) | {"mu": found.mu}
        arrays |= {f"effects of {name}": array for name, array in found.effects.items()}
        return arrays | {f"weights of {name}": array for name, array in found.weights.items()}

    table = {**data.arrays(), "groups": data.groups, "arms": data.arms}
    texts = {"data": text_of(table), "seed": text_of(seed), "rows": text_of(of_nets.rows)}
    arrays = stages.keep("trees", texts, compute, "catboost", "scikit-learn")

    def under(start: str) -> dict[str, np.ndarray]:
        return {name.removeprefix(start): array for name, array in arrays.items() if name.startswith(start)}

    found = replace(of_nets, mu=arrays["mu"], effects=under("effects of "), weights=under("weights of "))
    return blend_from_arrays(arrays, scales, len(data.arms)), found
