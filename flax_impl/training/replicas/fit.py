"""Many trainings at once: other seeds, other data, other settings, each with its own rows in its own order."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from torch_ref.common.checks.arguments import check_choice, listed, shown
from torch_ref.common.checks.arrays import check_batch
from torch_ref.common.checks.divergence import check_losses, check_trained, check_watched
from torch_ref.common.files.checkpoints import check_checkpoint
from torch_ref.common.progress import Progress
from torch_ref.common.settings.optimizers import Adam, Optimizer, check_optimizer

from ...models.layers import Params
from ...models.pure import Module
from ...models.weights import to_numpy
from ..checkpoints.settings import replica_settings
from ..checkpoints.state import open_checkpoints
from ..devices import Placement, raising_lost_peers
from ..loop import Loss, dtype_of
from ..losses import FactualLoss
from ..plan import Plan, make_plan
from ..precision import PRECISIONS
from ..predict import count_replicas
from .per_core import run_per_core
from .vectorised import run_vectorised


def fit_replicas(
    model: Module,
    params: Params,
    data: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    *,
    optimizer: Optimizer | Sequence[Optimizer] = Adam(),
    loss: Loss | Sequence[Loss] = FactualLoss(),
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    shuffle: bool = True,
    seed: int | Sequence[int] = 0,
    rows: Any = None,
    validation_rows: Any = None,
    patience: int | None = None,
    precision: str = "float32",
    keep_diverged: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    every: int | None = None,
    progress: bool = True,
    mesh: Mesh | None = None,
) -> tuple[Params, Float[np.ndarray, "replicas steps outputs"]]:
    """Trains many models at once; returns their parameters, stacked, and their losses.

    Each replica ends as `fit` would end with the same arguments. What differs between replicas is given as a sequence
    with an entry for each; what is given once holds for all.

    On a GPU or TPU the trainings are one program, vectorised over the replicas. On a CPU, where a single training keeps
    about one core busy, every core trains a replica of its own.

    Args:
        model: the model.
        params: to start from, stacked: [replicas, …] each, such as `model.init_params(range(10))`.
        data: as for `fit`; a sequence has the same names and as many rows in each. An array that is the same object in
            all of them (`{**shared, "w": w}` for each `w`) is held once.
        optimizer: settings of the optimiser; those of a sequence may differ in rates, decays and bounds.
        loss: what is minimised; those of a sequence may differ in their weights.
        epochs: how often every row is seen; give this or `steps`.
        steps: how many steps the optimiser takes.
        batch_size: rows in a batch; None takes all rows in every step.
        shuffle: new batches in every epoch, or the rows as they lie.
        seed: of the generators that draw the batches.
        rows: as for `fit`; or the numbers of each replica's rows [replicas, rows].
        validation_rows: as for `fit`; or [replicas, held out].
        patience: as for `fit`; each replica stops by itself.
        precision: as for `fit`.
        keep_diverged: returns replicas that diverged beside the others, with parameters that are NaN; otherwise they
            are an error.
        checkpoint: a folder of its own for these trainings, as for `fit`: the same call goes on from the last good
            checkpoint, to the same result. One file holds all replicas. None keeps none.
        every: steps of a replica between two checkpoints; None makes one about every 10 seconds, or fewer where
            writing takes long. The last step always makes one.
        progress: shows a bar, or plain lines, once it takes long.
        mesh: devices to share the trainings, see `make_mesh`; None is one device.

    Returns:
        The parameters, stacked, and the losses [replicas, steps, outputs] before each step. With `validation_rows` they
        have a further column, as those of `fit` have, and a replica's are NaN after the step at which it stopped.

    Raises:
        ValueError: as for `fit`; sequences of other lengths than there are replicas; settings that differ in more than
            numbers.
        OSError: a checkpoint cannot be written; those before it are whole.
        FloatingPointError: a loss became NaN or infinite; the message names the replica and the step.
        ConnectionError: another process of the mesh ended.

    Example:
        >>> import flax_impl
        >>> data = flax_impl.data.synthetic(rows=20, features=4).arrays()
        >>> model = flax_impl.TwoHead(4, [4], [4])
        >>> start = model.init_params(range(2))
        >>> params, losses = fit_replicas(model, start, data, seed=[0, 1], steps=3, batch_size=10, progress=False)
        >>> losses.shape
        (2, 3, 2)
    """
    check_choice("precision", precision, PRECISIONS)
    folder, every = check_checkpoint(checkpoint, every)
    count = count_replicas(params)
    optimizers, losses, seeds, datas = (
        _for_each(name, value, count)
        for name, value in {"optimizer": optimizer, "loss": loss, "seed": seed, "data": data}.items()
    )
    for settings in optimizers:
        check_optimizer(settings)
    tables = _checked_tables(datas, losses[0], dtype_of(params), model)
    own_rows = _rows_for_each("rows", rows, count)
    own_validation_rows = _rows_for_each("validation_rows", validation_rows, count)
    settings = {"patience": patience, "batch_size": batch_size, "epochs": epochs, "steps": steps, "shuffle": shuffle}
    plans = [
        make_plan(
            model,
            tables[n],
            optimizer=optimizers[n],
            loss=losses[n],
            rows=own_rows[n],
            validation_rows=own_validation_rows[n],
            seed=seeds[n],
            precision=precision,
            **settings,
        )
        for n in range(count)
    ]
    return train_replicas(
        plans, params, keep_diverged=keep_diverged, folder=folder, every=every, progress=progress, mesh=mesh
    )


def train_replicas(
    plans: Sequence[Plan],
    params: Params,
    *,
    keep_diverged: bool,
    folder: Path | None,
    every: int | None,
    progress: bool,
    mesh: Mesh | None,
) -> tuple[Params, Float[np.ndarray, "replicas steps columns"]]:
    """Runs the plans of many trainings at once; arguments and result are those of `fit_replicas`.

    Args:
        plans: of the trainings.
        params: to start from, stacked.
        keep_diverged: as for `fit_replicas`.
        folder: for checkpoints, checked; or None.
        every: as for `fit_replicas`.
        progress: as for `fit_replicas`.
        mesh: as for `fit_replicas`.

    Raises:
        ValueError: plans that differ in more than numbers.
        FloatingPointError: a replica diverged, unless `keep_diverged`.
    """
    _check_alike(plans)
    first = plans[0]
    shared = [name for name in first.table if all(plan.table[name] is first.table[name] for plan in plans)]
    run = run_per_core if mesh is None and jax.default_backend() == "cpu" else run_vectorised
    texts = {} if folder is None else replica_settings(plans, params, run.__name__)
    with (
        raising_lost_peers(mesh),
        open_checkpoints(folder, every, texts, mesh) as checkpoints,
        Progress(len(plans) * first.steps, progress) as report,
    ):
        trained, losses, ended = run(plans, params, shared, Placement(mesh), report, checkpoints)
    trained, losses, failures = _settled(trained, losses, ended, first)
    if failures and not keep_diverged:
        number, error = failures[0]
        raise FloatingPointError(f"replica {number}: {error}") from error
    return trained, losses


def _for_each(argument: str, value: Any, count: int) -> list[Any]:
    """Returns an entry for each replica."""
    if not isinstance(value, Sequence | np.ndarray):
        return [value] * count
    if len(value) != count:
        raise ValueError(f"{argument}: expected one, or one for each of {count} replicas, got {len(value)}")
    return list(value)


def _check_alike(plans: Sequence[Plan]) -> None:
    """Raises ValueError where one program does not do for all plans."""
    for argument in ("optimizer", "loss"):
        given = [getattr(plan, argument) for plan in plans]
        for one in given:
            if jax.tree.structure(one) != jax.tree.structure(given[0]):
                raise ValueError(
                    f"{argument}: expected settings that differ in numbers only, got {shown(given[0])} and {shown(one)}"
                )
    for name, lengths in (
        ("rows", {plan.order.rows for plan in plans}),
        ("validation_rows", {0 if plan.held_out is None else len(plan.held_out.rows) for plan in plans}),
    ):
        if len(lengths) > 1:
            raise ValueError(f"{name}: expected as many in each replica, got from {min(lengths)} to {max(lengths)}")


def _checked_tables(datas: Sequence[Any], loss: Any, dtype: str, model: Module) -> list[dict[str, np.ndarray]]:
    """Returns each replica's table, checked; what is the same object as in the first one stays one."""
    first, asked = datas[0], {"dtype": dtype, "whole": True, "model": model}
    tables = [check_batch(first, loss, **asked)]
    for number, data in enumerate(datas[1:], 1):
        if data is datas[number - 1]:
            tables.append(tables[-1])
            continue
        named = data if isinstance(data, Mapping) else {}
        known = {name: tables[0][name] for name in named if name in tables[0] and named[name] is first[name]}
        tables.append(check_batch({**named, **known} if named else data, loss, **asked) | known)
        expected, got = ({name: len(array) for name, array in table.items()} for table in (tables[0], tables[-1]))
        if got != expected:
            raise ValueError(
                f"data: expected the same names and as many rows in each, got {_rows(expected)} and, in replica "
                f"{number}, {_rows(got)}"
            )
    return tables


