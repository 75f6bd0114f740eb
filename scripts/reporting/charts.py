"""The figures of an experiment as Vega-Lite: from the rows of a figure's CSV to panels, for the report and for paper.

Every panel names its n.
"""

from collections.abc import Callable
from dataclasses import replace

from reporting.chart_parts import (
    COLOURS,
    DASHES,
    GREY,
    Panel,
    Row,
    Spec,
    axis,
    coloured,
    counted,
    distinct,
    rows_channel,
)

VEGA_LITE = "6.4"  # the version that specs are written for; vl-convert brings it
SHAPES = {"mean over seeds": "circle", "each seed": "cross", "paper, Llama-2-7B": "diamond", "paper, OLMo-7B": "square"}
# Text is of one weight: with two fonts in a PDF, vl-convert writes them in an order that differs from run to run.
CONFIG: Spec = {
    "view": {"stroke": None},
    "axis": {"titleFontWeight": "normal", "titleFontSize": 12, "labelFontSize": 11, "gridOpacity": 0.5},
    "legend": {"orient": "bottom", "columns": 2, "titleFontWeight": "normal", "labelLimit": 220},
    "title": {"fontWeight": "normal", "subtitleColor": "#444", "fontSize": 15, "subtitleFontSize": 11},
}


def side_by_side(models: list[str]) -> Spec:
    """Where several models share a row, each has its own line in it."""
    return {"yOffset": {"field": "model", "sort": models}} if len(models) > 1 else {}


def only(values: list[str], what: str) -> Spec:
    """A choice below the chart that leaves one of ``values`` in full colour; by mouse, keyboard or finger."""
    choice = {"input": "select", "options": [None, *values], "labels": ["all", *values], "name": f"{what} "}
    return {"name": "only", "value": None, "bind": choice}


def dimmed(field: str) -> Spec:
    """The opacity of lines that the choice of `only` has left out."""
    return {"condition": {"test": f"only == null || datum.{field} == only", "value": 0.9}, "value": 0.08}


def points_and_intervals(rows: list[Row], *, title: str, domain: list[float] | None, parity: bool) -> Spec:
    """A row for each system: the mean of its seeds with an interval, each seed, and the paper's values as marks.

    ``rows`` have ``model``, ``tuning``, ``value``, ``kind`` (one of SHAPES), and ``low`` and ``high`` where known.
    """
    labels, models = distinct(rows, "tuning"), distinct(rows, "model")
    y = {"y": rows_channel(labels), **side_by_side(models)}
    kinds = [kind for kind in SHAPES if kind in {row["kind"] for row in rows}]
    shape = {"field": "kind", "title": None, "scale": {"domain": kinds, "range": [SHAPES[kind] for kind in kinds]}}
    legend = {"legend": {"title": None} if len(models) > 1 else None}
    colour = {"color": coloured("model", models, **legend)}
    scale = {"scale": {"domain": domain}} if domain else {"scale": {"zero": False, "nice": True}}
    x = {"x": axis("value", title, **scale)}
    tooltip = [{"field": name} for name in ("model", "tuning", "kind", "value", "low", "high")]
    ours = {"filter": "datum.kind == 'mean over seeds' || datum.kind == 'each seed'"}
    layers: list[Spec] = [
        {
            "transform": [{"filter": "isValid(datum.low)"}],
            "mark": {"type": "rule", "strokeWidth": 2},
            "encoding": {**y, **colour, "x": axis("low", title, **scale), "x2": {"field": "high"}},
        },
        {
            "transform": [ours],
            "mark": {"type": "point", "size": 70, "filled": True, "opacity": 1},
            "encoding": {**y, **x, **colour, "shape": shape, "tooltip": tooltip},
        },
    ]
    if any(kind.startswith("paper") for kind in kinds):
        layers.append(
            {
                "transform": [{"filter": "indexof(datum.kind, 'paper') == 0"}],
                "mark": {"type": "point", "size": 60, "filled": False, "strokeWidth": 1.6, "color": GREY},
                "encoding": {**y, **x, "shape": shape, "tooltip": tooltip},
            }
        )
    layers[1]["encoding"]["size"] = {"condition": {"test": "datum.kind == 'each seed'", "value": 30}, "value": 80}
    if parity:
        line = {"type": "rule", "strokeDash": [4, 3], "color": GREY}
        layers.insert(0, {"mark": line, "encoding": {"x": {"datum": 50, "type": "quantitative"}}})
    height = len(labels) * (26 if len(models) == 1 else 15 * len(models))
    return {"data": {"values": rows}, "height": height, "layer": layers}


