from .effect_model import EffectModel as EffectModel
from .estimator import TwoHeadEstimator as TwoHeadEstimator
from .fit import (
    fit_effects as fit_effects,
    fit_effects_each as fit_effects_each,
    load_effect_model as load_effect_model,
)
from .metrics import ate_error as ate_error, sqrt_pehe as sqrt_pehe
from .overlap import propensity as propensity
from .plots import effect_figures as effect_figures
from .report import EffectReport as EffectReport
from .settings import EffectSettings as EffectSettings
from .uplift import qini_coefficient as qini_coefficient, qini_curve as qini_curve