def _rows(lengths: Mapping[str, int]) -> str:
    return f"{next(iter(lengths.values()))} rows of {listed(lengths)}"


def _rows_for_each(argument: str, value: Any, count: int) -> list[Any]:
    """Returns row numbers for each replica; those that are given once hold for all."""
    once = value is None or not len(value) or np.ndim(value[0]) == 0
    return [value] * count if once else _for_each(argument, value, count)


def _settled(
    params: Params, losses: np.ndarray, ended: Sequence[int], plan: Plan
) -> tuple[Params, np.ndarray, list[tuple[int, FloatingPointError]]]:
    """Returns parameters and losses as they are handed out, and which replicas failed, and why.

    Losses are NaN after the step at which a replica ended, and so are the parameters of one that diverged.
    """
    losses = losses[:, : max(ended)]
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(params)]
    failures = []
    for number, (history, steps) in enumerate(zip(losses, ended, strict=True)):
        history[steps:] = np.nan
        seen = plan.parts(history[:steps])
        try:
            if not (np.isfinite(seen).all() and all(np.isfinite(leaf[number]).all() for leaf in leaves)):
                check_losses(seen, 0, steps)
                check_trained(to_numpy(jax.tree.map(lambda leaf, n=number: leaf[n], params)))
            if plan.held_out is not None:
                check_watched(history[:steps, -1])
        except FloatingPointError as error:
            failures.append((number, error))
    if failures:
        failed = np.isin(np.arange(len(losses)), [number for number, _ in failures])
        params = jax.tree.map(lambda x: jnp.where(failed.reshape(-1, *[1] * (x.ndim - 1)), jnp.nan, x), params)
    return params, losses, failures