def long_rows(rows: list[Row], value: str) -> list[Row]:
    """A row for each mark of `points_and_intervals`: the mean, each seed, each of the paper's values.

    A mean has its own interval, or else the deviation of its seeds.
    """
    told: list[Row] = []
    for row in rows:
        who = {"model": row["model"], "tuning": row["tuning"]}
        ends = {"low": row[value] - row["std"], "high": row[value] + row["std"]} if row["seeds"] > 1 else {}
        ends |= {end: row[end] for end in ("low", "high") if end in row}
        told.append(who | {"kind": "mean over seeds", "value": row[value]} | ends)
        told += [who | {"kind": "each seed", "value": rate} for rate in row.get("each seed", [])]
        told += [
            who | {"kind": name, "value": published[0] if isinstance(published, tuple) else published}
            for name, published in row.items()
            if name.startswith("paper, ") and published and row["model"] == rows[0]["model"]  # once, not for each model
        ]
    return told


def spoken_values(rows: list[Row], value: str, unit: str) -> str:
    """The figures of a chart in words."""
    several = len(distinct(rows, "model")) > 1
    return "; ".join(f"{row['model'] + ', ' if several else ''}{row['tuning']}: {row[value]}{unit}" for row in rows)


def win_rates(rows: list[Row]) -> list[Panel]:
    """Win rate of every system against the instruction-tuned model, with the standard deviation over seeds."""
    told = long_rows(rows, "win_rate")
    top = max(60.0, *(mark.get("high", mark["value"]) for mark in told))
    seeds = counted(rows, "seeds")
    bars = f"lines: ± standard deviation over {seeds} seeds" if seeds != "1" else "one seed: no interval over seeds"
    judges = ", ".join(distinct(rows, "judge"))
    return [
        Panel(
            "Win rate against instruction tuning",
            f"n = {counted(rows, 'n')} instructions a seed; {bars}; dashed: parity; judge {judges}, raw win rates. "
            "The paper's values are of its own models and judge.",
            f"Win rates in percent. {spoken_values(rows, 'win_rate', ' %')}",
            points_and_intervals(told, title="win rate (percent of instructions)", domain=[0, top], parity=True),
        )
    ]


def ranking(rows: list[Row]) -> list[Panel]:
    """Response ranking, by sequence and per token, with 95 % intervals over seeds and instructions."""
    panels = []
    for score, what in (("sequence", "by the whole response's probability"), ("token", "per token")):
        own = [row for row in rows if row["score"] == score]
        panels.append(
            Panel(
                f"Response ranking, {what}",
                f"n = {counted(own, 'instructions')} instructions, {counted(own, 'pairs')} pairs, "
                f"{counted(own, 'seeds')} seeds; lines: 95 % bootstrap interval, over seeds and instructions.",
                f"Pairs in which the true response is preferred, in percent. {spoken_values(own, 'capability', ' %')}",
                points_and_intervals(
                    long_rows(own, "capability"),
                    title="pairs in which the true response is preferred (percent)",
                    domain=None,
                    parity=True,
                ),
            )
        )
    return panels


def rules(rows: list[Row]) -> list[Panel]:
    """The rule adapter's ablation: table 4 as a figure."""
    (panel,) = win_rates(rows)
    return [replace(panel, title="The rule adapter, with each rule left out")]


def of_each_model(rows: list[Row], make: Callable[[list[Row]], Panel]) -> list[Panel]:
    """A panel for each model; its name is in the title where there are several."""
    models = distinct(rows, "model")
    panels = {model: make([row for row in rows if row["model"] == model]) for model in models}
    several = len(models) > 1
    return [replace(panel, title=f"{panel.title}: {model}") if several else panel for model, panel in panels.items()]


def epochs(rows: list[Row]) -> list[Panel]:
    """Validation win rate by epoch count."""
    return of_each_model(rows, epochs_of_model)


