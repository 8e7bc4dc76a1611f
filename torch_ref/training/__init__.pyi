from torch_ref.common.settings.optimizers import (
    OPTIMIZERS as OPTIMIZERS,
    Optimizer as Optimizer,
    make_optimizer as make_optimizer,
)
from torch_ref.common.settings.schedules import (
    SCHEDULES as SCHEDULES,
    Constant as Constant,
    Cosine as Cosine,
    Exponential as Exponential,
    Schedule as Schedule,
    StepDecay as StepDecay,
    make_schedule as make_schedule,
)

from .balance import BALANCES as BALANCES, linear_mmd as linear_mmd, rbf_mmd as rbf_mmd, wasserstein as wasserstein
from .build import build_optimizer as build_optimizer, build_schedule as build_schedule
from .losses import (
    CRITERIA as CRITERIA,
    sigmoid_binary_cross_entropy as sigmoid_binary_cross_entropy,
    squared_error as squared_error,
)
from .predict import predict_table as predict_table
from .processes import initialize_distributed as initialize_distributed
