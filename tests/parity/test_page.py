"""The page and the text table: all that a report holds, nothing that runs, and nothing cut off on a narrow screen."""

import html
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from flax_impl.parity.report.entries import Divergence, Entry, Finding
from flax_impl.parity.report.page import html_page
from flax_impl.parity.report.report import Report, text_table

INF, NAN = float("inf"), float("nan")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HOSTILE = "<script>alert(1)</script>\"'&`.\x1b[2J\u202e\ud800\n.a" + "w" * 300
LAYERS = [f"{part}.layer{i}" for part in ("representation", "head0", "head1") for i in range(3)]
CALLS = (*LAYERS[:3], "representation", *LAYERS[3:6], "head0", *LAYERS[6:], "head1", "head1.layer0#1")


def agreeing(steps: int = 4) -> Report:
    """All within bounds, of the size that two frameworks leave."""
    entries = []
    for step in range(steps):
        names = [("input", "x"), ("input", "t")]
        names += [("param", f"{layer}.{kind}") for layer in LAYERS for kind in ("weight", "bias") if step == 0]
        names += [(phase, name) for phase in ("module_input", "activation") for name in CALLS]
        names += [("output", "output"), ("loss", "loss")]
        names += [("cotangent", name) for name in reversed(CALLS)]
        names += [("grad", f"{layer}.weight") for layer in LAYERS] + [("grad", "x")]
        names += [("state", f"{layer}.weight.exp_avg") for layer in LAYERS]
        names += [("update", f"{layer}.weight") for layer in LAYERS]
        for i, (phase, name) in enumerate(names):
            error = 0.0 if phase in ("input", "param") else 1.7e-16 * 10 ** ((7 * i + 3 * step) % 11 / 4)
            entries.append(Entry(step, phase, name, error, 1e-12, error / 3, (i % 5, step), 0, 640))
    return Report("two-head", "float64", "adam", steps, CALLS, tuple(entries))


def diverging(steps: int = 4) -> Report:
    """The second layer of a head is wrong from step 1 on, and all that comes after it."""
    report, wrong, later = agreeing(steps), "head1.layer1", ("output", "loss", "cotangent", "grad", "state", "update")
    entries = []
    for entry in report.entries:
        hit = entry.step and (
            (entry.phase == "activation" and entry.name in (wrong, "head1.layer2", "head1")) or entry.phase in later
        )
        error = 0.031 / 10 ** (len(entry.name) % 12) if hit else entry.error
        shown_only = (entry.step, entry.phase, entry.name) == (2, "activation", "head1.layer0#1")
        error = 0.5 if shown_only else error
        outside = 212 if error > entry.bound else 0
        entries.append(replace(entry, error=error, outside=outside, counts=not shown_only))
    entries.append(Entry(1, "grad", "head1.extra", INF, 1e-12, note="missing in the port"))
    first = Divergence(1, "activation", wrong, next(e for e in entries if not e.passed and e.name == wrong))
    found = (
        Finding("the port's `epsilon` is added outside the root, the reference's inside; set `eps_root=1e-8`"),
        Finding("the port has another activation at the end of `head1`, ELU for identity", certain=False),
    )
    return replace(
        report,
        optimizer="sgd",
        entries=tuple(entries),
        first_divergence=first,
        diagnosis=found,
        unmatched=("0/param/head1.layer1.scale",),
    )