def epochs_of_model(rows: list[Row]) -> Panel:
    """The curves of one model: a line for each mode, the chosen counts marked."""
    modes = distinct(rows, "mode")
    values = [
        {name: row[name] for name in ("mode", "epochs", "win_rate", "n")}
        | {"low": row["win_rate"] - row["error"], "high": row["win_rate"] + row["error"]}
        | {"chosen": row["chosen"] == "yes"}
        for row in rows
    ]
    x = axis("epochs", "epochs", axis={"values": sorted({row["epochs"] for row in values}), "format": "d"})
    y = axis("win_rate", "validation win rate (percent)", scale={"zero": False}, axis={"tickMinStep": 1})
    shared = {"x": x, "color": coloured("mode", modes, title=None), "opacity": dimmed("mode")}
    dash = {"strokeDash": {"field": "mode", "scale": {"domain": modes, "range": DASHES[: len(modes)]}, "title": None}}
    tooltip = [{"field": name} for name in ("mode", "epochs", "win_rate", "low", "high", "n", "chosen")]
    filled = {"condition": {"test": "datum.chosen", "value": 160}, "value": 30}
    spec = {
        "data": {"values": values},
        "params": [only(modes, "show")],
        "height": 260,
        "encoding": shared,
        "layer": [
            {"mark": {"type": "line"}, "encoding": {"y": y, **dash}},
            {"mark": "rule", "encoding": {"y": y | {"field": "low"}, "y2": {"field": "high"}}},
            {"mark": {"type": "point", "filled": True}, "encoding": {"y": y, "size": filled, "tooltip": tooltip}},
        ],
    }
    chosen = "; ".join(f"{row['mode']}: {row['epochs']} epochs, {row['win_rate']} %" for row in values if row["chosen"])
    note = (
        f"n = {counted(rows, 'n')} validation instructions, one seed; upright lines: ± standard error over "
        "instructions; large: the chosen count."
    )
    return Panel("Choice of epoch counts", note, f"Chosen by validation win rate. {chosen}", spec)


def training(rows: list[Row]) -> list[Panel]:
    """Training loss by step."""
    return of_each_model(rows, training_of_model)


def training_of_model(rows: list[Row]) -> Panel:
    """The losses of one model: a line for each mode and seed."""
    modes, seeds = distinct(rows, "mode"), distinct(rows, "seed")
    colour = coloured("mode", modes, title=None)
    dash = {"field": "mode", "scale": {"domain": modes, "range": DASHES[: len(modes)]}, "title": None}
    spec = {
        "data": {"values": rows},
        "params": [only(modes, "show")],
        "height": 300,
        "mark": {"type": "line", "strokeWidth": 1.2, "clip": True},
        "encoding": {
            "x": axis("step", "optimiser step", axis={"tickMinStep": 1}),
            "y": axis("loss", "training loss (nats a token)", scale={"zero": False}),
            "color": colour,
            "strokeDash": dash,
            "detail": {"field": "seed"},
            "opacity": dimmed("mode"),
            "tooltip": [{"field": "mode"}, {"field": "seed"}],
        },
    }
    merged = max(row["steps"] for row in rows)
    each = "each point is one step" if merged == 1 else f"each point is the mean of up to {merged} steps"
    ends = [next(r for r in reversed(rows) if r["mode"] == mode) for mode in modes]
    last = "; ".join(f"{end['mode']}: {end['loss']:.2f}" for end in ends)
    note = f"n = {len({(r['mode'], r['seed']) for r in rows})} models: {len(modes)} modes, {len(seeds)} seeds; {each}."
    return Panel("Training loss", note, f"Loss at the end, last seed. {last}", spec)


def lengths(rows: list[Row]) -> list[Panel]:
    """How long responses are, against the instruction-tuned model's."""
    return of_each_model(rows, lengths_of_model)


