from torch_ref.common.tape.tape import Tape as Tape, load_tape as load_tape
from torch_ref.common.trace import Trace as Trace, load_trace as load_trace

from .operations.tape import record_tape as record_tape
from .state import with_drawn_state as with_drawn_state, with_state as with_state
