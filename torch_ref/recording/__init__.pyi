from torch_ref.common.trace import Trace as Trace, load_trace as load_trace
