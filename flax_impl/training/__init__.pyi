from torch_ref.common.settings.optimizers import (
    OPTIMIZERS as OPTIMIZERS,
)
from torch_ref.common.settings.optimizers import (
    Optimizer as Optimizer,
)
from torch_ref.common.settings.optimizers import (
    make_optimizer as make_optimizer,
)
from torch_ref.common.settings.schedules import (
    SCHEDULES as SCHEDULES,
)
from torch_ref.common.settings.schedules import (
    Constant as Constant,
)
from torch_ref.common.settings.schedules import (
    Cosine as Cosine,
)
from torch_ref.common.settings.schedules import (
    Exponential as Exponential,
)
from torch_ref.common.settings.schedules import (
    Schedule as Schedule,
)
from torch_ref.common.settings.schedules import (
    StepDecay as StepDecay,
)
from torch_ref.common.settings.schedules import (
    make_schedule as make_schedule,
)

from .balance import BALANCES as BALANCES
from .balance import linear_mmd as linear_mmd
from .balance import rbf_mmd as rbf_mmd
from .balance import wasserstein as wasserstein
from .build import build_optimizer as build_optimizer
from .build import build_schedule as build_schedule
from .devices import cache_compilations as cache_compilations
from .devices import initialize_distributed as initialize_distributed
from .devices import make_mesh as make_mesh
from .losses import (
    CRITERIA as CRITERIA,
)
from .losses import (
    sigmoid_binary_cross_entropy as sigmoid_binary_cross_entropy,
)
from .losses import (
    squared_error as squared_error,
)
from .predict import predict_replicas as predict_replicas