def large() -> Report:
    """60 steps of 80 entries, NaN and infinity among them."""
    names = [f"encoder.block{i // 8}.attention.projection{i % 8}" for i in range(40)]
    entries = [
        Entry(step, phase, name, 10.0 ** (step / 6 - 12 - i % 4), 1e-6, 1e-13, (step, i), step // 37, 9)
        for step in range(60)
        for phase in ("activation", "cotangent")
        for i, name in enumerate(names)
    ]
    entries[-1] = replace(entries[-1], error=INF)
    entries[-2] = replace(entries[-2], error=NAN)
    first = next(entry for entry in entries if not entry.passed)
    found = Divergence(first.step, first.phase, first.name, first)
    return Report("large", "float32", "adamw", 60, tuple(names), tuple(entries), (), found)


def hostile() -> Report:
    entry = Entry(0, "activation", HOSTILE, INF, 1e-12, note=f"shape {HOSTILE}")
    return Report(
        HOSTILE,
        "float64",
        HOSTILE,
        1,
        (HOSTILE, ".".join("a" * 300)),
        (entry,),
        (replace(entry, error=NAN, note=""),),
        Divergence(0, "activation", HOSTILE, entry, before=HOSTILE, free=True),
        (Finding(HOSTILE), Finding(HOSTILE, certain=False)),
        (HOSTILE,),
    )


REPORTS = {
    "agreeing": [agreeing()],
    "diverging": [diverging()],
    "several": [agreeing(), diverging(), replace(agreeing(), dtype="float32", free=agreeing().entries)],
    "large": [large()],
    "hostile": [hostile(), agreeing(1)],
    "none": [],
    "empty": [Report("two-head", "float64", "adam", 0, (), ())],
}


class Parsed(HTMLParser):
    """A page's tags, in balance, its attributes and its text."""

    VOID = ("meta", "wbr")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data


@pytest.mark.parametrize("name", REPORTS)
def test_page_is_whole_and_stands_alone(name: str) -> None:
    page = html_page(REPORTS[name])
    page.encode()
    parsed = Parsed(page)
    assert not {"script", "link", "img", "iframe", "object", "base"} & set(parsed.tags)
    assert not re.search(r"://|url\(|@import", page)
    assert not [name for name, value in parsed.attributes if name == "src" or name.startswith("on")]
    assert all(value.startswith("#pair-") for name, value in parsed.attributes if name == "href")
    ids = [value for name, value in parsed.attributes if name == "id"]
    assert ids == [f"pair-{i}" for i in range(1, len(REPORTS[name]) + 1)]
    tables = parsed.tags.count("table")
    assert (parsed.tags.count("caption"), parsed.tags.count("thead")) == (tables, tables)
    assert parsed.tags.count("h1") == 1


@pytest.mark.parametrize("name", ["agreeing", "diverging", "several", "large"])
def test_page_shows_every_entry(name: str) -> None:
    page = html_page(REPORTS[name])
    for report in REPORTS[name]:
        for entry in report.entries:
            about = f"step {entry.step}, {entry.phase} {entry.name}: error {entry.error:.3g}, bound {entry.bound:.3g}"
            assert about.replace("nan", "NaN") in page
        text = Parsed(page).text
        for module in report.calls:
            assert module in text
        assert f"{report.model}, {report.dtype}, {report.optimizer}, {report.steps} steps" in text


def test_page_says_what_diverges() -> None:
    text = Parsed(page := html_page(REPORTS["diverging"])).text
    assert "✗ diverges. First divergence at step 1, forward, head1.layer1." in text
    assert "layer1 ✗ first divergence" in text
    assert "certain the port's epsilon is added outside the root" in text
    assert "perhaps the port has another activation" in text
    assert "0/param/head1.layer1.scale" in text
    assert "error inf, bound 1e-12, missing in the port" in page
    assert "(+12)" in text
    agrees = Parsed(html_page(REPORTS["agreeing"])).text
    assert "✓ agrees. Every entry is within its bound." in agrees
    assert "Diagnosis" not in agrees
    assert "2 pairs" in Parsed(html_page([agreeing(1), agreeing(1)])).text


def test_page_marks_errors_beside_their_bounds() -> None:
    errors = [0.0, 1e-20, 1e-12, 1.1e-12, 3e-9, INF, NAN]
    marks = ["=", "-8", "-1", "+1", "+4", "∞", "NaN"]
    entries = tuple(Entry(i, "loss", "loss", error, 1e-12) for i, error in enumerate(errors))
    page = html_page([Report("two-head", "float64", "adam", 7, (), entries)])
    cells = map(html.unescape, re.findall(r'<td class=".."[^>]*>([^<]*)</td>', page))
    assert [cell.replace("\N{MINUS SIGN}", "-") for cell in cells] == marks


def test_page_joins_steps_and_entries_where_there_are_many() -> None:
    entries = tuple(Entry(step, "loss", "loss", step * 1e-15, 1e-13) for step in range(1000))
    page = html_page([Report("two-head", "float64", "adam", 1000, (), entries)])
    assert len(re.findall('<td class=".." title=', page)) == 100
    assert "each column is 10 steps" in page
    assert "step 999, loss loss: error 9.99e-13" in page
    blocks = [f"block{i}.layer{j}" for i in range(30) for j in range(4)]
    entries = tuple(Entry(0, "activation", name, i * 1e-15, 1.005e-13) for i, name in enumerate(blocks))
    text = Parsed(page := html_page([Report("two-head", "float64", "adam", 1, tuple(blocks), entries)])).text
    assert "All 120 entries" in text
    assert "alone has all 120 entries" in html_page([Report("two-head", "float64", "adam", 1, (), entries)] * 2)
    assert (page.count('<th scope="row"><code>block29</code>'), page.count('<td class="f1" title="')) == (1, 24)


def test_names_cannot_write_the_page() -> None:
    parsed = Parsed(page := html_page(REPORTS["hostile"]))
    assert "<script>alert(1)</script>\"'&" in parsed.text
    assert not {"\x1b", "\u202e", "\ud800"} & set(page)


def test_text_table() -> None:
    assert text_table([agreeing(), replace(agreeing(), model="two-in-two-out", optimizer="sgd")]) == (
        "model           dtype    optimizer  steps  largest error  bound\n"
        "two-head        float64  adam           4       5.38e-14  1e-12  agrees\n"
        "two-in-two-out  float64  sgd            4       5.38e-14  1e-12  agrees"
    )


def test_text_table_says_what_diverges() -> None:
    lines = text_table([agreeing(), diverging()]).split("\n")
    assert lines[2].split()[-1] == "diverges"
    assert lines[4:9] == [
        "two-head, float64, sgd, 4 steps",
        "  first divergence at step 1, forward, `head1.layer1`",
        "  activation `head1.layer1`: error 0.031, bound 1e-12, worst at [4, 1], 212 of 640 outside, rms",
        "  1.79e-15",
        "",
    ]
    assert lines[9].split() == ["step", "phase", "entry", "error", "bound", "worst", "at", "outside"]
    assert lines[10].split() == ["1", "activation", "head1.layer1", "0.031", "1e-12", "[4,", "1]", "212", "of", "640"]
    assert "more out of bounds" in lines[15]
    assert lines[-4].startswith("  - the port's `epsilon`")
    assert lines[-3].startswith("  - perhaps: ")
    assert lines[-1].startswith("  torch_ref.record(..., tapes=[1]) writes down the operations of this step")


@pytest.mark.parametrize("name", REPORTS)
def test_text_table_fits_a_terminal(name: str) -> None:
    text = text_table(REPORTS[name])
    assert all(character.isprintable() or character == "\n" for character in text)
    assert max(map(len, text.split("\n"))) <= 100


# A browser's own window is 500 pixels wide at least; a frame is as narrow as it is asked to be.
FRAMES = """<!DOCTYPE html><title>waits</title><body>{frames}<script>
addEventListener("load", () => {{
  document.title = [...document.querySelectorAll("iframe")].map(frame => {{
    const page = frame.contentDocument, view = frame.contentWindow, root = page.documentElement;
    const fit = () => [...page.querySelectorAll("body *")].filter(e => !e.closest(".scroll > *")
        && (e.getBoundingClientRect().right > root.clientWidth || e.getBoundingClientRect().left < 0)).length;
    const closed = fit();
    page.querySelectorAll("details").forEach(e => e.open = true);
    return [root.clientWidth, root.scrollWidth, closed, fit(), view.performance.getEntriesByType("resource").length];
  }}).join(" ");
}});
</script>"""


@pytest.mark.skipif(BROWSER is None, reason="no browser is installed")
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_page_fits_narrow_and_wide_windows(dark: bool, tmp_path: Path) -> None:
    frames = [
        f'<iframe style="border: 0" width="{width}" height="900" srcdoc="{html.escape(html_page(reports))}"></iframe>'
        for reports in REPORTS.values()
        for width in (400, 1280)
    ]
    page = tmp_path / "page.html"
    page.write_text(FRAMES.format(frames="".join(frames)), encoding="utf-8")
    command = [
        str(BROWSER),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--dump-dom",
        page.as_uri(),
    ]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    title = re.search(r"<title>(.*?)</title>", shown)
    assert title is not None
    assert title[1].split() == [f"{width},{width},0,0,0" for _ in REPORTS for width in (400, 1280)]
