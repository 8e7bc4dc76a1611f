"""Many trainings at once: other seeds, other data, other settings, each with its own rows in its own order."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from torch_ref.common.batches import BatchOrder, HeldOut, choose_rows
from torch_ref.common.checks.arguments import check_choice, listed, shown
from torch_ref.common.checks.arrays import check_batch
from torch_ref.common.checks.divergence import check_losses, check_trained, check_watched
from torch_ref.common.progress import Progress
from torch_ref.common.settings.optimizers import Adam, Optimizer, check_optimizer

from ...models.layers import Params
from ...models.pure import Module, functional
from ...models.weights import to_numpy
from ..devices import Placement, lost_peers_named
from ..losses import FactualLoss
from ..precision import PRECISIONS
from ..step import Loss, dtype_of
from ..traced_settings import as_pytree
from .runs import Work, run_on_cores, run_vectorized


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
        progress: shows a bar, or plain lines, once it takes long.
        mesh: devices to share the trainings, see `make_mesh`; None is one device.

    Returns:
        The parameters, stacked, and the losses [replicas, steps, outputs] before each step. With `validation_rows` they
        have a further column, as those of `fit` have, and a replica's are NaN after the step at which it stopped.

    Raises:
        ValueError: as for `fit`; sequences of other lengths than there are replicas; settings that differ in more than
            numbers.
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
    count = _count(params)
    optimizers, losses_of, seeds, datas = (
        _for_each(name, value, count)
        for name, value in {"optimizer": optimizer, "loss": loss, "seed": seed, "data": data}.items()
    )
    for settings in optimizers:
        check_optimizer(settings)
    tables = _tables(datas, losses_of[0], dtype_of(params))
    total = len(next(iter(tables[0].values())))
    plans = _plans(total, count, rows, validation_rows, patience, batch_size, epochs, steps)
    work = Work(
        model=functional(model),
        precision=precision,
        params=params,
        tables=tables,
        optimizers=_alike("optimizer", optimizers, optimizers),
        losses=_alike("loss", losses_of, [as_pytree(of_one) for of_one in losses_of]),
        orders=[
            BatchOrder(chosen, batch_size=batch_size, shuffle=shuffle, seed=of_one)
            for (chosen, _, _), of_one in zip(plans, seeds, strict=True)
        ],
        held_out=[held_out for _, held_out, _ in plans],
        steps=plans[0][2],
        place=Placement(mesh),
    )
    run = run_on_cores if mesh is None and jax.default_backend() == "cpu" else run_vectorized
    with Progress(count * work.steps, progress) as report, lost_peers_named(mesh):
        trained, losses, ended = run(work, report)
    trained, losses, failures = _settled(trained, losses, ended, work.held_out[0] is not None)
    if failures and not keep_diverged:
        number, error = failures[0]
        raise FloatingPointError(f"replica {number}: {error}") from error
    return trained, losses


def _count(params: Params) -> int:
    """Returns how many replicas stacked parameters are of."""
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(params)]
    counts = {shape[0] if shape else 0 for shape in shapes}
    if len(counts) != 1 or 0 in counts:
        got = listed(sorted({str(list(shape)) for shape in shapes}))
        raise ValueError(f"params: expected stacked parameters, [replicas, …] each, got {got}")
    return counts.pop()


def _for_each(argument: str, value: Any, count: int) -> list[Any]:
    """Returns an entry for each replica."""
    if not isinstance(value, Sequence | np.ndarray):
        return [value] * count
    if len(value) != count:
        raise ValueError(f"{argument}: expected one, or one for each of {count} replicas, got {len(value)}")
    return list(value)


def _alike(argument: str, given: Sequence[Any], trees: Sequence[Any]) -> list[Any]:
    """Returns the settings; raises ValueError where one program does not do for all."""
    for one, tree in zip(given, trees, strict=True):
        if jax.tree.structure(tree) != jax.tree.structure(trees[0]):
            raise ValueError(
                f"{argument}: expected settings that differ in numbers only, got {shown(given[0])} and {shown(one)}"
            )
    return list(trees)


def _tables(datas: Sequence[Any], loss: Any, dtype: str) -> list[dict[str, np.ndarray]]:
    """Returns each replica's table, checked; what is one object in several of them stays one."""
    given = [dict(data) if isinstance(data, Mapping) else data for data in datas]  # kept, or an id could come again
    known: dict[Any, Any] = {}
    tables: list[dict[str, np.ndarray]] = []
    for number, (data, arrays) in enumerate(zip(datas, given, strict=True)):
        if id(data) not in known:
            names = arrays if isinstance(arrays, dict) else {}
            seen = {name: known.get((name, id(array)), array) for name, array in names.items()}
            known[id(data)] = check_batch(seen or arrays, loss, dtype=dtype, whole=True)
            known |= {(name, id(array)): known[id(data)][name] for name, array in names.items()}
        tables.append(known[id(data)])
        expected, got = ({name: len(array) for name, array in table.items()} for table in (tables[0], tables[-1]))
        if got != expected:
            raise ValueError(
                f"data: expected the same names and as many rows in each, got {_rows(expected)} and, in replica "
                f"{number}, {_rows(got)}"
            )
    return tables


