"""The figures of an experiment in Vega-Lite: panels from the rows of a figure's CSV, for the report and for print.

Every panel states its n.
"""

from collections.abc import Callable
from dataclasses import replace

from reporting.charts.chart_parts import (
    COLOURS,
    GREY,
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
    shaped,
)

VEGA_LITE = "6.4"  # the version that specs are written for, included in vl-convert
SHAPES = {"mean over seeds": "circle", "each seed": "cross", "paper, Llama-2-7B": "diamond", "paper, OLMo-7B": "square"}
# All text has the same weight: with two fonts in a PDF, vl-convert writes them in an order that varies between runs.
CONFIG: Spec = {
    "view": {"stroke": None},
    "axis": {"titleFontWeight": "normal", "titleFontSize": 12, "labelFontSize": 11, "gridOpacity": 0.5},
    "legend": {"orient": "bottom", "columns": 2, "titleFontWeight": "normal", "labelLimit": 220},
    "title": {"fontWeight": "normal", "subtitleColor": "#444", "fontSize": 15, "subtitleFontSize": 11},
}


def only(values: list[str], what: str) -> Spec:
    """A selection below the chart that highlights one of ``values``, for mouse, keyboard and touch."""
    choice = {"input": "select", "options": [None, *values], "labels": ["all", *values], "name": f"{what} "}
    return {"name": "only", "value": None, "bind": choice}


def dimmed(field: str) -> Spec:
    """The opacity of lines, reduced for those not selected in `only`."""
    return {"condition": {"test": f"only == null || datum.{field} == only", "value": 0.9}, "value": 0.08}


def points_and_intervals(rows: list[Row], *, title: str, domain: list[float] | None = None) -> Spec:
    """A row for each system: the mean over seeds with an interval, each seed, and the paper's values as marks.

    ``rows`` have ``model``, ``tuning``, ``value``, ``kind`` (one of SHAPES), and ``low`` and ``high`` if known.
    """
    labels, models = distinct(rows, "tuning"), distinct(rows, "model")
    several, kinds = len(models) > 1, {row["kind"] for row in rows}
    y = {"y": rows_channel(labels)} | ({"yOffset": {"field": "model", "sort": models}} if several else {})
    shape = {"shape": shaped("kind", {kind: shape for kind, shape in SHAPES.items() if kind in kinds})}
    colour = {"color": coloured("model", models, legend={"title": None} if several else None)}
    scale = {"domain": domain} if domain else {"zero": False, "nice": True}
    x, low = ({"x": axis(name, title, scale=scale)} for name in ("value", "low"))
    tooltip = {"tooltip": hover("model", "tuning", "kind", "value", "low", "high")}
    size = {"size": {"condition": {"test": "datum.kind == 'each seed'", "value": 30}, "value": 80}}
    ours = "datum.kind == 'mean over seeds' || datum.kind == 'each seed'"
    layers = [
        layer("rule", {"x": {"datum": 50, "type": "quantitative"}}, strokeDash=[4, 3], color=GREY),
        layer("rule", y, colour, low, {"x2": {"field": "high"}}, where="isValid(datum.low)", strokeWidth=2),
        layer("point", y, x, colour, shape, tooltip, size, where=ours, size=70, filled=True, opacity=1),
    ]
    if any(kind.startswith("paper") for kind in kinds):
        open_ = {"size": 60, "filled": False, "strokeWidth": 1.6, "color": GREY}
        layers.append(layer("point", y, x, shape, tooltip, where="indexof(datum.kind, 'paper') == 0", **open_))
    height = len(labels) * (15 * len(models) if several else 26)
    return {"data": {"values": rows}, "height": height, "layer": layers}


def long_rows(rows: list[Row], value: str) -> list[Row]:
    """A row for each mark of `points_and_intervals`: the mean, each seed, each of the paper's values.

    A mean has its own interval, or otherwise the standard deviation over seeds.
    """
    marks: list[Row] = []
    for row in rows:
        who = {"model": row["model"], "tuning": row["tuning"]}
        ends = {"low": row[value] - row["std"], "high": row[value] + row["std"]} if row["seeds"] > 1 else {}
        ends |= {end: row[end] for end in ("low", "high") if end in row}
        marks.append(who | {"kind": "mean over seeds", "value": row[value]} | ends)
        marks += [who | {"kind": "each seed", "value": rate} for rate in row.get("each seed", [])]
        marks += [
            who | {"kind": name, "value": published[0] if isinstance(published, tuple) else published}
            for name, published in row.items()
            if name.startswith("paper, ") and published and row["model"] == rows[0]["model"]  # once, not for each model
        ]
    return marks


def spoken_values(rows: list[Row], value: str, unit: str) -> str:
    """The numbers of a chart in words."""
    several = len(distinct(rows, "model")) > 1
    return "; ".join(f"{row['model'] + ', ' if several else ''}{row['tuning']}: {row[value]}{unit}" for row in rows)


