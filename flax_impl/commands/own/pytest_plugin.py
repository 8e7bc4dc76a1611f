"""A pytest plugin: records a reference once a test run, and fails a test with the report of its port."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

_KEY = pytest.StashKey["Parity"]()


class Parity:
    """Holds ports against references; the fixture `parity` gives it.

    Example:
        >>> def test_port(parity):  # build_reference gives (model, batch, loss), build_port (model, loss, params)
        ...     parity(build_reference, build_port)
    """

    def __init__(self) -> None:
        self._recorded: dict[Any, Any] = {}
        self.reports: dict[str, Any] = {}
        self.running = ""  # the test that asks

    def __call__(self, reference: Callable[[], Any] | str, port: Callable[[], Any] | str) -> Any:
        """Returns the report of a port that agrees.

        Args:
            reference: a function that returns the model, the batch and the loss of torch, or `FILE.py:FUNCTION`. It is
                run once, however many tests ask for it.
            port: the same of JAX: the model, the loss, and its parameters where they are not the reference's.

        Raises:
            AssertionError: the port diverges; the message is the report.
            ValueError: a function returns something else.
        """
        from .pair import Side, check_own, record_own

        __tracebackhide__ = True  # the report says it
        if reference not in self._recorded:
            build = Side.of("reference", reference).build() if isinstance(reference, str) else reference
            self._recorded[reference] = record_own(build)
        build = Side.of("port", port).build() if isinstance(port, str) else port
        report = check_own(build, self._recorded[reference])
        name, several = self.running, 1
        while name in self.reports:
            several += 1
            name = f"{self.running} ({several})"
        self.reports[name] = report
        if not report.passed:
            raise AssertionError(f"the port diverges from its reference\n{report}")
        return report


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the option for the page."""
    parser.getgroup("twohead").addoption(
        "--parity-html", type=Path, metavar="FILE", help="write the reports of the fixture `parity` as one page"
    )


@pytest.fixture
def parity(request: pytest.FixtureRequest) -> Parity:
    """Holds a port against its reference: `parity(build_reference, build_port)`; see `Parity`."""
    held = request.config.stash.setdefault(_KEY, Parity())
    held.running = request.node.nodeid
    return held


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Writes the page; one for each process, where tests run in several."""
    file: Path | None = session.config.getoption("--parity-html")
    held = session.config.stash.get(_KEY, None)
    if file is None or held is None or not held.reports:
        return
    from torch_ref.common.files.array_file import replacing

    from ...parity.report.steps import step_page

    worker = getattr(session.config, "workerinput", {}).get("workerid", "")
    target = file.with_name(f"{file.stem}-{worker}{file.suffix}") if worker else file
    with replacing(target) as path:
        path.write_text(step_page(held.reports), encoding="utf-8")
