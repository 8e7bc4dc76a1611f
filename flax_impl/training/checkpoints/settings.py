"""What a plan's training is, as texts: one training, or many at once."""

from collections.abc import Sequence
from typing import Any

import jax

from torch_ref.common.files.settings_text import model_text, setting_text, text_of, training_settings

from ...models.layers import Params
from ...models.weights import to_numpy
from ..devices import fetch
from ..loop import dtype_of
from ..plan import Plan


def plan_settings(plan: Plan, params: Params) -> dict[str, str]:
    """Returns a text for each setting of a training; see `training_settings`."""
    settings = {**plan.settings, "model": _model(plan), "dtype": dtype_of(params)}
    return training_settings(to_numpy(params), plan.known_by(), **settings)


def replica_settings(plans: Sequence[Plan], params: Params, runner: str) -> dict[str, str]:
    """Returns a text for each setting of many trainings: one for all of them, or one for each.

    Args:
        plans: of the trainings.
        params: the first ones, stacked.
        runner: what runs them, since each keeps its own state.
    """
    first, known = plans[0], {}
    each = {name: _one_or_each(name, [plan.settings[name] for plan in plans], known) for name in first.settings}
    tables = {name: _one_or_each(name, [plan.table[name] for plan in plans], known) for name in first.table}
    weights = {
        jax.tree_util.keystr(path): fetch(leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]
    }
    texts = training_settings(weights, {}, model=_model(first), dtype=dtype_of(params), replicas=len(plans))
    return {"runner": runner, **each, **texts, "data": text_of(tables)}


def _model(plan: Plan) -> str:
    return model_text(plan.settings["model"], plan.model)


def _one_or_each(name: str, values: Sequence[Any], known: dict[int, str]) -> str:
    """Returns the text of values that are all the same, or those of each; objects in `known` are not read again."""
    for value in values:
        if id(value) not in known:
            known[id(value)] = setting_text(name, value)
    texts = [known[id(value)] for value in values]
    return texts[0] if len({*texts}) == 1 else f"({', '.join(texts)})"
