"""Pieces of HTML: escaped texts, tables, and pictures that lie inside the page."""

import base64
import html
from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DOTS = 110  # an inch


def text(value: Any) -> str:
    """Returns any value as a text that is safe in HTML: names come from tables, whatever they hold."""
    return html.escape(str(value))


def paragraph(sentence: str, kind: str = "") -> str:
    """Returns a paragraph of plain text."""
    of_kind = f' class="{kind}"' if kind else ""
    return f"<p{of_kind}>{text(sentence)}</p>"


def bullets(sentences: Iterable[str]) -> str:
    """Returns a list of plain texts."""
    return "<ul>" + "".join(f"<li>{text(sentence)}</li>" for sentence in sentences) + "</ul>"


def block(lines: str) -> str:
    """Returns lines in a typewriter's letters, as they stand."""
    return f"<pre>{text(lines)}</pre>"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Returns a table; the first column names the rows, the others hold numbers."""
    titles = "".join(f'<th scope="col">{text(cell)}</th>' for cell in head)
    lines = (
        f'<tr><th scope="row">{text(row[0])}</th>' + "".join(f"<td>{text(cell)}</td>" for cell in row[1:]) + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{titles}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def picture(figure: "Figure", words: str) -> str:
    """Returns a picture of matplotlib as part of the page.

    Args:
        figure: what to show.
        words: what it shows, for those who do not see it.
    """
    file = BytesIO()
    figure.savefig(file, format="png", dpi=_DOTS)
    content = base64.b64encode(file.getvalue()).decode()
    return f'<figure><img alt="{text(words)}" src="data:image/png;base64,{content}"></figure>'


def section(title: str, *parts: str) -> str:
    """Returns a part of the page under a title."""
    return f"<section>\n<h2>{text(title)}</h2>\n" + "\n".join(parts) + "\n</section>"


def whole_page(title: str, parts: Sequence[str]) -> str:
    """Returns a whole page: its style inside, nothing that is run or fetched."""
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            f"<title>{text(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>",
            f"<header>\n<h1>{text(title)}</h1>\n</header>\n<main>",
            *parts,
            "</main>\n</body>\n</html>\n",
        ]
    )
