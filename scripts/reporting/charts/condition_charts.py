"""The figure of conditions: performance by condition, with a panel for each measure, over worlds."""

from typing import Any

from reporting.charts.chart_parts import (
    COLOURS,
    Panel,
    Row,
    Spec,
    axis,
    coloured,
    counted,
    dashed,
    distinct,
    hover,
    layer,
    rows_channel,
)

PREFERRED = "pairs in which the true response is preferred (percent)"
MEASURES = {
    "ranking": ("Response ranking", PREFERRED),
    "ranking, same kind": ("Response ranking, among wrong responses of the same kind", PREFERRED),
    "ranking, same format": ("Response ranking, among wrong responses of the same format", PREFERRED),
    "quality": ("Quality of responses", "quality (mean of instructions, 0 to 1)"),
    "win rate": ("Win rate against the reference mode", "win rate (percent of instructions)"),
    "KL": ("Drift from the base model on held-out text", "KL(base || tuned) (nats per token)"),
}
SHOWN = ("tuning", "mean", "low", "high", "worlds")  # in tooltips


def conditions(rows: list[Row]) -> list[Panel]:
    """Performance by condition: a panel for each measure, with intervals over worlds."""
    measured = [(name, own) for name in MEASURES if (own := [row for row in rows if row["measure"] == name])]
    panel = conditions_of_measure if len(distinct(rows, "condition")) > 1 else tunings_of_measure
    return [panel(own, *MEASURES[name], distinct(rows, "tuning")) for name, own in measured]


def is_number(text: str) -> bool:
    """Whether a condition's name is a number, which has a position on an axis."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def conditions_of_measure(rows: list[Row], title: str, unit: str, labels: list[str]) -> Panel:
    """One measure: a line for each system if the conditions are numbers, otherwise points side by side."""
    numbers = all(is_number(row["condition"]) for row in rows)
    x = axis("condition", rows[0]["axis"])
    values = [row | {"condition": float(row["condition"])} for row in rows] if numbers else rows
    if not numbers:
        x |= {"type": "nominal", "sort": distinct(rows, "condition"), "axis": {"labelAngle": 0}}
    y = axis("mean", unit, scale={"zero": False})
    layers = [
        *intervals(rows, {"y": y | {"field": "low"}, "y2": {"field": "high"}}),
        layer("point", {"y": y, "tooltip": hover("condition", *SHOWN)}, filled=True),
    ]
    layers = [layer("line", {"y": y, "strokeDash": dashed("tuning", labels)}), *layers] if numbers else layers
    aside = {} if numbers else {"xOffset": {"field": "tuning", "sort": labels}}
    shared = {"x": x, **aside, "color": coloured("tuning", labels, title=None)}
    spec = {"data": {"values": values}, "height": 240, "encoding": shared, "layer": layers}
    return over_worlds(rows, title, unit, spec)


def tunings_of_measure(rows: list[Row], title: str, unit: str, labels: list[str]) -> Panel:
    """One measure with a single condition: a row for each system."""
    y = {"y": rows_channel([label for label in labels if label in distinct(rows, "tuning")])}
    x = axis("mean", unit, scale={"zero": False})
    ends = {"x": x | {"field": "low"}, "x2": {"field": "high"}}
    point = {"size": 70, "filled": True, "opacity": 1, "color": COLOURS[0]}
    layers = [
        *intervals(rows, y, ends, strokeWidth=2, color=COLOURS[0]),
        layer("point", y, {"x": x, "tooltip": hover(*SHOWN)}, **point),
    ]
    spec = {"data": {"values": rows}, "height": 18 * len(rows), "layer": layers}
    return over_worlds(rows, title, unit, spec)


def intervals(rows: list[Row], *encodings: Spec, **options: Any) -> list[Spec]:
    """Lines from low to high; no layer with a single world, since an axis without values has no range."""
    several = any(row["low"] is not None for row in rows)
    return [layer("rule", *encodings, where="isValid(datum.low)", **options)] if several else []


def over_worlds(rows: list[Row], title: str, unit: str, spec: Spec) -> Panel:
    """A panel of one measure over worlds."""
    several = any(row["low"] is not None for row in rows)
    bars = "lines: 95 % t-interval over worlds" if several else "one world: no interval"
    of = f", {counted(rows, 'n')} {rows[0]['of']} each" if rows[0]["of"] else ""
    one = len(distinct(rows, "condition")) == 1
    spoken = "; ".join(f"{'' if one else row['condition'] + ', '}{row['tuning']}: {row['mean']}" for row in rows)
    return Panel(
        title,
        f"n = {counted(rows, 'worlds')} worlds, each pre-trained separately{of}; mean over worlds; {bars}.",
        f"{title}, {unit}{'' if one else ', by ' + rows[0]['axis']}. {spoken}",
        spec,
    )
