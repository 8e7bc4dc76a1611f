"""Trains an ensemble of two-head nets on a table larger than memory."""

import os
from collections.abc import Sequence
from functools import partial

import numpy as np

try:
    import jax
    from jax.sharding import Mesh
except ImportError as error:
    raise ImportError("flax_impl needs jax: pip install 'twohead[jax]'") from error

from torch_ref.common.settings.optimizers import Optimizer

from ...models.two_head import TwoHead
from ...models.weights import to_numpy
from ...training.checkpoints.stages import Stages, in_stages
from ...training.fit import fit
from ...training.replicas.per_core import stack_losses
from ..effect_model import EffectModel
from ..fit import LOSSES, check_machine, run_ensemble
from ..learners.second_try import train_twice
from ..learners.training_record import TrainingRecord
from ..prepare import net_config, net_loss
from ..settings import EffectSettings
from .prepare import SAMPLE, StreamedPreparation, prepare_streamed


def fit_effects_streamed(
    source: str | os.PathLike[str],
    settings: EffectSettings = EffectSettings(),
    *,
    treatment: str = "t",
    outcome: str = "y",
    weight: str | None = None,
    control: object = None,
    features: Sequence[str] | None = None,
    ignore: Sequence[str] = (),
    categories: Sequence[str] = (),
    sample: int = SAMPLE,
    window: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    every: int | None = None,
    progress: bool = True,
    mesh: Mesh | None = None,
) -> EffectModel:
    """Trains an ensemble on Parquet files larger than memory, one net after the other, while threads read the rows.

    Columns are taken as `load_data` takes them. A sample of the rows says which levels a category has, where pieces of
    a feature begin, and which rows are held out; means, deviations and gaps are those of all rows. A net sees its rows
    as `fit` sees those of a `ParquetTable`; unless told otherwise, it takes about 200,000 steps at most.

    Args:
        source: a file, a folder with `*.parquet`, a pattern with `*`, or a URL that fsspec knows.
        settings: as for `fit_effects`, without intervals and trees.
        treatment: the column with the arm of each row: numbers, truth values or texts.
        outcome: the column with the outcome.
        weight: the column with the weights of the rows; None weighs all alike.
        control: the label of the arm to compare with; None takes the first in order.
        features: the columns that are features; None takes all others.
        ignore: the columns that are no features, such as identifiers.
        categories: the features that are categories, though they look like numbers.
        sample: how many rows are drawn, with the seed of the settings; a table with no more is taken whole.
        window: as for `ParquetTable`.
        checkpoint: a folder of its own for this training, with a folder for each net: `net-0` and so on, `net-0-again`
            for one that diverged. The same call goes on from the last good checkpoint. None keeps none.
        every: as for `fit`.
        progress: shows a bar for each net, or plain lines, once it takes long.
        mesh: devices to share the training, see `make_mesh`.

    Returns:
        The ensemble; its `training` holds the losses and the numbers of the held-out rows of each net.

    Raises:
        FileNotFoundError: there are no such files.
        ImportError: pyarrow, or fsspec for a URL, is not installed; the message names the extra.
        ValueError: intervals or trees are asked for; a column that is missing, of another type in a later file, or what
            `load_data` refuses; a row without treatment, or of an arm that the sample lacks. File, row group, column
            and row are named, or that the row is one of the sample.
        OSError: a checkpoint cannot be written; those before it are whole.
        FloatingPointError: a net diverged, and once more with a tenth of the learning rate; the message names the step.
        ConnectionError: another process of the mesh ended.

    Warns:
        UserWarning: as `fit_effects`, of the sample; levels that the sample lacks.

    Example:
        >>> import pyarrow
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from pyarrow.parquet import write_table
        >>> draw = np.random.default_rng(0)
        >>> made = {"age": draw.normal(size=90), "city": ["Bonn", "Oslo", "Rome"] * 30, "t": draw.integers(0, 2, 90)}
        >>> made["y"] = made["age"] + made["t"]
        >>> small = EffectSettings(representation_features=[4], head_features=[4], members=2, steps=3)
        >>> with TemporaryDirectory() as folder:
        ...     write_table(pyarrow.table(made), Path(folder, "rows.parquet"), row_group_size=30)
        ...     model = fit_effects_streamed(folder, small, progress=False)
        >>> model.effect({"age": [0.5, 1.0], "city": ["Rome", "Bonn"]}).shape
        (2,)

    Source: TARNet and CFR; Shalit, Johansson, Sontag, "Estimating individual treatment effect", ICML 2017.
    """
    check_machine(settings)
    prepared = prepare_streamed(
        source, settings, treatment=treatment, outcome=outcome, weight=weight, control=control, features=features,
        ignore=ignore, categories=categories, sample=sample, window=window, progress=progress,
    )  # fmt: skip
    return train_streamed(prepared, settings, checkpoint=checkpoint, every=every, progress=progress, mesh=mesh)


def train_streamed(
    prepared: StreamedPreparation,
    settings: EffectSettings,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    every: int | None = None,
    progress: bool = True,
    mesh: Mesh | None = None,
) -> EffectModel:
    """Trains the nets of an ensemble one after the other; arguments, result and errors are those of the above.

    Args:
        prepared: what they train on.
        settings: of the nets.
        checkpoint: as for `fit_effects_streamed`.
        every: as for `fit_effects_streamed`.
        progress: as for `fit_effects_streamed`.
        mesh: as for `fit_effects_streamed`.
    """
    check_machine(settings)
    arms = len(prepared.arms)
    model = TwoHead(**net_config(prepared.prepared, settings, arms))
    kind, arguments = net_loss(settings, arms)
    loss = LOSSES[kind](**arguments)

    def train(stages: Stages, net: int, optimizer: Optimizer, stage: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
        start = jax.tree.map(lambda leaf: leaf.astype(settings.dtype), model.init_params(settings.seed + net))
        params, losses = fit(
            model, start, prepared.table, optimizer=optimizer, loss=loss, seed=settings.seed + net,
            validation_rows=None if prepared.held_out is None else prepared.held_out[net],
            precision=settings.precision, checkpoint=stages.of(stage), every=every, progress=progress, mesh=mesh,
            **prepared.prepared.lengths,
        )  # fmt: skip
        return to_numpy(params), losses

    with in_stages(checkpoint, every, mesh, "nets") as stages:
        nets = [train_twice(partial(train, stages), net, settings.optimizer) for net in range(settings.members)]
    training = TrainingRecord(stack_losses([losses for _, losses in nets]), prepared.held_out)
    return run_ensemble(prepared.ensemble(model.config, [weights for weights, _ in nets]), training)
