from .estimator import TwoHeadEstimator as TwoHeadEstimator
from .fit import (
    EffectModel as EffectModel,
)
from .fit import (
    fit_effects as fit_effects,
)
from .fit import (
    fit_effects_each as fit_effects_each,
)
from .fit import (
    load_effect_model as load_effect_model,
)
from .metrics import ate_error as ate_error
from .metrics import sqrt_pehe as sqrt_pehe
from .overlap import propensity as propensity
from .plots import effect_figures as effect_figures
from .report import EffectReport as EffectReport
from .uplift import qini_coefficient as qini_coefficient
from .uplift import qini_curve as qini_curve
