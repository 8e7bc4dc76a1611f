"""Penalties on the distance between the arms: against values by hand, against their twins, and in whole trainings."""

import math
import sys
import warnings
from collections.abc import Iterator
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

import flax_impl
import torch_ref
from flax_impl.commands.recipes import Recipe, check, reference
from flax_impl.commands.sides import FlaxSide, TorchSide
from flax_impl.parity import largest_difference
from tests.support.cases import same_error
from torch_ref.training.processes import Share

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # JAXopt, which OTT imports, says that nobody maintains it
    import ott  # noqa: F401

BALANCES = ["linear_mmd", "rbf_mmd", "wasserstein"]
SMALL = {"in_features": 4, "representation_features": [6], "head_features": [5], "final_activation": "identity"}
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@pytest.fixture(autouse=True)
def as_users_have_it(request: pytest.FixtureRequest) -> Iterator[None]:
    """OTT broadcasts ranks and promotes dtypes: where it is called, JAX is as lenient as it is by itself."""
    if "wasserstein" not in request.node.name:
        yield
        return
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def torch_balance(name: str, arrays: Arrays) -> list[np.ndarray]:
    """Returns the penalty and its gradients by both codes."""
    code0, code1, w0, w1 = (torch.tensor(array) for array in arrays)
    codes = code0.requires_grad_(), code1.requires_grad_()
    penalty = getattr(torch_ref.training, name)(*codes, w0, w1)
    return [penalty.detach().numpy(), *(part.numpy() for part in torch.autograd.grad(penalty, codes))]


@cache
def jitted(name: str) -> Any:
    """Returns one program, which tests share that give it the same shapes."""
    return jax.jit(jax.value_and_grad(getattr(flax_impl.training, name), (0, 1)))


def flax_balance(name: str, arrays: Arrays) -> list[np.ndarray]:
    penalty, gradients = jitted(name)(*arrays)
    return [np.asarray(part) for part in (penalty, *gradients)]


EVALUATES = {"torch": torch_balance, "flax": flax_balance}
sides = pytest.mark.parametrize("evaluate", EVALUATES.values(), ids=EVALUATES)
balances = pytest.mark.parametrize("name", BALANCES)


def column(*values: float) -> np.ndarray:
    return np.array(values, np.float64)[:, None]


def split(code: np.ndarray, w: np.ndarray, t: np.ndarray) -> Arrays:
    return code[t == 0], code[t == 1], w[t == 0], w[t == 1]


def drawn(rows0: int, rows1: int, code: int, seed: int) -> Arrays:
    generator = np.random.default_rng(seed)
    codes = generator.normal(size=(rows0, code)), 1 + generator.normal(size=(rows1, code))
    return *codes, generator.exponential(size=rows0), generator.exponential(size=rows1)


