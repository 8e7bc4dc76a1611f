"""Draws the operations of both sides around a place: two columns, in which equal values have the same number."""

import html
from collections.abc import Mapping, Sequence

from torch_ref.common.tape.tape import Tape

from ..alignment.divergence import Divergence
from ..alignment.partners import Partners
from ..alignment.place import Place

_SHOWN = 12  # operations of each side


def picture(number: int, place: Divergence, partners: Partners, titles: tuple[str, str]) -> str:
    """Returns two columns of operations; a number marks an agreed value, the same one on both sides.

    Args:
        number: of the place.
        place: where the two sides part.
        partners: their values.
        titles: of the reference's column and of the port's; the one that is called reference comes first.
    """
    marks: dict[int, int] = {}
    # Of equal values the first stands for all.
    first = {v: partners.of_port.get(twins[0], [v])[0] for v, twins in partners.of_reference.items()}
    columns = [
        _column(titles[0], place.reference, partners.reference, first, marks),
        _column(titles[1], place.port, partners.port, {v: twins[0] for v, twins in partners.of_port.items()}, marks),
    ]
    return (
        f"<b>place {number}</b>"
        '<div style="display:flex;gap:2em;font-family:monospace;font-size:12px;align-items:flex-start">'
        f"{''.join(columns if titles[0] == 'reference' else columns[::-1])}</div>"
    )


def _column(title: str, place: Place | None, tape: Tape, twins: Mapping[int, int], marks: dict[int, int]) -> str:
    rows = [f"<b>{title}</b>"]
    shown: Sequence[int] = () if place is None else sorted({place.first, *place.cone[:_SHOWN]})
    for i in shown:
        operation = tape.operations[i]
        given = []
        for value in operation.inputs:
            partner = twins.get(value)
            if partner is None:
                given.append(f"v{value}")
            else:
                mark = marks.setdefault(partner, len(marks) + 1)
                given.append(f'<span style="background:#bfe3c4;border-radius:6px;padding:0 4px">{mark}</span>')
        outputs = ", ".join(f"v{value}" for value in operation.outputs)
        line = html.escape(str(operation.lines[0])) if operation.lines else ""
        colour = "#f6c9c3" if place is not None and i == place.first else "#f4f4f4"
        rows.append(
            f'<div style="background:{colour};margin:3px 0;padding:3px 6px" title="{line}">'
            f"{outputs} = {html.escape(str(operation))} of {' '.join(given)}<br>"
            f'<span style="color:#555">{line}</span></div>'
        )
    return f'<div style="flex:1;min-width:0;overflow:hidden">{"".join(rows)}</div>'
