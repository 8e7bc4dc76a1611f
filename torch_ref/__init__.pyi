from . import common as common, data as data, models as models, recording as recording, training as training
from .common.settings.optimizers import SGD as SGD, Adam as Adam, AdamW as AdamW, RMSprop as RMSprop
from .models.two_head import TwoHead as TwoHead
from .models.two_in_two_out import TwoInTwoOut as TwoInTwoOut
from .models.weights import load_model as load_model, save_model as save_model
from .recording.record import record as record
from .training.balance import CFRLoss as CFRLoss
from .training.fit import fit as fit, train_step as train_step
from .training.losses import FactualLoss as FactualLoss, JointLoss as JointLoss
from .training.predict import predict as predict
from .training.targeted import TargetedLoss as TargetedLoss