def win_rates(rows: list[Row]) -> list[Panel]:
    """Win rate of every system against the instruction-tuned model, with the standard deviation over seeds."""
    marks = long_rows(rows, "win_rate")
    top = max(60.0, *(mark.get("high", mark["value"]) for mark in marks))
    seeds = counted(rows, "seeds")
    bars = f"lines: ± standard deviation over {seeds} seeds" if seeds != "1" else "one seed: no interval over seeds"
    judges = ", ".join(distinct(rows, "judge"))
    return [
        Panel(
            "Win rate against instruction tuning",
            f"n = {counted(rows, 'n')} instructions per seed; {bars}; dashed: parity; judge {judges}, raw win rates. "
            "The paper's values are for its own models and judge.",
            f"Win rates in percent. {spoken_values(rows, 'win_rate', ' %')}",
            points_and_intervals(marks, title="win rate (percent of instructions)", domain=[0, top]),
        )
    ]


def ranking(rows: list[Row]) -> list[Panel]:
    """Response ranking, by sequence and per token, with 95 % intervals over seeds and instructions."""
    panels = []
    title = "pairs in which the true response is preferred (percent)"
    for score, what in (("sequence", "by the whole response's probability"), ("token", "per token")):
        own = [row for row in rows if row["score"] == score]
        n = ", ".join(f"{counted(own, name)} {name}" for name in ("instructions", "pairs", "seeds"))
        note = f"n = {n}; lines: 95 % bootstrap interval, over seeds and instructions."
        spoken = f"Pairs in which the true response is preferred, in percent. {spoken_values(own, 'capability', ' %')}"
        spec = points_and_intervals(long_rows(own, "capability"), title=title)
        panels.append(Panel(f"Response ranking, {what}", note, spoken, spec))
    return panels


def rules(rows: list[Row]) -> list[Panel]:
    """The rule adapter's ablation: table 4 as a figure."""
    (panel,) = win_rates(rows)
    return [replace(panel, title="The rule adapter, with each rule removed in turn")]


def of_each_model(make: Callable[[list[Row]], Panel]) -> Callable[[list[Row]], list[Panel]]:
    """A panel for each model, with its name in the title if there are several."""

    def panels(rows: list[Row]) -> list[Panel]:
        models = distinct(rows, "model")
        made = {model: make([row for row in rows if row["model"] == model]) for model in models}
        several = len(models) > 1
        return [replace(panel, title=f"{panel.title}: {model}") if several else panel for model, panel in made.items()]

    return panels


@of_each_model
def epochs(rows: list[Row]) -> Panel:
    """Validation win rate by epoch count: a line for each mode, the chosen counts marked."""
    modes = distinct(rows, "mode")
    values = [
        row | {"low": row["win_rate"] - row["error"], "high": row["win_rate"] + row["error"]}
        | {"chosen": row["chosen"] == "yes"} for row in rows
    ]  # fmt: skip
    x = axis("epochs", "epochs", axis={"values": sorted({row["epochs"] for row in values}), "format": "d"})
    y = axis("win_rate", "validation win rate (percent)", scale={"zero": False}, axis={"tickMinStep": 1})
    tooltip = {"tooltip": hover("mode", "epochs", "win_rate", "low", "high", "n", "chosen")}
    filled = {"size": {"condition": {"test": "datum.chosen", "value": 160}, "value": 30}}
    spec = {
        "data": {"values": values},
        "params": [only(modes, "show")],
        "height": 260,
        "encoding": {"x": x, "color": coloured("mode", modes, title=None), "opacity": dimmed("mode")},
        "layer": [
            layer("line", {"y": y, "strokeDash": dashed("mode", modes)}),
            layer("rule", {"y": y | {"field": "low"}, "y2": {"field": "high"}}),
            layer("point", {"y": y}, filled, tooltip, filled=True),
        ],
    }
    chosen = "; ".join(f"{row['mode']}: {row['epochs']} epochs, {row['win_rate']} %" for row in values if row["chosen"])
    note = (
        f"n = {counted(rows, 'n')} validation instructions, one seed; vertical lines: ± standard error over "
        "instructions; large points: the chosen count."
    )
    return Panel("Choice of epoch counts", note, f"Chosen by validation win rate. {chosen}", spec)


