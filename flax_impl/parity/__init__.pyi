from torch_ref.common.tape.tape import Tape as Tape, load_tape as load_tape
from torch_ref.common.trace import Trace as Trace, load_trace as load_trace

from .check import (
    check_parity as check_parity,
    check_step as check_step,
    map_weights as map_weights,
    replay as replay,
    torch_state as torch_state,
)
from .comparison.measures import (
    largest_difference as largest_difference,
    relative_difference as relative_difference,
    scaled_difference as scaled_difference,
)
from .conversion.conversion import Conversion as Conversion
from .recording.operations.tape import record_tape as record_tape
from .recording.record import record as record
from .report.entries import Divergence as Divergence, Entry as Entry, Finding as Finding
from .report.page import html_page as html_page
from .report.report import Report as Report, text_table as text_table
from .report.step_report import StepReport as StepReport
from .report.steps import step_page as step_page
from .verdict import assert_parity as assert_parity, compare as compare, compare_tapes as compare_tapes
from .weight_map.map import WeightMap as WeightMap, WeightMapError as WeightMapError, propose_map as propose_map
