"""The whole suite runs strictly: no silent promotion of dtypes or ranks, and every warning is an error."""

from collections.abc import Iterator
from typing import Any

import hypothesis
import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")  # GPUs and TPUs round products otherwise

# The same cases in every run: a red test is red again.
hypothesis.settings.register_profile("house", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("house")


def pytest_configure(config: pytest.Config) -> None:
    """Compiling is most of the quick suite's time; the slow tests, and the commands, compile as users do."""
    if config.option.markexpr == "not slow":
        jax.config.update("jax_disable_most_optimizations", True)


_measured: list[str] = []
_compilations: list[str] = []


def _note_compilation(event: str, duration_secs: float, **kwargs: str | int) -> None:
    if "backend_compile" in event:
        _compilations.append(event)


jax.monitoring.register_event_duration_secs_listener(_note_compilation)


@pytest.fixture
def x64() -> Iterator[None]:
    """Float64 in JAX, for one test only."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def measured() -> list[str]:
    """Takes lines for the end of the run: what was measured, beside what was demanded."""
    return _measured


@pytest.fixture
def compilations() -> list[str]:
    """What JAX compiles from now on; clear it to count anew."""
    _compilations.clear()
    return _compilations


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):  # one of several processes, which print nothing themselves
        session.config.workeroutput["measured"] = _measured  # pyright: ignore[reportAttributeAccessIssue]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    _measured.extend(getattr(node, "workeroutput", {}).get("measured", []))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _measured:
        terminalreporter.section("measured")
        for line in sorted(_measured):
            terminalreporter.line(line)
