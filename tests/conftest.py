"""The whole suite runs strictly: no silent promotion of dtypes or ranks, and every warning is an error."""

import os
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
    """Makes the quick suite compile faster, its subprocesses too: compiling is most of its time.

    The slow tests compile as users do. What is compiled is kept for the other workers and for the next run.
    """
    if config.option.markexpr != "not slow":
        return
    settings = {
        "jax_compilation_cache_dir": str(config.rootpath / ".pytest_cache" / "xla"),
        "jax_disable_most_optimizations": True,
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    for name, value in settings.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)
    # Fusions that only speed needs take half the time of compiling. XLA ends the process at a flag that it lacks.
    if jax.__version__.startswith("0.10."):
        os.environ["XLA_FLAGS"] = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"


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