@pytest.mark.usefixtures("x64")
@sides
class TestByHand:
    def test_linear(self, evaluate: Any) -> None:
        codes = np.array([[0.0, 0.0], [2.0, 0.0]]), np.array([[4.0, 4.0]])
        penalty, by_code0, by_code1 = evaluate("linear_mmd", (*codes, np.ones(2), np.ones(1)))
        assert penalty == pytest.approx(3**2 + 4**2, rel=1e-12)
        np.testing.assert_allclose(by_code0, [[-3, -4]] * 2, rtol=1e-12)
        np.testing.assert_allclose(by_code1, [[6, 8]], rtol=1e-12)
        penalty, *_ = evaluate("linear_mmd", (*codes, np.array([3.0, 1.0]), np.array([5.0])))
        assert penalty == pytest.approx(3.5**2 + 4**2, rel=1e-12)

    def test_rbf(self, evaluate: Any) -> None:
        """The kernel's width is the mean of 1 and 9, or with the weights of 1, 1, 1 and 9."""
        codes = column(0), column(1, 3)
        penalty, *_ = evaluate("rbf_mmd", (*codes, np.ones(1), np.ones(2)))
        within, across = (1 + math.exp(-4 / 5)) / 2, (math.exp(-1 / 5) + math.exp(-9 / 5)) / 2
        assert penalty == pytest.approx(1 + within - 2 * across, rel=1e-12)
        penalty, *_ = evaluate("rbf_mmd", (*codes, np.ones(1), np.array([3.0, 1.0])))
        within, across = (10 + 6 * math.exp(-4 / 3)) / 16, (3 * math.exp(-1 / 3) + math.exp(-9 / 3)) / 4
        assert penalty == pytest.approx(1 + within - 2 * across, rel=1e-12)

    def test_wasserstein_from_one_row(self, evaluate: Any) -> None:
        """There is only one plan."""
        codes = column(0), column(1, 3)
        penalty, by_code0, by_code1 = evaluate("wasserstein", (*codes, np.ones(1), np.ones(2)))
        assert penalty == pytest.approx((1 + 9) / 2, rel=1e-9)
        np.testing.assert_allclose(by_code0, [[-1 - 3]], rtol=1e-9)
        np.testing.assert_allclose(by_code1, [[1], [3]], rtol=1e-9)
        penalty, *_ = evaluate("wasserstein", (*codes, np.ones(1), np.array([3.0, 1.0])))
        assert penalty == pytest.approx((3 * 1 + 9) / 4, rel=1e-9)

    def test_wasserstein_by_cuturis_own_iteration(self, evaluate: Any) -> None:
        code0, code1, w0, w1 = arrays = drawn(4, 3, 2, seed=5)
        p0, p1 = w0 / w0.sum(), w1 / w1.sum()
        cost = ((code0[:, None] - code1[None]) ** 2).sum(axis=2)
        kernel = np.exp(-cost / (0.1 * (p0 @ cost @ p1)))
        u, v = np.ones(4), np.ones(3)
        for _ in range(30):
            v = p1 / (kernel.T @ u)
            u = p0 / (kernel @ v)
        plan = u[:, None] * kernel * v
        penalty, by_code0, _ = evaluate("wasserstein", arrays)
        assert penalty == pytest.approx((plan * cost).sum(), rel=1e-9)
        through_the_cost = 2 * (plan[:, :, None] * (code0[:, None] - code1[None])).sum(axis=1)
        np.testing.assert_allclose(by_code0, through_the_cost, rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("x64")
@balances
@sides
class TestProperties:
    @pytest.mark.parametrize("empty", [2, 3])
    def test_an_arm_without_weight_gives_nothing(self, evaluate: Any, name: str, empty: int) -> None:
        arrays = list(drawn(3, 4, 2, seed=0))
        assert evaluate(name, arrays)[0] > 0.01
        arrays[empty] = np.zeros_like(arrays[empty])
        for part in evaluate(name, arrays):
            np.testing.assert_array_equal(part, np.zeros_like(part))

    def test_an_arm_without_rows_gives_nothing(self, evaluate: Any, name: str) -> None:
        for part in evaluate(name, drawn(0, 4, 2, seed=0)):
            np.testing.assert_array_equal(part, np.zeros_like(part))

    def test_a_weight_of_two_is_the_row_twice(self, evaluate: Any, name: str) -> None:
        code0, code1, _, _ = drawn(3, 4, 2, seed=1)
        weighted, *_ = evaluate(name, (code0, code1, np.array([2.0, 1.0, 1.0]), np.ones(4)))
        twice, *_ = evaluate(name, (code0[[0, 0, 1, 2]], code1, np.ones(4), np.ones(4)))
        once, *_ = evaluate(name, (code0, code1, np.ones(3), np.ones(4)))
        tolerance = 1e-3 if name == "wasserstein" else 1e-12  # 30 iterations, from another start
        assert weighted == pytest.approx(twice, rel=tolerance)
        assert once != pytest.approx(twice, rel=10 * tolerance)

    def test_a_weight_of_zero_is_no_row(self, evaluate: Any, name: str) -> None:
        code0, code1, _, _ = drawn(4, 4, 2, seed=32)
        weighted, by_code0, _ = evaluate(name, (code0, code1, np.array([1.0, 0.0, 1.0, 1.0]), np.ones(4)))
        without, *_ = evaluate(name, (code0[[0, 2, 3]], code1, np.ones(3), np.ones(4)))
        assert weighted == pytest.approx(without, rel=1e-12)
        np.testing.assert_array_equal(by_code0[1], 0)
        assert by_code0[0].all()

    def test_the_scale_of_weights_is_nothing(self, evaluate: Any, name: str) -> None:
        code0, code1, w0, w1 = drawn(3, 4, 2, seed=3)
        penalty, *_ = evaluate(name, (code0, code1, w0, w1))
        assert evaluate(name, (code0, code1, 1e3 * w0, w1 / 1e3))[0] == pytest.approx(penalty, rel=1e-9)

    def test_the_scale_of_codes(self, evaluate: Any, name: str) -> None:
        """The kernel's width follows it; the others grow with the square."""
        code0, code1, w0, w1 = drawn(3, 4, 2, seed=4)
        penalty, *_ = evaluate(name, (code0, code1, w0, w1))
        scaled, *_ = evaluate(name, (100 * code0, 100 * code1, w0, w1))
        assert scaled == pytest.approx(penalty * (1 if name == "rbf_mmd" else 1e4), rel=1e-9)

    def test_equal_codes_lie_nowhere_apart(self, evaluate: Any, name: str) -> None:
        code0, code1 = np.zeros((3, 2)), np.zeros((4, 2))
        for part in evaluate(name, (code0, code1, np.ones(3), np.ones(4))):
            np.testing.assert_allclose(part, 0, atol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["rbf_mmd", "wasserstein"])
@sides
def test_codes_that_lie_close_together(evaluate: Any, name: str) -> None:
    """As a penalty, or a unit that saturates, makes them: float32 has digits enough of their differences."""
    generator = np.random.default_rng(0)
    single = [(10 + 1e-3 * generator.normal(size=(rows, 6))).astype(np.float32) for rows in (3, 4)]
    weights = [np.ones(rows, np.float32) for rows in (3, 4)]
    found, *_ = evaluate(name, (*single, *weights))
    expected, *_ = evaluate(name, [array.astype(np.float64) for array in (*single, *weights)])
    assert found == pytest.approx(float(expected), rel=1e-2)


@pytest.mark.usefixtures("x64")
@sides
def test_wasserstein_of_a_shift_is_its_square(evaluate: Any, measured: list[str]) -> None:
    code = np.random.default_rng(0).normal(size=(40, 2))
    shifts = {shift: float(evaluate("wasserstein", (code, code + np.array([shift, 0.0]), np.ones(40), np.ones(40)))[0])
              for shift in (0.0, 3.0, 6.0)}  # fmt: skip
    assert shifts[0] < 0.05 * shifts[3]
    found = ", ".join(f"{value:.2f} for {shift:g}²" for shift, value in shifts.items())
    measured.append(f"wasserstein of a shift, {evaluate.__name__}: {found}")
    for shift in (3, 6):  # no plan costs less than the shift, and the entropy makes this one cost a little more
        assert 0.999 * shift**2 <= shifts[shift] <= 1.15 * shift**2


@pytest.mark.usefixtures("x64")
@balances
def test_twins_agree(name: str, measured: list[str]) -> None:
    worst = 0.0

    @settings(max_examples=5)
    @given(st.integers(1, 7), st.integers(1, 7), st.integers(1, 4), st.integers(0, 2**32 - 1), st.booleans())
    def agree(rows0: int, rows1: int, code: int, seed: int, absent: bool) -> None:
        nonlocal worst
        arrays = drawn(rows0, rows1, code, seed)
        if absent:
            arrays[2][0] = 0
        for found, expected in zip(flax_balance(name, arrays), torch_balance(name, arrays), strict=True):
            assert found.dtype == expected.dtype == np.float64
            worst = max(worst, float(np.abs(found - expected).max()) / max(1, float(np.abs(expected).max())))

    agree()
    measured.append(f"{name}, both frameworks, float64: {worst:.1e} apart (at most 1e-12)")
    assert worst <= 1e-12


def batch_of(rows: int = 9) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(7)
    t = (np.arange(rows) % 3 == 0).astype(np.int32)
    return {
        "x": generator.normal(size=(rows, 4)), "t": t, "y": generator.normal(size=(rows, 1)),
        "w": generator.uniform(0.5, 2, rows),
    }  # fmt: skip


def both_sides() -> tuple[TorchSide, FlaxSide]:
    made = TorchSide("TwoHead", SMALL, dtype="float64")
    return made, FlaxSide("TwoHead", SMALL, weights=made.weights())


def evaluate_loss(made: Any, loss: Any, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the losses and the gradients of their sum: `loss/…`, and `grad/` by weights and by x."""
    if made.backend == "torch":
        return made.evaluate(loss, batch, forward=False)

    @jax.jit
    def total(params: Any, x: Any, rest: Any) -> Any:
        losses = loss(partial(made.model.apply, {"params": params}), x, **rest)
        return sum(losses), losses

    rest = {name: array for name, array in batch.items() if name != "x"}
    (by_weight, by_x), losses = jax.grad(total, (0, 1), has_aux=True)(made.params, batch["x"], rest)
    gradients = flax_impl.models.to_numpy(by_weight) | {"x": np.asarray(by_x)}
    found = {f"grad/{name}": gradient for name, gradient in gradients.items()}
    return found | {f"loss/{i}": np.asarray(value) for i, value in enumerate(losses)}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("name", "reduction"), [*zip(BALANCES, ("per_head", "batch", "per_head"), strict=True)])
def test_cfr_is_the_factual_loss_and_a_penalty(name: str, reduction: Any) -> None:
    batch, asked = batch_of(), {"reduction": reduction, "head_weights": (2.0, 0.5)}
    reference_side, port = both_sides()
    factual = evaluate_loss(reference_side, torch_ref.FactualLoss(**asked), batch)
    code = reference_side.model.representation(torch.tensor(batch["x"])).detach().numpy()
    penalty, *_ = torch_balance(name, split(code, batch["w"], batch["t"]))
    assert penalty > 1e-3
    expected = {}
    for made in (reference_side, port):
        found = evaluate_loss(made, made.package.CFRLoss(**asked, balance=name, balance_weight=0.7), batch)
        for part in ("loss/0", "loss/1"):
            np.testing.assert_allclose(found[part], factual[part], rtol=1e-12)
        assert found["loss/2"] == pytest.approx(0.7 * float(penalty), rel=1e-12)
        expected = expected or found
        assert largest_difference(found, expected) <= 1e-12
    assert largest_difference(expected, {**factual, "loss/2": expected["loss/2"]}) > 1e-3  # it reaches the weights


@pytest.mark.usefixtures("x64")
@balances
def test_rows_that_are_masked_count_nowhere(name: str) -> None:
    batch, keep = batch_of(), np.array([1, 1, 0, 1, 1, 1, 0, 1, 1], bool)
    masked = {key: array.copy() for key, array in batch.items()} | {"mask": keep}
    for key in ("x", "y", "w"):
        masked[key][~keep] = np.nan
    left = {key: array[keep] for key, array in batch.items()}
    expected = evaluate_loss(both_sides()[0], torch_ref.CFRLoss(balance=name), left)
    for made in both_sides():
        found = evaluate_loss(made, made.package.CFRLoss(balance=name), masked)
        np.testing.assert_array_equal(found["grad/x"][~keep], 0)
        found["grad/x"] = found["grad/x"][keep]
        assert largest_difference(found, expected) <= 1e-12


@pytest.mark.usefixtures("x64")
@balances
def test_a_batch_of_one_arm(name: str) -> None:
    batch = batch_of() | {"t": np.ones(9, np.int32)}
    factual = evaluate_loss(both_sides()[0], torch_ref.FactualLoss(), batch)
    for made in both_sides():
        found = evaluate_loss(made, made.package.CFRLoss(balance=name), batch)
        assert found.pop("loss/2") == 0
        assert largest_difference(found, factual) <= 1e-12


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", [name for name in BALANCES if name != "wasserstein"])  # its solver compiles for long
def test_jitted_is_plain(name: str) -> None:
    _, port = both_sides()
    loss = flax_impl.CFRLoss(balance=name, balance_weight=0.3)
    apply = partial(port.model.apply, {"params": port.params})
    batch = {key: jnp.asarray(array) for key, array in batch_of().items()}
    compiled = jax.jit(lambda loss, batch: loss(apply, **batch))(loss, batch)
    np.testing.assert_allclose(loss(apply, **batch), compiled, rtol=1e-12)


def test_the_weight_of_the_penalty(compilations: list[str]) -> None:
    """A heavy one brings the arms together, and compiles nothing that a light one had not compiled."""
    batch = batch_of()
    batch["x"][batch["t"] == 1] += 1
    model, optimizer = flax_impl.TwoHead(**SMALL), flax_impl.Adam(lr=1e-2)
    params, left = model.init_params(), []
    for weight in (0.01, 30.0):
        loss = flax_impl.CFRLoss(balance_weight=weight)
        compilations.clear()
        _, losses = flax_impl.fit(model, params, batch, loss=loss, optimizer=optimizer, steps=60)
        left.append(losses[[0, -1], 2] / weight)
    assert not compilations
    assert losses.shape == (60, 3)
    assert left[0][0] == pytest.approx(left[1][0], rel=1e-5)
    assert left[1][1] < 0.2 * left[0][1]


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ({"balance": "energy"}, "balance: expected one of 'linear_mmd', 'rbf_mmd', 'wasserstein', got 'energy'"),
        ({"balance": None}, "balance: expected one of 'linear_mmd', 'rbf_mmd', 'wasserstein', got None"),
        ({"balance_weight": -1}, "balance_weight: expected a finite number of at least 0, got -1"),
        ({"balance_weight": math.inf}, "balance_weight: expected a finite number of at least 0, got inf"),
        ({"reduction": "sum"}, "reduction: expected one of 'per_head', 'batch', got 'sum'"),
    ],
)
def test_bad_settings(loss: dict[str, Any], message: str) -> None:
    packages = {"torch": torch_ref, "flax": flax_impl}
    assert same_error(ValueError, lambda side: packages[side.backend].CFRLoss(**loss)) == message


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (torch_ref.CFRLoss(), "process_group: expected None with CFRLoss, whose penalty sees whole batches, got one"),
        (print, "process_group: expected FactualLoss or JointLoss, which count the rows they divide by, got "),
    ],
)
def test_processes_cannot_share_what_is_no_mean(loss: Any, message: str) -> None:
    group: Any = object()
    with pytest.raises(ValueError, match=f"^{message}"), Share(group).over(torch_ref.TwoHead(3), loss):
        pass


@pytest.mark.parametrize(
    "loss",
    [
        *(
            pytest.param({"balance": name, "balance_weight": 0.7}, marks=[pytest.mark.slow] if i else [])
            for i, name in enumerate(BALANCES)
        ),
        pytest.param(
            {"balance": "rbf_mmd", "balance_weight": 0.7, "criterion": "sigmoid_binary_cross_entropy"},
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda loss: "-".join(map(str, loss.values())),
)
def test_whole_pairs(loss: dict[str, Any]) -> None:
    recipe = Recipe(loss=loss, steps=5)
    trace = reference(recipe)
    assert any(name.endswith("loss/2") for name in trace.arrays)
    report = check(recipe, trace)
    assert report.passed, (str(report.first_divergence), report.diagnosis)
    assert not report.unmatched


@pytest.mark.parametrize(
    ("package", "missing", "words"),
    [(torch_ref, "ot.bregman", "POT"), (flax_impl, "ott.geometry", "OTT")],
    ids=["torch", "flax"],
)
def test_what_is_not_installed_is_named(
    package: Any, missing: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    message = rf"^the wasserstein balance needs {words}: pip install 'twohead\[balance\]'$"
    with pytest.raises(ImportError, match=message):
        package.CFRLoss(balance="wasserstein")
    with pytest.raises(ImportError, match=message):
        package.training.wasserstein(*drawn(2, 2, 1, seed=0))
    assert package.CFRLoss(balance="rbf_mmd").balance == "rbf_mmd"  # which needs nothing
