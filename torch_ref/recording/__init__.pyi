from torch_ref.common.trace import PHASES as PHASES, Trace as Trace, load_trace as load_trace
