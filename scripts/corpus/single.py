"""Says whether a pair agrees in float32, as it is written: is the port as near to float64 as the reference is?"""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import torch
from jax.extend.core import jaxpr_as_fun

from flax_impl.parity.alignment.partners import Partners
from flax_impl.parity.recording.operations.tape import TracedStep
from torch_ref.common.call_names import leaves
from torch_ref.common.tape.fingerprint import Fingerprint, fingerprint

from .pair import Pair

_TIMES = 3.0  # that a port may be as far off as its reference: gate B
_EPS = float(np.finfo(np.float32).eps)
_SMALL = 1e-3  # of the largest gradient: one that cancels to less has no size of its own


def float32_ratio(pair: Pair, partners: Partners, step: TracedStep) -> float:
    """Returns how far the port is off at its worst, as a share of what it may be; 1 and less agrees.

    Both run as they are written. What a loss, an output or a gradient may be off is three times what the reference is
    off float64, of that result or of three quarters of those of its phase, and one rounding.

    Args:
        pair: the pair.
        partners: of the two tapes in float64.
        step: the port's.
    """
    exact = partners.reference
    ours, theirs = _of_torch(pair), _of_jax(step)
    sizes = {name: exact.values[number].scale for name, number in exact.results.items()}
    floor = _SMALL * max((size for name, size in sizes.items() if name.startswith("grad/")), default=0.0)
    sizes = {name: max(size, floor if name.startswith("grad/") else 0.0) or 1.0 for name, size in sizes.items()}
    own = {name: _apart(ours[name], exact.values[n]) / sizes[name] for name, n in exact.results.items() if name in ours}
    usual = {phase: _usual(own, phase) for phase in ("loss", "output", "grad")}
    by_number = {number: name for name, number in exact.results.items()}
    worst = 0.0
    for name, number in partners.port.results.items():
        twins = [by_number[twin] for twin in partners.of_port.get(number, ()) if twin in by_number]
        twins = [twin for twin in twins if twin in own and exact.values[exact.results[twin]].size == theirs[name].size]
        for twin in twins[:1]:
            allowed = _TIMES * (max(own[twin], usual[twin.partition("/")[0]]) + _EPS)
            worst = max(worst, _apart(theirs[name], exact.values[exact.results[twin]]) / sizes[twin] / allowed)
    return worst


def _usual(own: Mapping[str, float], phase: str) -> float:
    of_phase = [noise for name, noise in own.items() if name.startswith(phase)]
    return float(np.quantile(of_phase, 0.75)) if of_phase else 0.0


def _apart(array: Fingerprint, exact: Fingerprint) -> float:
    return float(np.abs(array.moments - exact.moments).max())


def _of_torch(pair: Pair) -> dict[str, Fingerprint]:
    """Returns what the reference gives in its own dtype."""
    model = copy.deepcopy(pair.reference)
    batch = {name: torch.tensor(array) for name, array in pair.batch.items()}
    by_input = {name: tensor.requires_grad_() for name, tensor in batch.items() if tensor.is_floating_point()}
    outputs: list[torch.Tensor] = []
    model.register_forward_hook(lambda _module, _args, output: outputs.extend(_tensors(output)))
    losses = _tensors(pair.loss(model, **batch))
    wanted = {name: p for name, p in model.named_parameters() if p.requires_grad} | by_input
    found = torch.autograd.grad(sum(losses[1:], losses[0]), list(wanted.values()), allow_unused=True)
    named = {f"loss/{i}": value for i, value in enumerate(losses)}
    named |= {f"output/{i}": value for i, value in enumerate(outputs)}
    named |= {f"grad/{name}": value for name, value in zip(wanted, found, strict=True) if value is not None}
    return {name: fingerprint(value.detach().numpy()) for name, value in named.items()}


def _of_jax(step: TracedStep) -> dict[str, Fingerprint]:
    """Returns what the port gives in its own dtype."""
    run: Callable[..., list[Any]] = jax.jit(jaxpr_as_fun(step.jaxpr))
    given = [np.asarray(a, aval.dtype) for a, aval in zip(step.arguments, step.jaxpr.in_avals, strict=True)]
    made = zip(step.results, run(*given), strict=True)
    return {name: fingerprint(np.asarray(value)) for name, value in made if name}


def _tensors(value: Any) -> list[torch.Tensor]:
    return [leaf for leaf in leaves(value).values() if isinstance(leaf, torch.Tensor)]
