"""The parts of the page, in the order in which a manager asks: how much, for whom, how sure, and how it was made."""

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from torch_ref.common.data.treatment_data import TreatmentData

from ..decisions.plots import group_figure, importance_figure
from ..decisions.policy import PolicyValue
from ..decisions.policy_tree import Leaf, PolicyTree
from ..effect_model import EffectModel
from ..judging.balance import UNLIKE
from ..judging.estimates import AverageEffect
from ..overlap import examine
from ..plots import effect_figures
from ..sensitivity.plots import confounding_figure, refutation_figure
from .balance_figure import balance_figure
from .findings import Findings, PairFindings, count_clusters
from .markup import block, bullets, paragraph, picture, section, table, text

_SHOWN = 8  # features in which groups differ
_FEW_CLUSTERS = 30  # fewer tell little about how much clusters differ
_STAND_IN = (
    "How boosted trees, cross-fitted on the rows of these two arms, do where the answer is known. They stand in for "
    "the nets, which would take too long to be trained so often; so their average effect may be another."
)
_VERSIONS = ("twohead", "jax", "flax", "optax", "numpy", "scikit-learn", "catboost")


@dataclass(frozen=True)
class Words:
    """What the page calls things.

    Args:
        outcome: the name of the outcome.
        treatment: the name of the treatment.
        less_is_better: a smaller outcome is the better one.
    """

    outcome: str
    treatment: str
    less_is_better: bool = False

    def arm(self, findings: Findings, place: int) -> str:
        """Returns what an arm is called in a sentence."""
        if findings.report.arms == (0, 1):
            return f"{self.treatment} = {place}"
        return findings.report.names[place]


def headline(findings: Findings, words: Words) -> str:
    """Says the average effects, with their intervals, and in a table for whom."""
    parts = []
    for one in findings.pairs:
        of = f"{words.arm(findings, one.pair.treatment)} against {words.arm(findings, one.pair.control)}"
        averages = one.pair.averages
        if averages is None:
            parts.append(
                paragraph(f"{of}: {words.outcome} changes by {one.pair.ate:.4g} on average.", "headline unsure")
            )
            parts.append(paragraph("Without held-out rows of each arm, how sure this is cannot be told."))
            continue
        ate = averages.ate
        between = f"between {ate.low:.4g} and {ate.high:.4g} with {1 - averages.alpha:.0%} confidence"
        if ate.low <= 0 <= ate.high:
            sentence = (
                f"{of}: no average effect on {words.outcome} is shown. It lies {between}; best guess {ate.value:.4g}."
            )
            parts.append(paragraph(sentence, "headline unsure"))
        else:
            verb = "raises" if ate.value > 0 else "lowers"
            sentence = f"{of} {verb} {words.outcome} by {abs(ate.value):.4g} on average: {between}."
            parts.append(paragraph(sentence, "headline"))
        rows = [
            _estimate("all who were kept (ATE)" if averages.trimmed else "everybody (ATE)", ate),
            _estimate(f"those who had {words.arm(findings, one.pair.treatment)} (ATT)", averages.att),
            _estimate(f"those who had {words.arm(findings, one.pair.control)} (ATC)", averages.atc),
        ]
        parts.append(table(("average effect on", "effect", "from", "to", "rows"), rows))
        parts += [paragraph(f"{averages.trimmed} rows were left out for their propensity.")] * (averages.trimmed > 0)
    if findings.report.binary:
        parts.append(paragraph("Effects are differences of probabilities.", "soft"))
    parts.append(
        paragraph(
            "The effect is causal only if nothing that moves both, treatment and outcome, is missing here.", "soft"
        )
    )
    return section("The average effect", *parts)


def warnings_of(findings: Findings, data: TreatmentData) -> list[str]:
    """Returns a sentence for each thing that makes the effects doubtful."""
    found = examine(data)
    clusters = None if data.groups is None else count_clusters(np.asarray(data.groups))
    if clusters is not None and clusters < _FEW_CLUSTERS:
        found.append(f"only {clusters} clusters: intervals from so few tend to be too narrow")
    found += findings.report.doubts()
    for one in findings.pairs:
        of = "" if len(findings.pairs) == 1 else f"{findings.report.names[one.pair.treatment]}: "
        if one.balance is not None and one.balance.unlike:
            worst = ", ".join(one.balance.unlike[:5])
            found.append(f"{of}the arms differ in {worst} even when weighed by propensity")
        if one.refutations is not None and one.refutations.accused:
            kinds = ", ".join(kind.replace("_", " ") for kind in one.refutations.accused)
            found.append(f"{of}boosted trees, in place of the nets, err where the answer is known: {kinds}")
        averages = one.pair.averages
        if averages is None:
            found.append(f"{of}too few rows of each arm were held out: how sure the effect is cannot be told")
        if one.hidden is not None and averages is not None and not averages.ate.low <= 0 <= averages.ate.high:
            bounds = [(b.name, one.hidden.bounds(b.eta_y, b.eta_d)) for b in one.hidden.benchmarks]
            alike = [name for name, of_name in bounds if of_name.interval_low <= 0 <= of_name.interval_high]
            if alike:
                found.append(f"{of}a hidden confounder as strong as {alike[0]} could explain the average effect away")
    return found