@of_each_model
def training(rows: list[Row]) -> Panel:
    """Training loss by step: a line for each mode and seed."""
    modes, seeds = distinct(rows, "mode"), distinct(rows, "seed")
    spec = layer(
        "line",
        {"x": axis("step", "optimiser step", axis={"tickMinStep": 1})},
        {"y": axis("loss", "training loss (nats per token)", scale={"zero": False})},
        {"color": coloured("mode", modes, title=None), "strokeDash": dashed("mode", modes)},
        {"detail": {"field": "seed"}, "opacity": dimmed("mode"), "tooltip": hover("mode", "seed")},
        strokeWidth=1.2,
        clip=True,
    )
    spec |= {"data": {"values": rows}, "params": [only(modes, "show")], "height": 300}
    merged = max(row["steps"] for row in rows)
    each = "each point is one step" if merged == 1 else f"each point is the mean of up to {merged} steps"
    ends = [next(r for r in reversed(rows) if r["mode"] == mode) for mode in modes]
    last = "; ".join(f"{end['mode']}: {end['loss']:.2f}" for end in ends)
    note = f"n = {len({(r['mode'], r['seed']) for r in rows})} models: {len(modes)} modes, {len(seeds)} seeds; {each}."
    return Panel("Training loss", note, f"Loss at the end, last seed. {last}", spec)


@of_each_model
def lengths(rows: list[Row]) -> Panel:
    """Lengths of responses compared with the instruction-tuned model's: quantiles for each system."""
    keys = ("p5", "p25", "median", "p75", "p95")
    # A square root, since the base model's responses are many times longer than the others, and some have no tokens.
    scale, title = {"type": "sqrt", "zero": True}, "tokens per response (square-root scale)"
    x = {key: {"x": axis(key, title, scale=scale)} for key in keys}
    colour = {"condition": {"test": "datum.reference == 'yes'", "value": COLOURS[1]}, "value": COLOURS[0]}
    own = {"y": rows_channel(distinct(rows, "tuning")), "color": colour}
    tooltip = {"tooltip": hover("tuning", "n", "stopped", *keys)}
    layers = [
        layer("rule", x["median"], where="datum.reference == 'yes'", strokeDash=[4, 3], color=GREY),
        layer("rule", own, x["p5"], {"x2": {"field": "p95"}}),
        layer("bar", own, x["p25"], {"x2": {"field": "p75"}}, height=10, opacity=0.5),
        layer("tick", own, x["median"], tooltip, size=18, thickness=3),
    ]
    note = (
        f"n = {counted(rows, 'n')} responses per system, all seeds; tick: median, bar: middle half, line: 5th to 95th "
        "percentile; dashed: median of the instruction-tuned model."
    )
    spec = {"data": {"values": rows}, "height": 26 * len(rows), "layer": layers}
    return Panel("Lengths of responses", note, f"Median tokens. {spoken_values(rows, 'median', '')}", spec)


def similarity(rows: list[Row]) -> list[Panel]:
    """Section 5.2: a panel for each model and mode."""
    several, panels = len(distinct(rows, "model")) > 1, []
    x = "similarity of the instruction to the tuning instructions (mean dot product)"
    y = "similarity of the response to the tuning responses, minus that to the baseline's"
    for model, tuning in dict.fromkeys((row["model"], row["tuning"]) for row in rows):
        own = [row for row in rows if (row["model"], row["tuning"]) == (model, tuning)]
        spec = layer(
            "point",
            {"x": axis("x", x, scale={"zero": False})},
            {"y": axis("y", y, scale={"zero": False}, axis={"titleLimit": 320})},
            {"shape": shaped("keeps", {"yes": "circle", "no": "cross"}, "keeps the style")},
            {"color": coloured("keeps", ["yes", "no"], title="keeps the style")},
            {"tooltip": hover("instruction", "styles", "x", "y")},
            filled=True,
            size=26,
            opacity=0.6,
        )
        kept = sum(row["keeps"] == "yes" for row in own)
        note = f"n = {len(own):,} responses, one seed; {own[0]['what']}; hover over a point for its instruction."
        spoken = f"{kept} of {len(own)} responses keep the style; table of quartiles below."
        title = f"Similarity and style: {f'{model}, ' if several else ''}{tuning}"
        panels.append(Panel(title, note, spoken, spec | {"data": {"values": own}, "height": 320}))
    return panels


def on_paper(panels: list[Panel]) -> Spec:
    """All panels of a figure in one column, with their titles and notes, black on white and without controls."""
    drawn = []
    for panel in panels:
        spec = {key: value for key, value in panel.spec.items() if key != "params"}
        title = {"text": panel.title, "subtitle": wrapped(panel.note), "anchor": "start", "frame": "group"}
        drawn.append({"title": title, "width": 380, **spec})
    return {
        "$schema": f"https://vega.github.io/schema/vega-lite/v{VEGA_LITE[0]}.json",
        "background": "white",
        "config": CONFIG,
        "params": [{"name": "only", "value": None}],  # highlights everything
        "vconcat": drawn,
        "resolve": {"scale": {"color": "independent", "shape": "independent", "strokeDash": "independent"}},
    }


def wrapped(text: str, *, width: int = 78) -> list[str]:
    """Text wrapped into lines, since charts do not wrap text themselves."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
