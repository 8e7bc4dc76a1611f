"""`twohead predict`: how it fails; what it writes is seen in `test_train`."""

from pathlib import Path

import numpy as np
import pytest

import flax_impl
from flax_impl.commands import predict
from tests.support.commands import fails


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "new.csv"], "error: out/train/model.safetensors: expected a safetensors file, found none"),
        (
            ["--data", "new.csv", "--model", "weights"],
            "error: weights: format: expected one of 'effects/3', 'effects/2', 'effects/1', got 'model",
        ),
        (
            ["--data", "few.csv", "--model", "model"],
            "expected the columns that the model was trained on, but x4 are missing",
        ),
        (["--data", "none.csv", "--model", "model"], "error: none.csv: expected a file, found none"),
        (["--model", "model"], "error: the following arguments are required: --data"),
        (["--data", "new.csv", "--model", "model", "--alpha", "2"], "error: alpha: expected a finite number above 0"),
    ],
)
@pytest.mark.parametrize("backend", ["flax", "torch"])
def test_unusable_arguments(
    tmp_path: Path, arguments: list[str], message: str, backend: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = flax_impl.data.synthetic(rows=60, features=4)
    settings = flax_impl.effects.EffectSettings(
        representation_features=[4], head_features=[4], epochs=2, members=2, bootstrap=True
    )
    flax_impl.effects.fit_effects(data, settings, progress=False).save(tmp_path / "model")
    net = flax_impl.TwoHead(4)
    flax_impl.save_model(tmp_path / "weights", net, net.init_params())
    for name, header in (("new", "x1,x2,x3,x4"), ("few", "x1,x2,x3,x5")):
        np.savetxt(tmp_path / f"{name}.csv", data.x, delimiter=",", header=header, comments="")
    fails(predict.main, [*arguments, "--backend", backend], tmp_path, message, capsys)
    assert not (tmp_path / "out" / "effects.csv").exists()


@pytest.mark.filterwarnings("always:far from training:UserWarning")  # printed, as everywhere but in tests
@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("backend", ["flax", "torch"])
def test_columns_in_another_unit_are_said(
    tmp_path: Path, gaps: bool, backend: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = flax_impl.data.synthetic(rows=60, features=4)
    table = {f"x{i + 1}": column for i, column in enumerate(data.x.T)} | {"t": data.t, "y": data.y[:, 0]}
    table |= {"x1": np.where(data.x[:, 0] > 1, np.nan, data.x[:, 0]), "town": np.arange(60) == 7} if gaps else {}
    settings = flax_impl.effects.EffectSettings(representation_features=[4], head_features=[4], epochs=2, members=2)
    model = flax_impl.effects.fit_effects(flax_impl.data.load_data(table), settings, progress=False)
    model.save(tmp_path / "model")
    shown = ["--model", str(tmp_path / "model"), "--out", str(tmp_path / "effects.csv"), "--backend", backend]
    for factor, name in ((1, "same"), (100, "other")):
        columns = table | {"x2": factor * table["x2"]}
        np.savetxt(
            tmp_path / f"{name}.csv", np.stack(list(columns.values()), axis=1), delimiter=",", comments="",
            header=",".join(columns),
        )  # fmt: skip
    assert predict.main([*shown, "--data", str(tmp_path / "same.csv")]) == 0
    assert capsys.readouterr().err == ""
    assert predict.main([*shown, "--data", str(tmp_path / "other.csv")]) == 0
    assert capsys.readouterr().err == (
        "warning: far from training, by more than 10 standard deviations: x2; effects there are guesses, and the unit "
        "may be another\n"
    )
