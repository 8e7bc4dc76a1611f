"""Shows steps that were compared operation by operation as one HTML page."""

import html
from collections.abc import Mapping
from typing import Any

from .frame import framed, verdict_of


def step_page(reports: Mapping[str, Any]) -> str:
    """Returns a page with the report of each step, and the operations of both sides around each place.

    Args:
        reports: as `check_step` or `check_parity` gives them, by a title for each.

    Returns:
        The page; write it with `Path.write_text(page, encoding="utf-8")`. It needs no script and no network.

    Example:
        >>> "<h1>Nothing was compared</h1>" in step_page({})
        True
    """
    sections = [
        f"<section>\n<h2>{html.escape(name)}</h2>\n{_shown(report)}\n</section>" for name, report in reports.items()
    ]
    return framed(verdict_of([report.passed for report in reports.values()]), sections)


def _shown(report: Any) -> str:
    if hasattr(report, "_repr_html_"):
        return report._repr_html_()
    return f"<pre>{html.escape(str(report))}</pre>"
