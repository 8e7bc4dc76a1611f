from .averages import (
    AverageEffect as AverageEffect,
    AverageEffects as AverageEffects,
    average_effects as average_effects,
)
from .effect_model import EffectModel as EffectModel
from .estimator import TwoHeadEstimator as TwoHeadEstimator
from .fit import (
    fit_effects as fit_effects,
    fit_effects_each as fit_effects_each,
    load_effect_model as load_effect_model,
)
from .judging.balance import Balance as Balance, covariate_balance as covariate_balance
from .judging.metrics import ate_error as ate_error, sqrt_pehe as sqrt_pehe
from .judging.rate import Rate as Rate, rate as rate, toc_curve as toc_curve
from .judging.scores import (
    arm_outcomes as arm_outcomes,
    dr_loss as dr_loss,
    pseudo_outcomes as pseudo_outcomes,
    r_loss as r_loss,
)
from .judging.uplift import qini_coefficient as qini_coefficient, qini_curve as qini_curve
from .learners.contrast import Contrast as Contrast
from .learners.cross_fit import CrossFit as CrossFit
from .plots import effect_figures as effect_figures
from .propensities import propensity as propensity
from .report import EffectReport as EffectReport, PairEffects as PairEffects
from .settings import EffectSettings as EffectSettings
