"""Losses and reductions."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
import torch.nn.functional as F

from .fact import Found, fact, outcome

_GENERATOR = np.random.default_rng(0)
P, Y = _GENERATOR.normal(size=(6, 1)), _GENERATOR.normal(size=(6, 1))
LOGITS, CLASSES = _GENERATOR.normal(size=(6, 3)), _GENERATOR.integers(0, 3, 6)


@fact(
    "squared error",
    torch="`mse_loss`: mean of the squares",
    jax="`optax.l2_loss`: half of each square, no mean",
    use="`optax.squared_error(p, y).mean()`",
)
def squared_error() -> Found:
    return Found(
        F.mse_loss(torch.tensor(P), torch.tensor(Y)), optax.l2_loss(P, Y).mean(), optax.squared_error(P, Y).mean()
    )


@fact(
    "labels [rows] for predictions [rows, 1]",
    torch="`binary_cross_entropy_with_logits`: {torch}",
    jax="`optax.sigmoid_binary_cross_entropy`: broadcast to {jax}",
    use="`jax.numpy_rank_promotion('raise')`, or give both one shape",
)
def broadcast_labels() -> Found:
    labels = (Y[:, 0] > 0).astype(float)
    refused = outcome(lambda: F.binary_cross_entropy_with_logits(torch.tensor(P), torch.tensor(labels)))
    shape = str(list(optax.sigmoid_binary_cross_entropy(jnp.asarray(P), jnp.asarray(labels)).shape))
    return Found(values={"torch": refused, "jax": shape})


@fact(
    "cross entropy of logits",
    torch="mean over rows",
    jax="a number for each row",
    use="`optax.softmax_cross_entropy_with_integer_labels(…).mean()`",
)
def cross_entropy() -> Found:
    rows = optax.softmax_cross_entropy_with_integer_labels(jnp.asarray(LOGITS), jnp.asarray(CLASSES))
    return Found(F.cross_entropy(torch.tensor(LOGITS), torch.tensor(CLASSES)), rows, rows.mean())


@fact(
    "cross entropy with weights of the classes",
    torch="divides by the sum of the weights",
    jax="`(w * loss).mean()` divides by the rows",
    use="`(w * loss).sum() / w.sum()`",
)
def class_weights() -> Found:
    weights = np.array([1.0, 2.0, 5.0])
    rows = optax.softmax_cross_entropy_with_integer_labels(jnp.asarray(LOGITS), jnp.asarray(CLASSES))
    w = weights[CLASSES]
    reference = F.cross_entropy(torch.tensor(LOGITS), torch.tensor(CLASSES), torch.tensor(weights))
    return Found(reference, (w * rows).mean(), (w * rows).sum() / w.sum())


@fact("label smoothing", torch="`label_smoothing=0.1`", jax="`optax.smooth_labels(one_hot, 0.1)`")
def label_smoothing() -> Found:
    labels = optax.smooth_labels(jax.nn.one_hot(CLASSES, 3), 0.1)
    reference = F.cross_entropy(torch.tensor(LOGITS), torch.tensor(CLASSES), label_smoothing=0.1)
    return Found(reference, optax.softmax_cross_entropy(jnp.asarray(LOGITS), labels).mean())


@fact(
    "binary cross entropy of probabilities that are 0 or 1 and wrong",
    torch="capped at {torch}",
    jax="written out: {jax}",
    use="keep logits: `optax.sigmoid_binary_cross_entropy`; or, for the value alone, "
    "`-jnp.maximum(jnp.log(jnp.maximum(p, 1e-44)), -100)`",
)
def cross_entropy_of_probabilities() -> Found:
    p, y = np.array([0.0]), np.array([1.0])
    reference, ported = F.binary_cross_entropy(torch.tensor(p), torch.tensor(y)), -jnp.log(p).mean()
    capped = -jnp.maximum(jnp.log(jnp.maximum(p, 1e-44)), -100).mean()
    return Found(reference, ported, capped, values={"torch": reference, "jax": ported})


@fact(
    "labels that do not count",
    torch="`ignore_index=-100`: left out of the mean",
    jax="{jax} for a label of -100",
    use="`where(keep, loss(logits, where(keep, labels, 0)), 0).sum() / keep.sum()`",
)
def ignored_labels() -> Found:
    labels = np.where(np.arange(6) == 2, -100, CLASSES)
    keep = labels >= 0
    entropy = optax.softmax_cross_entropy_with_integer_labels
    ported = entropy(jnp.asarray(LOGITS), jnp.asarray(labels)).mean()
    rows = entropy(jnp.asarray(LOGITS), jnp.where(keep, labels, 0))
    reference = F.cross_entropy(torch.tensor(LOGITS), torch.tensor(labels))
    return Found(reference, ported, jnp.where(keep, rows, 0).sum() / keep.sum(), values={"jax": ported})


@fact(
    "Kullback-Leibler divergence",
    torch="`kl_div`: the mean over all entries",
    jax="`optax.kl_divergence`: a sum for each row",
    use="`optax.kl_divergence(…).mean() / classes`; torch's `batchmean` is the mean over rows",
)
def kl_divergence() -> Found:
    logs, target = jax.nn.log_softmax(LOGITS), jax.nn.softmax(LOGITS[::-1])
    rows = optax.kl_divergence(logs, target)
    reference = F.kl_div(torch.tensor(np.asarray(logs)), torch.tensor(np.asarray(target)), reduction="none").mean()
    return Found(reference, rows.mean(), rows.mean() / 3)


@fact("binary cross entropy of logits", torch="", jax="a number for each row")
def cross_entropy_of_logits() -> Found:
    labels = (Y > 0).astype(float)
    reference = F.binary_cross_entropy_with_logits(torch.tensor(P), torch.tensor(labels))
    return Found(reference, optax.sigmoid_binary_cross_entropy(jnp.asarray(P), jnp.asarray(labels)).mean())


@fact(
    "smooth L1 with beta 0.5",
    torch="`smooth_l1_loss`: the square is divided by beta",
    jax="`optax.huber_loss(delta=0.5)`: it is not",
    use="`optax.huber_loss(p, y, beta) / beta`",
)
def smooth_l1() -> Found:
    reference: Any = F.smooth_l1_loss(torch.tensor(P), torch.tensor(Y), beta=0.5)
    ported = optax.huber_loss(jnp.asarray(P), jnp.asarray(Y), delta=0.5).mean()
    return Found(reference, ported, ported / 0.5)
