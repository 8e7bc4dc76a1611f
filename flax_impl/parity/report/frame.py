"""The frame of an HTML page: its style, its verdict, and nothing that is run or fetched."""

from collections.abc import Sequence
from pathlib import Path


def framed(verdict: str, sections: Sequence[str]) -> str:
    """Returns a whole page.

    Args:
        verdict: its title, as HTML.
        sections: what it shows, as HTML.
    """
    style = Path(__file__).with_name("page.css").read_text()
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            # Names come from files: whatever they hold, nothing is run or fetched.
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
            f"<title>Parity: {verdict}</title>\n<style>\n{style}</style>\n</head>\n<body>",
            f'<header>\n<p class="kicker">Parity report</p>\n<h1>{verdict}</h1>\n</header>',
            "<main>",
            *sections,
            "</main>\n</body>\n</html>\n",
        ]
    )


def verdict_of(passed: Sequence[bool]) -> str:
    """Returns in words how many ports agree with their references.

    Args:
        passed: whether each does.
    """
    failed = sum(not agrees for agrees in passed)
    if not passed:
        return "Nothing was compared"
    if len(passed) == 1:
        return f"The port {'diverges from' if failed else 'agrees with'} its reference"
    if failed:
        return f"{failed} of {len(passed)} pairs {'diverges' if failed == 1 else 'diverge'}"
    return f"All {len(passed)} pairs agree"
