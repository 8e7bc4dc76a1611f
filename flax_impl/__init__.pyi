from torch_ref.common.settings.optimizers import SGD as SGD
from torch_ref.common.settings.optimizers import Adam as Adam
from torch_ref.common.settings.optimizers import AdamW as AdamW
from torch_ref.common.settings.optimizers import RMSprop as RMSprop
from torch_ref.common.trace import load_trace as load_trace

from . import (
    commands as commands,
)
from . import (
    data as data,
)
from . import (
    effects as effects,
)
from . import (
    models as models,
)
from . import (
    parity as parity,
)
from . import (
    training as training,
)
from .models.two_head import TwoHead as TwoHead
from .models.two_in_two_out import TwoInTwoOut as TwoInTwoOut
from .models.weights import load_model as load_model
from .models.weights import save_model as save_model
from .parity.replay.record import record as record
from .parity.replay.replay import check_parity as check_parity
from .training.balance import CFRLoss as CFRLoss
from .training.fit import fit as fit
from .training.fit import train_step as train_step
from .training.losses import FactualLoss as FactualLoss
from .training.losses import JointLoss as JointLoss
from .training.predict import predict as predict
from .training.replicas.fit import fit_replicas as fit_replicas
