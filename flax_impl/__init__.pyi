from torch_ref.common.settings.optimizers import SGD as SGD, Adam as Adam, AdamW as AdamW, RMSprop as RMSprop
from torch_ref.common.trace import load_trace as load_trace

from . import (
    commands as commands,
    data as data,
    effects as effects,
    models as models,
    parity as parity,
    serving as serving,
    training as training,
)
from .models.two_head import TwoHead as TwoHead
from .models.two_in_two_out import TwoInTwoOut as TwoInTwoOut
from .models.weights import load_model as load_model, save_model as save_model
from .parity.check import check_parity as check_parity
from .parity.recording.record import record as record
from .training.balance import CFRLoss as CFRLoss
from .training.fit import fit as fit, train_step as train_step
from .training.losses import FactualLoss as FactualLoss, JointLoss as JointLoss
from .training.predict import predict as predict
from .training.replicas.fit import fit_replicas as fit_replicas
from .training.targeted import TargetedLoss as TargetedLoss