def warning_section(sentences: Sequence[str]) -> str:
    """Lists what makes the effects doubtful, or says that nothing was found."""
    if not sentences:
        return section("Warnings", paragraph("None: enough rows, arms that overlap, arms alike once weighed."))
    return section("Warnings", bullets(sentences)).replace("<section>", '<section class="warnings">', 1)


def gains(findings: Findings, words: Words) -> str:
    """Says who gains: groups of rising effect, what sets them apart, and a tree of who should get which arm."""
    parts, several = [], len(findings.pairs) > 1
    for one in findings.pairs:
        name = words.arm(findings, one.pair.treatment)
        parts += [f"<h3>{text(name)}</h3>"] * several
        if one.groups is None:
            parts.append(paragraph("The estimated effect is the same for all, or too few rows were held out to tell."))
        else:
            alike = one.groups.p_equal > one.groups.alpha
            parts.append(
                paragraph(
                    "That effects differ between people is not shown: those of the groups below may all be the same "
                    f"(p = {one.groups.p_equal:.2g})."
                    if alike
                    else f"Effects differ between people (p = {one.groups.p_equal:.2g}): the effect is "
                    f"{one.groups.effects[-1].value:.4g} in the group with the largest estimated effects, "
                    f"{one.groups.effects[0].value:.4g} in that with the smallest."
                )
            )
            parts.append(picture(group_figure(one.groups), "average effects in groups of rising estimated effect"))
        if one.features is not None:
            parts.append(_features(one))
        if np.any(one.importance.share > 0):
            parts.append(picture(importance_figure(one.importance), "which features move the estimated effect"))
    if findings.tree is not None and findings.policy is not None:
        parts += ["<h3>Whom to treat</h3>", paragraph(_worth(findings.tree, findings.policy, findings, words))]
        parts += [block(str(findings.tree)), block(str(findings.policy))]
        better, unit = ("Smaller", f"minus {words.outcome}") if words.less_is_better else ("Larger", words.outcome)
        parts.append(
            paragraph(
                f"{better} values of {words.outcome} count as better, and treatment as free. The tree is drawn from "
                f"all rows; the value is that of such trees on rows that they did not see, in {unit} per row.",
                "soft",
            )
        )
    return section("Who gains", *parts)


def overlap(findings: Findings, words: Words) -> str:
    """Shows whether the arms can be compared: propensities, and how alike their features are."""
    report = findings.report
    if report.score is None:
        return section("Can the arms be compared?", paragraph("Propensities need scikit-learn (the extra estimator)."))
    parts = [picture(effect_figures(report, ("overlap",))["overlap"], "propensities of both arms")]
    for one in findings.pairs:
        if one.balance is None:
            continue
        before, after = (int((np.abs(side) > UNLIKE).sum()) for side in (one.balance.before, one.balance.after))
        of = "" if len(findings.pairs) == 1 else f"{words.arm(findings, one.pair.treatment)}: "
        parts.append(
            paragraph(
                f"{of}{before} of {len(one.balance.names)} features differ by more than {UNLIKE} standard deviations "
                f"between the arms as they are, {after} once rows are weighed by propensity."
            )
        )
        parts.append(picture(balance_figure(one.balance), "how far the arms' mean features lie apart"))
    return section("Can the arms be compared?", *parts)


