"""Turns what is said of a port in JAX into the same of a port in torch: the two sides change places."""

import re
from dataclasses import replace

from .entries import Finding

_OTHER = {"port": "reference", "reference": "port"}
_KINDS = {"missing": "extra", "extra": "missing"}
_NUMBER = r"-?\d[\d.]*(?:e-?\d+)?"
# What a sentence says is to be done, by its form: the advice of the other side is no help.
_ADVICE = (
    (rf" is ({_NUMBER}) in the port, {_NUMBER} in the reference$", r"use \1"),
    (rf"the port's value is ({_NUMBER}) times the reference's", r"multiply by \1"),
    (rf"the port's value is ({_NUMBER}) less than the reference's", r"subtract \1"),
    (rf"the port's value is ({_NUMBER}) more than the reference's", r"add \1"),
    (r"the port's loss is ", "take the factor out"),
    (r"the port adds where the reference subtracts", "add"),
    (r"the port subtracts where the reference adds", "subtract"),
    (r"^the port applies (\S+) where the reference applies ", r"use \1"),
    (r"the port \w+(?: \w+)* (\S+) where the reference has ", r"use \1"),
    (r"^the port applies (\S+) once more than the reference", "apply it once more"),
    (r"^the port does not .*, which the reference does$", "leave it out"),
    (r"^no gradient passes.* in the port, which the reference lets through", "put a detach() there"),
    (r"^the reference stops a gradient.* with detach\(\)", "take the detach() off"),
    (r"^the port .*, which the reference does not$", "add it"),
    (r"^the port decays the parameters apart from the gradient, as optax.adamw", "use torch.optim.AdamW"),
    (r"^the port adds the decay to the gradient, before optax.scale_by_adam", "use torch.optim.Adam"),
    (r"^the port has no weight decay;", "pass weight_decay=0"),
    (rf"^the port decays by ({_NUMBER}); torch decays by ", r"pass weight_decay=\1"),
    (rf"^the port's learning rate is ({_NUMBER}) times torch's", r"multiply lr by \1"),
    (r"^the port's optimiser has .*; torch's has ", "pass the reference's value"),
    (r"^the port does not clip; torch clips ", "leave the clipping out"),
)
# Advice that holds for either side.
_EITHER = (
    "exchange ",
    "change it",
    "divide the other way round",
    "concatenate the two",
    "put each where its name says",
)
# What follows such a sentence says what it is.
_DESCRIBED = re.compile(
    r"( in another order)(?: at `\d+`)?$| does here$| operations more, which the reference does not$"
)
_TURNED = re.compile(r"^x\.transpose\(([\d, ]+)\) before the reshape")
_KEPT = re.compile(rf" keep ({_NUMBER}) in the port, ")
_NAMES = (
    ("jax.nn.gelu(approximate=False)", "torch.nn.functional.gelu"),
    ("jax.nn.gelu(approximate=True)", 'torch.nn.functional.gelu(approximate="tanh")'),
    ("jax.nn.swish", "torch.nn.functional.silu"),
    ("jax.nn.hard_tanh", "torch.nn.functional.hardtanh"),
    ("jax.nn.hard_sigmoid", "torch.nn.functional.hardsigmoid"),
    ("jax.nn.hard_swish", "torch.nn.functional.hardswish"),
    ("jax.nn.sigmoid", "torch.sigmoid"),
    ("jax.nn.", "torch.nn.functional."),
    ("jnp.", "torch."),
)


def exchanged(text: str) -> str:
    """Returns a text in which the port and the reference have changed places.

    Args:
        text: of any length.

    Example:
        >>> exchanged("the port adds 1, which the reference does not")
        'the reference adds 1, which the port does not'
    """
    return re.sub(r"\bthe (port|reference)\b", lambda found: f"the {_OTHER[found[1]]}", text)


def of_torch(finding: Finding) -> Finding:
    """Returns a finding about a port in JAX as one about a port in torch, whose reference is in JAX.

    Args:
        finding: as it is named with the two the other way round.

    Example:
        >>> print(of_torch(Finding("epsilon is 1e-06 in the port, 1e-05 in the reference: pass epsilon=1e-05")))
        epsilon is 1e-06 in the reference, 1e-05 in the port: use 1e-06
        >>> print(of_torch(Finding("the port does not add 2, which the reference does")))
        the reference does not add 2, which the port does: leave it out
    """
    code: list[str] = []  # which the words around it do not change

    def hidden(found: re.Match[str]) -> str:
        code.append(found[0])
        return f"`{len(code) - 1}`"

    said, _, advice = re.sub(r"`[^`]*`", hidden, finding.text).partition(": ")
    advice = _advice(said, advice)
    text = f"{exchanged(said)}{': ' if advice else ''}{advice}"
    for own, other in _NAMES:
        text = text.replace(own, other)
    text = re.sub(r"`(\d+)`", lambda found: code[int(found[1])], text)
    return replace(finding, text=text, kind=_KINDS.get(finding.kind, finding.kind))


def _advice(said: str, advice: str) -> str:
    """Returns what is to be done in torch; what the other side would have to do is no help."""
    if (described := _DESCRIBED.search(said)) is not None:
        return f"{advice.partition(', ')[0]} there" if advice and described[1] else advice
    if advice.startswith(_EITHER):
        return advice
    if (turned := _TURNED.search(advice)) is not None:
        order = [int(axis) for axis in turned[1].split(", ")]
        back = sorted(range(len(order)), key=order.__getitem__)
        return f"x.permute({', '.join(map(str, back))}) before the reshape"
    if (kept := _KEPT.search(said)) is not None:
        return f"pass momentum={1 - float(kept[1]):.6g}, as torch names the share of the batch"
    forms = ((re.search(form, said), given) for form, given in _ADVICE)
    return next((found.expand(given) for found, given in forms if found is not None), "")
