"""Components of charts: panels, axes and colours (Okabe and Ito's, and two more).

Colour-blind readers can distinguish them; if there are more lines than colours, dashes distinguish them too.
"""

from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]
Spec = dict[str, Any]

COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#9944DD", "#994433"]
GREY = "#858585"  # visible on white and on black
DASHES = [[1, 0]] * len(COLOURS) + [[5, 3]] * len(COLOURS) + [[1, 2]] * len(COLOURS)


@dataclass(frozen=True)
class Panel:
    """A chart: its title, a note on its marks and n, a description for screen readers, and its spec."""

    title: str
    note: str
    spoken: str
    spec: Spec


def distinct(rows: list[Row], name: str) -> list[str]:
    """The distinct values of a column, in order of first occurrence."""
    return list(dict.fromkeys(row[name] for row in rows))


def counted(rows: list[Row], name: str) -> str:
    """A count that may differ from row to row, as ``200`` or ``150 to 200``."""
    counts = sorted({row[name] for row in rows})
    return f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"


def axis(field: str, title: str, **more: Any) -> Spec:
    """A quantitative channel with its axis."""
    return {"field": field, "type": "quantitative", "title": title, **more}


def rows_channel(labels: list[str]) -> Spec:
    """The vertical channel of a chart with a row for each system, in table order."""
    return {"field": "tuning", "type": "nominal", "sort": labels, "title": None, "axis": {"labelLimit": 220}}


def coloured(field: str, values: list[str], **more: Any) -> Spec:
    """A colour for each value."""
    scale = {"domain": values, "range": [COLOURS[i % len(COLOURS)] for i in range(len(values))]}
    return {"field": field, "type": "nominal", "scale": scale, **more}


def dashed(field: str, values: list[str]) -> Spec:
    """A dash pattern for each value, different once there are more values than colours."""
    return {"field": field, "scale": {"domain": values, "range": DASHES[: len(values)]}, "title": None}


def shaped(field: str, shapes: dict[str, str], title: str | None = None) -> Spec:
    """A shape for each value."""
    return {"field": field, "title": title, "scale": {"domain": list(shapes), "range": list(shapes.values())}}


def hover(*names: str) -> list[Spec]:
    """The fields in a mark's tooltip."""
    return [{"field": name} for name in names]


def layer(mark: str, *encodings: Spec, where: str | None = None, **options: Any) -> Spec:
    """Marks of one kind; ``where`` is a condition that selects the rows to draw."""
    encoding = {name: channel for own in encodings for name, channel in own.items()}
    drawn = {"mark": {"type": mark, **options}, "encoding": encoding}
    return drawn | {"transform": [{"filter": where}]} if where else drawn
