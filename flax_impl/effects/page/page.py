"""One HTML page of what a model found in its table: the average effect first, and how sure it is."""

import os
from dataclasses import dataclass
from pathlib import Path

from torch_ref.common.checks.arguments import check_integer
from torch_ref.common.data.treatment_data import TreatmentData
from torch_ref.common.files.array_file import replacing

from ..effect_model import EffectModel
from ..report import EffectReport
from .findings import Findings, look
from .markup import whole_page
from .sections import Words, doubts, gains, headline, making, overlap, warning_section, warnings_of


@dataclass(frozen=True)
class EffectPage:
    """A page that a manager can read, and all that stands on it; `effect_page` makes it.

    A notebook shows it as it is. Nothing on it is run or fetched, so that it can be sent as one file.

    Args:
        html: the page, as one text in UTF-8.
        findings: what the page shows, as numbers.
        warnings: what makes the effects doubtful, a sentence each.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> page = EffectPage("<p>the page</p>", findings=None, warnings=())  # by effect_page
        >>> with TemporaryDirectory() as folder:
        ...     page.save(f"{folder}/page.html")
    """

    html: str
    findings: Findings
    warnings: tuple[str, ...]

    def _repr_html_(self) -> str:
        """Returns what a notebook shows: the page in a frame of its own, so that its style stays inside."""
        source = self.html.replace("&", "&amp;").replace('"', "&quot;")
        return f'<iframe srcdoc="{source}" style="width:100%;height:60rem;border:0"></iframe>'

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the page.

        Args:
            path: the file; one that is there already is replaced, and folders that are missing are made.

        Raises:
            OSError: the file cannot be written.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as beside:
            beside.write_text(self.html, encoding="utf-8")


def effect_page(
    model: EffectModel,
    data: TreatmentData,
    report: EffectReport | None = None,
    *,
    outcome: str = "the outcome",
    treatment: str = "treatment",
    trim: float | None = None,
    less_is_better: bool = False,
    refutations: bool = True,
    seed: int = 0,
    progress: bool = True,
) -> EffectPage:
    """Returns the page of a model on the table that it was trained on.

    It shows the average effects and their intervals first, then what makes them doubtful, who gains, and whom to treat.
    Then it says whether the arms can be compared, how strong something hidden would have to be, and how all was made.

    Args:
        model: trained by `fit_effects`.
        data: the whole table that it was trained on, in the same order and unit.
        report: of the model on the table, where it is there already.
        outcome: what the page calls the outcome.
        treatment: what it calls the treatment.
        trim: as for `EffectReport.of`, where there is no `report` yet.
        less_is_better: whether a smaller outcome is the better one, for the question whom to treat.
        refutations: whether to put the analysis to tables whose answer is known: the longest part.
        seed: of all that is drawn.
        progress: shows a bar, or plain lines, once it takes long.

    Returns:
        The page; in a notebook it shows itself, `save` writes it.

    Raises:
        ValueError: the model was loaded, so the rows that its nets did not see are unknown.
        ImportError: matplotlib or scikit-learn is not installed; the message names the extra.

    Example:
        >>> from flax_impl.data import synthetic
        >>> from flax_impl.effects import EffectSettings, fit_effects
        >>> data = synthetic(rows=80, features=4)
        >>> small = EffectSettings(representation_features=[4], head_features=[4], members=5, steps=3)
        >>> model = fit_effects(data, small, progress=False)
        >>> page = effect_page(model, data, outcome="days", treatment="drug", refutations=False, progress=False)
        >>> "<title>The effect of drug on days</title>" in page.html
        True
    """
    check_integer("seed", seed, at_least=0)
    report = EffectReport.of(model, data, trim=trim) if report is None else report
    findings = look(
        model, data, report, less_is_better=less_is_better, refutations=refutations, seed=seed, progress=progress
    )
    words, warnings = Words(outcome, treatment, less_is_better), warnings_of(findings, data)
    parts = [
        headline(findings, words),
        warning_section(warnings),
        gains(findings, words),
        overlap(findings, words),
        doubts(findings, words),
        making(findings, model, data),
    ]
    return EffectPage(whole_page(f"The effect of {treatment} on {outcome}", parts), findings, tuple(warnings))
