"""The figure of a judge's card: does a preference of the judge mean what it says?"""

from collections.abc import Iterator

from reporting.charts.chart_parts import GREY, Panel, Row, axis, coloured, distinct, hover, layer
from reporting.metrics.view import View


def reliability_rows(view: View) -> Iterator[Row]:
    """For each set of known judgements and tenth of the judge's preference: its mean, and the annotators' mean."""
    for row in view.of("reliability").to_dict("records"):
        yield {
            "known judgements": row["set"],
            "judge": float(row["part"]),
            "annotators": row["value"],
            "n": int(row["n"]),
        }


def reliability(rows: list[Row]) -> list[Panel]:
    """The reliability curve: on the diagonal, annotators prefer the second response as often as the judge says."""
    sets = distinct(rows, "known judgements")
    scale = {"domain": [0, 100]}
    x = {"x": axis("judge", "the judge's preference for the second response (percent)", scale=scale)}
    y = {"y": axis("annotators", "the annotators' preference (percent)", scale=scale)}
    colour = {"color": coloured("known judgements", sets)}
    tooltip = {"tooltip": hover("known judgements", "judge", "annotators", "n")}
    diagonal = {"values": [{"judge": end, "annotators": end} for end in (0, 100)]}
    layers = [
        layer("line", x, y, strokeDash=[4, 3], color=GREY) | {"data": diagonal},
        layer("line", x, y, colour, strokeWidth=1.5),
        layer("point", x, y, colour, tooltip, {"size": axis("n", "pairs")}, filled=True, opacity=0.8),
    ]
    counts = {name: sum(row["n"] for row in rows if row["known judgements"] == name) for name in sets}
    note = (
        f"n = {', '.join(f'{count:,} pairs of {name}' for name, count in counts.items())}; each point is a "
        "tenth of the range of the judge's preference; dashed: the judge's preferences are the annotators' frequencies."
    )
    spoken = "; ".join(f"{r['known judgements']}: {r['judge']:.0f} % is {r['annotators']:.0f} %" for r in rows)
    spec = {"data": {"values": rows}, "height": 320, "layer": layers}
    return [Panel("Reliability of the judge's preferences", note, spoken, spec)]