def lengths_of_model(rows: list[Row]) -> Panel:
    """Quantiles of one model's systems."""
    keys = ("p5", "p25", "median", "p75", "p95")
    values = [{name: row[name] for name in ("tuning", "n", "stopped", "reference", *keys)} for row in rows]
    title = "tokens a response (square-root scale)"
    y = {"y": rows_channel(distinct(rows, "tuning"))}
    # A square root, as the base model's responses are many times as long as the others, and some have no token.
    scale = {"scale": {"type": "sqrt", "zero": True}}
    colour = {"condition": {"test": "datum.reference == 'yes'", "value": COLOURS[1]}, "value": COLOURS[0]}
    tooltip = [{"field": name} for name in ("tuning", "n", "stopped", *keys)]
    line = {"type": "rule", "strokeDash": [4, 3], "color": GREY}
    layers: list[Spec] = [
        {"mark": "rule", "encoding": {**y, "x": axis("p5", title, **scale), "x2": {"field": "p95"}, "color": colour}},
        {
            "mark": {"type": "bar", "height": 10, "opacity": 0.5},
            "encoding": {**y, "x": axis("p25", title, **scale), "x2": {"field": "p75"}, "color": colour},
        },
        {
            "mark": {"type": "tick", "size": 18, "thickness": 3},
            "encoding": {**y, "x": axis("median", title, **scale), "color": colour, "tooltip": tooltip},
        },
    ]
    reference = {"transform": [{"filter": "datum.reference == 'yes'"}], "mark": line}
    layers.insert(0, reference | {"encoding": {"x": axis("median", title, **scale)}})
    note = (
        f"n = {counted(rows, 'n')} responses a system, all seeds; stroke: median, bar: middle half, line: 5th to 95th "
        "percentile; dashed: the median of the instruction-tuned model."
    )
    spoken = f"Median tokens. {spoken_values(rows, 'median', '')}"
    return Panel(
        "Lengths of responses", note, spoken, {"data": {"values": values}, "height": 26 * len(rows), "layer": layers}
    )


def similarity(rows: list[Row]) -> list[Panel]:
    """Section 5.2: a panel for each model and mode."""
    several = len(distinct(rows, "model")) > 1
    panels = []
    for model, tuning in dict.fromkeys((row["model"], row["tuning"]) for row in rows):
        own = [row for row in rows if (row["model"], row["tuning"]) == (model, tuning)]
        tooltip = [{"field": name} for name in ("instruction", "styles", "x", "y")]
        x = axis(
            "x", "similarity of the instruction to the tuning instructions (mean dot product)", scale={"zero": False}
        )
        y = axis(
            "y", "similarity of the response to the tuning responses, less to the baseline's", scale={"zero": False}
        )
        shape = {
            "field": "keeps",
            "title": "keeps the style",
            "scale": {"domain": ["yes", "no"], "range": ["circle", "cross"]},
        }
        spec = {
            "data": {"values": own},
            "height": 320,
            "mark": {"type": "point", "filled": True, "size": 26, "opacity": 0.6},
            "encoding": {
                "x": x,
                "y": y | {"axis": {"titleLimit": 320}},
                "shape": shape,
                "color": coloured("keeps", ["yes", "no"], title="keeps the style"),
                "tooltip": tooltip,
            },
        }
        kept = sum(row["keeps"] == "yes" for row in own)
        panels.append(
            Panel(
                f"Similarity and style: {f'{model}, ' if several else ''}{tuning}",
                f"n = {len(own):,} responses, one seed; {own[0]['what']}; hover over a point for its instruction.",
                f"{kept} of {len(own)} responses keep the style; table of quartiles below.",
                spec,
            )
        )
    return panels


def on_paper(panels: list[Panel]) -> Spec:
    """All panels of a figure below each other, with their titles and notes, black on white and without choices."""
    drawn = []
    for panel in panels:
        spec = {key: value for key, value in panel.spec.items() if key != "params"}
        told = {"text": panel.title, "subtitle": wrapped(panel.note), "anchor": "start", "frame": "group"}
        drawn.append({"title": told, "width": 380, **spec})
    return {
        "$schema": f"https://vega.github.io/schema/vega-lite/v{VEGA_LITE[0]}.json",
        "background": "white",
        "config": CONFIG,
        "params": [{"name": "only", "value": None}],  # nothing is left out
        "vconcat": drawn,
        "resolve": {"scale": {"color": "independent", "shape": "independent", "strokeDash": "independent"}},
    }


def wrapped(text: str, *, width: int = 78) -> list[str]:
    """Text as lines of a chart, which does not break lines by itself."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
