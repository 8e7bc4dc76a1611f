from torch_ref.common.trace import Trace as Trace
from torch_ref.common.trace import load_trace as load_trace

from .comparison.compare import assert_parity as assert_parity
from .comparison.compare import compare as compare
from .comparison.measures import (
    largest_difference as largest_difference,
)
from .comparison.measures import (
    relative_difference as relative_difference,
)
from .comparison.measures import (
    scaled_difference as scaled_difference,
)
from .replay.replay import map_weights as map_weights
from .replay.replay import replay as replay
from .report.entries import Divergence as Divergence
from .report.entries import Entry as Entry
from .report.entries import Finding as Finding
from .report.entries import Report as Report
from .report.page import html_page as html_page
from .report.text import text_table as text_table
from .weight_map.map import WeightMap as WeightMap
from .weight_map.map import WeightMapError as WeightMapError
from .weight_map.map import propose_map as propose_map
