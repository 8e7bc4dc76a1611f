"""Comparing what two frameworks computed, finding where they part, and naming the cause; in numpy only.

- `compare`, `assert_parity`: two traces, entry by entry; `Report`, `Entry`, `Divergence`, `Finding`: what comes of it.
- `localise`: the first divergence, in the order in which things happen. `diagnose`: the known differences.
- `weight_map`: which of torch's weights is which of the port's. `measures`: how far two arrays are apart.
- `table`, `page`: a report as text and as HTML.
"""

from ..hub.trace import Trace, load_trace
from .compare import assert_parity, compare
from .measures import largest_difference, relative_difference, scaled_difference
from .page import html_page
from .report import Divergence, Entry, Finding, Report
from .table import text_table
from .weight_map import WeightMap, WeightMapError, propose_map

__all__ = [
    "Divergence",
    "Entry",
    "Finding",
    "Report",
    "Trace",
    "WeightMap",
    "WeightMapError",
    "assert_parity",
    "compare",
    "html_page",
    "largest_difference",
    "load_trace",
    "propose_map",
    "relative_difference",
    "scaled_difference",
    "text_table",
]