def _rows(lengths: Mapping[str, int]) -> str:
    return f"{next(iter(lengths.values()))} rows of {listed(lengths)}"


def _plans(
    total: int,
    count: int,
    rows: Any,
    validation_rows: Any,
    patience: int | None,
    batch_size: Any,
    epochs: Any,
    steps: Any,
) -> list[tuple[Any, HeldOut | None, int]]:
    """Returns what `choose_rows` says for each replica; raises ValueError where one program does not do for all."""
    each = [_rows_for_each(*one, count) for one in (("rows", rows), ("validation_rows", validation_rows))]
    settings = {"patience": patience, "batch_size": batch_size, "epochs": epochs, "steps": steps}
    plans = [choose_rows(total, rows=own, validation_rows=held, **settings) for own, held in zip(*each, strict=True)]
    sizes = [(np.size(chosen), 0 if held is None else len(held.rows)) for chosen, held, _ in plans]
    for name, which in (("rows", 0), ("validation_rows", 1)):
        lengths = {lengths_of[which] for lengths_of in sizes}
        if len(lengths) > 1:
            raise ValueError(f"{name}: expected as many in each replica, got from {min(lengths)} to {max(lengths)}")
    return plans


def _rows_for_each(argument: str, value: Any, count: int) -> list[Any]:
    """Returns row numbers for each replica; those that are given once hold for all."""
    once = value is None or not len(value) or np.ndim(value[0]) == 0
    return [value] * count if once else _for_each(argument, value, count)


def _settled(
    params: Params, losses: np.ndarray, ended: Sequence[int], watched: bool
) -> tuple[Params, np.ndarray, list[tuple[int, FloatingPointError]]]:
    """Returns parameters and losses as they are handed out, and which replicas failed, and why.

    Losses are NaN after the step at which a replica ended, and so are the parameters of one that diverged.
    """
    losses = losses[:, : max(ended)]
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(params)]
    failures = []
    for number, (history, steps) in enumerate(zip(losses, ended, strict=True)):
        history[steps:] = np.nan
        seen, looks = (history[:steps, :-1], history[:steps, -1]) if watched else (history[:steps], None)
        try:
            if not (np.isfinite(seen).all() and all(np.isfinite(leaf[number]).all() for leaf in leaves)):
                check_losses(seen, 0, steps)
                check_trained(to_numpy(jax.tree.map(lambda leaf, n=number: leaf[n], params)))
            if looks is not None:
                check_watched(looks)
        except FloatingPointError as error:
            failures.append((number, error))
    if failures:
        failed = np.isin(np.arange(len(losses)), [number for number, _ in failures])
        params = jax.tree.map(lambda x: jnp.where(failed.reshape(-1, *[1] * (x.ndim - 1)), jnp.nan, x), params)
    return params, losses, failures
