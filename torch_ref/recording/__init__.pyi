from torch_ref.common.trace import PHASES as PHASES
from torch_ref.common.trace import Trace as Trace
from torch_ref.common.trace import load_trace as load_trace
