from .averages import AverageEffects as AverageEffects, average_effects as average_effects
from .decisions.budget_curve import BudgetCurve as BudgetCurve, budget_curve as budget_curve
from .decisions.choices import choose_arms as choose_arms
from .decisions.group_effects import GroupEffects as GroupEffects, group_effects as group_effects
from .decisions.group_features import GroupFeatures as GroupFeatures, group_features as group_features
from .decisions.importance import (
    Importance as Importance,
    effect_importance as effect_importance,
    shap_importance as shap_importance,
)
from .decisions.plots import (
    budget_figure as budget_figure,
    group_figure as group_figure,
    importance_figure as importance_figure,
    tree_figure as tree_figure,
)
from .decisions.policy import (
    PolicyValue as PolicyValue,
    judged_policy as judged_policy,
    policy_value as policy_value,
)
from .decisions.policy_tree import PolicyTree as PolicyTree, judged_tree as judged_tree, policy_tree as policy_tree
from .effect_model import EffectModel as EffectModel
from .estimator import TwoHeadEstimator as TwoHeadEstimator
from .fit import (
    fit_effects as fit_effects,
    fit_effects_each as fit_effects_each,
    load_effect_model as load_effect_model,
)
from .judging.balance import Balance as Balance, covariate_balance as covariate_balance
from .judging.estimates import AverageEffect as AverageEffect
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
from .page.page import EffectPage as EffectPage, effect_page as effect_page
from .plots import effect_figures as effect_figures
from .propensities import propensity as propensity
from .report import EffectReport as EffectReport, PairEffects as PairEffects
from .sensitivity.benchmarks import (
    Benchmark as Benchmark,
    confounding_benchmarks as confounding_benchmarks,
)
from .sensitivity.columns import AverageBounds as AverageBounds
from .sensitivity.e_value import e_value as e_value
from .sensitivity.hidden import HiddenConfounding as HiddenConfounding, hidden_confounding as hidden_confounding
from .sensitivity.marginal import (
    MarginalBounds as MarginalBounds,
    marginal_bounds as marginal_bounds,
    tipping_odds_ratio as tipping_odds_ratio,
)
from .sensitivity.nuisances import (
    OutOfFold as OutOfFold,
    average_by as average_by,
    cross_fit_nets as cross_fit_nets,
    cross_fit_trees as cross_fit_trees,
)
from .sensitivity.plots import (
    confounding_figure as confounding_figure,
    marginal_figure as marginal_figure,
    refutation_figure as refutation_figure,
)
from .sensitivity.refute import Refutation as Refutation, Refutations as Refutations, refute as refute
from .settings import EffectSettings as EffectSettings
from .streams.fit import fit_effects_streamed as fit_effects_streamed