def doubts(findings: Findings, words: Words) -> str:
    """Says what a hidden confounder would have to be like, and how the analysis does where the answer is known."""
    parts = []
    for one in findings.pairs:
        if one.hidden is None:
            continue
        parts += [f"<h3>{text(words.arm(findings, one.pair.treatment))}</h3>"] * (len(findings.pairs) > 1)
        if len(findings.report.arms) > 2 or (one.pair.averages is not None and one.pair.averages.trimmed):
            parts.append(paragraph("Of all rows of these two arms, and of no others; so the average may be another."))
        parts.append(block(str(one.hidden)))
        if one.odds_ratio is not None and np.isfinite(one.odds_ratio):
            parts.append(
                paragraph(
                    f"Where something hidden changes the odds of treatment by a factor of {one.odds_ratio:.3g}, the "
                    "sign of the average effect may be another."
                )
            )
        parts.append(picture(confounding_figure(one.hidden), "the effect at the worst, by strength of the hidden"))
        if one.refutations is not None:
            parts.append(paragraph(_STAND_IN))
            parts += [block(str(one.refutations)), picture(refutation_figure(one.refutations), "refutations")]
    return section("Could it be something else?", *parts or [paragraph("Too few rows were held out to tell.")])


def making(findings: Findings, model: EffectModel, data: TreatmentData) -> str:
    """Says how it was made: rows, nets, how well they predict, and with which packages."""
    report, ensemble = findings.report, model.ensemble
    counts = [f"{name} {int((report.t == arm).sum())}" for arm, name in enumerate(report.names)]
    dropped = f"; {len(data.dropped)} more without treatment or outcome were left out" if data.dropped else ""
    shares = map(report.explained, range(len(report.arms)))
    explained = [
        f"{name} {'not known' if np.isnan(share) else format(share, '.3f')}"
        for name, share in zip(report.names, shares, strict=True)
    ]
    seen = report.training.held_out is None
    of_rows = "trained on" if seen else "not seen"
    held_out = (
        "all of which saw all rows"
        if seen
        else "each with rows of its own held out; average effects count each row with what models that did not see it "
        "expect (cross-fitted, doubly robust)"
    )
    trees = " and boosted trees" if ensemble.blend is not None else ""
    lines = [
        f"{len(data)} rows ({', '.join(counts)}), {data.x.shape[1]} features{dropped}.",
        f"{model.members} two-head nets of {len(ensemble.config['representation_features'])} shared layers{trees}, "
        f"{held_out}.",
        f"Share of the outcome's variance that is explained on rows {of_rows} (R²): {', '.join(explained)}.",
    ]
    of_pairs = []
    for one in findings.pairs:
        if one.pair.learners is not None and len(one.pair.learners) > 1:
            rows = [(name, f"{w:.2f}", f"{r:.4g}", f"{dr:.4g}") for name, (w, r, dr) in one.pair.learners.items()]
            of_pairs.append(table(("learner", "weight", "R-loss", "DR-loss"), rows))
    packages = ", ".join(f"{name} {found}" for name in _VERSIONS if (found := _version(name)))
    figures = effect_figures(report, ("outcomes", "losses"))
    return section(
        "How it was made",
        bullets(lines),
        *of_pairs,
        picture(figures["outcomes"], f"expected against observed outcomes of rows {of_rows}"),
        picture(figures["losses"], "losses of the nets"),
        block(str(report)),
        paragraph(f"{packages}; Python {platform.python_version()}.", "soft"),
    )


def _worth(tree: PolicyTree, policy: PolicyValue, findings: Findings, words: Words) -> str:
    """Returns whether the questions of a tree are shown to be worth more than the same arm for all."""
    if isinstance(tree.root, Leaf):
        return "As far as these rows tell, the same for all is best: no question finds those who need something else."
    place, least = min(enumerate(policy.gains.values()), key=lambda gain: gain[1].low)
    between = f"between {least.low:.4g} and {least.high:.4g} per row over {words.arm(findings, place)} for all"
    if least.low > 0:
        return f"Such questions are worth more than the same for all: they gain {between}."
    return f"That such questions are worth more than the same for all is not shown: they gain {between}."


def _estimate(name: str, found: AverageEffect) -> tuple[str, ...]:
    return name, f"{found.value:.4g}", f"{found.low:.4g}", f"{found.high:.4g}", str(found.rows)


def _features(one: PairFindings) -> str:
    """Returns the features in which the groups of least and most effect differ most, as a table."""
    assert one.features is not None
    found = one.features
    size = [abs(d.value) / d.standard_error if d.standard_error > 0 else 0.0 for d in found.difference]
    order = np.argsort(-np.nan_to_num(size), kind="stable")[:_SHOWN]
    rows = [
        (found.names[i], f"{found.least[i]:.4g}", f"{found.most[i]:.4g}", f"{found.difference[i].value:.4g}")
        for i in order
    ]
    return table(("mean of", "smallest effects", "largest effects", "difference"), rows)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
