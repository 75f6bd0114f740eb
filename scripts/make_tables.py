"""Make the paper's tables 1 to 4 of an experiment, and those of its epoch choices and responses.

    python scripts/make_tables.py --output results/tiny/tables --settings '{"figures": [...], ...}'

``settings`` lists the summaries of the other stages with what each is of; a table is CSV, from which Markdown and
LaTeX are rendered. A standard deviation is over seeds, with n - 1 in the denominator.
"""

import statistics
from functools import cache
from pathlib import Path
from typing import Any

from implicit.intervals import mean_interval
from implicit.published import MODELS, RANKING, RULE_WIN_RATES, WIN_RATES
from stage.command import arguments, run_stage, say
from stage.control_tables import CONTROLS, NOTES, interval_text, ranking_interval
from stage.control_tables import TITLES as CONTROL_TITLES
from stage.judge_notes import doubts, share_columns, without_shares
from stage.rows import rows_sha256
from stage.storage import read_json, read_table, write_text
from stage.table_forms import fixed, mean_and_deviation, plus_minus, to_csv, to_latex, to_markdown

Row = dict[str, Any]

PAPER_NOTE = (
    "The paper's columns are of Llama-2-7B and OLMo-7B under gpt-4-1106-preview, length-controlled (v1). They show the "
    "shape of the effect; figure by figure, only the same model under the same judge and metric is comparable."
)
CONTROL_NOTE = (
    "Win rates are raw; length-controlled ones (length_controlled_minimal) are left out where the length model is not "
    "defined for every seed: alpaca-eval would say exactly 50 there, whatever the outcomes."
)


def mean_quality(summaries: list[Row], side: str) -> str:
    """The mean quality of a side's responses; empty for a judge that knows none."""
    known = [s[side] for s in summaries if s[side] is not None]
    return fixed(statistics.fmean(known), 2) if known else ""


def mean_bias(summaries: list[Row]) -> str:
    """How much more often the output that is shown first wins than it should, in points; empty where not measured."""
    known = [s["position_bias"] for s in summaries if s["position_bias"] is not None]
    return fixed(statistics.fmean(known), 1, sign="+") if known else ""


def win_rate_interval(figures: list[Row]) -> tuple[float, float]:
    """The 95 % interval in percent of the mean over seeds of a system's win rates, over seeds and instructions."""
    tables = [read_table("judgements", Path(figure["path"]).with_suffix(".parquet")) for figure in figures]
    settings = read_json(figures[0]["path"])["settings"]
    points = [[100 * (row["preference"] - 1) for row in table] for table in tables]
    clusters = [row["cluster"] for row in tables[0]]
    ones = [[1.0] * len(clusters) for _ in tables]
    return mean_interval(points, ones, clusters, draws=settings["bootstrap"], seed=settings["seed"])


def win_rate_row(figures: list[Row], *, model: str, label: str, published: tuple) -> Row:
    """A row of tables 1, 3 and 4, from the summaries of one system's comparisons, one for each seed."""
    summaries = [read_json(figure["path"]) for figure in figures]
    given = [response_figures(summary["inputs"]["responses"]["path"]) for summary in summaries]
    controlled = [summary["lc_win_rate"] for summary in summaries if summary["lc_win_rate"] is not None]
    return {
        "model": model,
        "tuning": label,
        "win rate": plus_minus(mean_and_deviation([s["win_rate"] for s in summaries])),
        "length-controlled": plus_minus(mean_and_deviation(controlled)) if len(controlled) == len(summaries) else "",
        "each seed": " ".join(fixed(s["win_rate"], 1) for s in summaries),
        "95 %": interval_text(win_rate_interval(figures)),
        "ties": fixed(100 * statistics.fmean(s["ties"] / s["n"] for s in summaries), 1),
        "quality": mean_quality(summaries, "quality_2"),
        "of reference": mean_quality(summaries, "quality_1"),
        "stopped": fixed(statistics.fmean(stopped for stopped, _ in given), 1),
        "tokens": fixed(statistics.fmean(tokens for _, tokens in given), 1),
        "position bias": mean_bias(summaries),
        **share_columns(summaries),
        "seeds": len(summaries),
        "n": summaries[0]["n"],
        "judge": summaries[0]["judge"],
        "metric": summaries[0]["metric"],
        "date": max(s["date"] or "" for s in summaries),
    } | {f"paper, {name}": plus_minus(value) for name, value in zip(MODELS, published, strict=True)}


def win_rate_tables(settings: Row) -> dict[str, list[Row]]:
    """Tables 1, 3 and 4: which systems stand in which is said by ``settings['figures'][...]['table']``."""
    tables: dict[str, list[Row]] = {"table1": [], "table3": [], "table4": []}
    for model in settings["models"]:
        own = [figure for figure in settings["figures"] if figure["model"] == model]
        for name, rows in tables.items():
            for system in dict.fromkeys(figure["system"] for figure in own):
                figures = [f for f in own if f["system"] == system and name in f["tables"]]
                if figures:
                    published = _published(figures[0])
                    rows.append(win_rate_row(figures, model=model, label=figures[0]["label"], published=published))
    return {name: without_shares(rows) for name, rows in tables.items() if rows}


def _published(figure: Row) -> tuple:
    if figure.get("rules") is not None:
        return RULE_WIN_RATES.get(frozenset(figure["rules"])), None
    return WIN_RATES.get(figure["published"], (None, None))


def ranking_table(settings: Row) -> list[Row]:
    """Table 2: a row for each model and system, capability in percent; the mean over the test seeds."""
    rows = []
    for model in settings["models"]:
        own = [entry for entry in settings["rankings"] if entry["model"] == model]
        for system in dict.fromkeys(entry["system"] for entry in own):
            entries = [entry for entry in own if entry["system"] == system]
            summaries = [read_json(entry["path"])["summary"] for entry in entries]
            row: Row = {"model": model, "tuning": entries[0]["label"]}
            for score in ("sequence", "token"):
                figures = [summary[score] for summary in summaries]
                name = "capability" if score == "sequence" else "per token"
                row[name] = plus_minus(mean_and_deviation([100 * figure["capability"] for figure in figures]))
                row[f"{name}, 95 %"] = interval_text(ranking_interval(entries, score))
                row[f"{name}, ties"] = fixed(100 * statistics.fmean(figure["ties"] for figure in figures), 1)
            row |= {
                "seeds": len(summaries),
                "instructions": summaries[0]["instructions"],
                "pairs": summaries[0]["pairs"],
            }
            published = RANKING.get(entries[0]["published"], ("", ""))
            rows.append(row | {f"paper, {name}": value for name, value in zip(MODELS, published, strict=True)})
    return rows


def number(value: float | None) -> str:
    """Two decimals; empty for what is not defined."""
    return "" if value is None else fixed(value, 2)


def similarity_table(settings: Row) -> list[Row]:
    """Section 5.2, and the data behind figure 5: how often responses keep a style, by similarity to the tuning data."""
    rows = []
    for entry in settings["similarities"]:
        summary = read_json(entry["path"])["summary"]
        for style, rates in summary["adherence"].items():
            rows.append(
                {"model": entry["model"], "tuning": entry["label"], "style": style}
                | {name: fixed(100 * rate["rate"], 1) for name, rate in rates.items()}
                | {
                    "n of a quartile": rates["lowest"]["n"],
                    "similarity, rank correlation": number(summary["spearman"]),
                }
            )
    return rows


def data_table(settings: Row) -> list[Row]:
    """What was read: rows, and the sha256 of their texts, by which others can see that they have the same."""
    rows = []
    for entry in settings["data"]:
        table = read_table(entry["kind"], Path(entry["path"]))
        keys = ("instruction", "reference")
        of_set = entry["kind"] == "evaluation_set"
        texts = [{key: row[key] for key in keys} if of_set else row["messages"] for row in table]
        row = {"name": entry["name"], "kind": entry["kind"].replace("_", " "), "rows": len(table)}
        rows.append(row | {"source": table[0]["source"], "sha256": rows_sha256(texts)})
    return rows


def epochs_table(settings: Row) -> list[Row]:
    """What was chosen, and every validation figure that it was chosen by."""
    rows = []
    for entry in settings["selections"]:
        selected = read_json(entry["path"])
        for row in selected["grid"]:
            rows.append(
                {
                    "model": entry["model"],
                    "mode": entry["mode"],
                    "epochs": row["epochs"],
                    "validation win rate": "" if row["win_rate"] is None else fixed(row["win_rate"], 1),
                    "error": "" if row["win_rate_error"] is None else fixed(row["win_rate_error"], 1),
                    "n": row["n"] or "",
                    "judge": row["judge"] or "",
                    "date": row["date"] or "",
                    "chosen": "yes" if row["epochs"] == selected["epochs"] else "",
                }
            )
    return rows


def responses_table(settings: Row) -> list[Row]:
    """What was generated: how many responses stopped by themselves, how long they are, which prompts were cut."""
    rows = []
    for entry in settings["responses"]:
        table = read_table("responses", Path(entry["path"]))
        rows.append(
            {
                "model": entry["model"],
                "system": entry["system"],
                "n": len(table),
                "stopped": fixed(100 * statistics.fmean(row["stopped"] for row in table), 1),
                "tokens": fixed(statistics.fmean(row["tokens"] for row in table), 1),
                "characters": fixed(statistics.fmean(len(row["output"]) for row in table), 1),
                "empty": sum(not row["output"].strip() for row in table),
                "prompts cut": sum(row["cut"] > 0 for row in table),
            }
        )
    return rows


def tuning_table(settings: Row) -> list[Row]:
    """What was tuned on: rows, those cut at the maximum length, turns dropped, tokens, first and last loss."""
    rows = []
    for entry in settings["tunings"]:
        record = read_json(entry["path"])
        rows.append(
            {
                "model": entry["model"],
                "mode": entry["mode"],
                "seed": entry["seed"],
                "rows": record["rows"],
                "rows cut": record["rows_cut"],
                "tokens cut": record["tokens_cut"],
                "turns dropped": record["turns_dropped"],
                "trained tokens": record["trained_tokens"],
                "first loss": fixed(record["losses"][0], 3),
                "last loss": fixed(record["losses"][-1], 3),
            }
        )
    return rows


@cache
def response_counts(path: str) -> tuple[int, int, int]:
    """Of a file of responses: how many, how many were not stopped by themselves, how many of their prompts were cut."""
    table = read_table("responses", Path(path))
    return len(table), sum(not row["stopped"] for row in table), sum(row["cut"] > 0 for row in table)


@cache
def response_figures(path: str) -> tuple[float, float]:
    """Of a file of responses: the percentage that stopped by themselves, and the mean of their tokens."""
    table = read_table("responses", Path(path))
    return 100 * statistics.fmean(row["stopped"] for row in table), statistics.fmean(row["tokens"] for row in table)


def footnotes(name: str, settings: Row) -> list[str]:
    """What was cut or changed on the way to tables 1 to 4: a line for each kind of loss that there was, by system.

    Counts are sums over a system's seeds; of the rows and turns that were tuned on, which all seeds share, one seed's.
    """
    figures = [figure for figure in settings["figures"] if name in figure["tables"]]
    summaries = [read_json(figure["path"]) for figure in figures]
    judged = {str(given["path"]) for summary in summaries for given in summary["inputs"].values()}
    responses = [entry for entry in settings["responses"] if str(entry["path"]) in judged]
    systems = [(entry["model"], short(entry["system"])) for entry in responses]
    systems += [(e["model"], short(e["system"])) for e in settings["rankings"] if name == "table2"]
    cut_rows, dropped_turns, unstopped, cut_prompts, protected, by_system = {}, {}, {}, {}, {}, {}
    for entry in settings["tunings"]:
        record = read_json(entry["path"])
        if (entry["model"], entry["mode"]) in systems:
            cut_rows[entry["model"], entry["mode"]] = record["rows_cut"], record["rows"]
            dropped_turns[entry["model"], entry["mode"]] = record["turns_dropped"], record["turns"]
    for entry, system in zip(responses, systems, strict=False):
        count, open_ended, shortened = response_counts(str(entry["path"]))
        add_counts(unstopped, system, open_ended, count)
        add_counts(cut_prompts, system, shortened, count)
    for figure, summary in zip(figures, summaries, strict=True):
        texts = 3 * summary["n"]  # the instruction and two outputs of each
        add_counts(protected, (figure["model"], short(figure["system"])), summary["protected"], texts)
        by_system.setdefault((figure["model"], short(figure["system"])), []).append(summary)
    lines = [
        listed("Rows cut at tuning.max_length", cut_rows, settings),
        listed("Turns dropped, as no response follows them", dropped_turns, settings),
        listed("Prompts cut, as they left too little of the context", cut_prompts, settings),
        listed("Responses not stopped, but cut off at max_new_tokens or the context", unstopped, settings),
        listed("Texts shown to the judge with their control marks broken up", protected, settings),
        *(joined(what, texts, settings) for what, texts in doubts(by_system).items()),
    ]
    return [line for line in lines if line]


def short(system: str) -> str:
    """A system's name without what all tuned models have in theirs."""
    return system.split("/chosen")[0]


def add_counts(counts: dict[tuple[str, str], tuple[int, int]], system: tuple[str, str], count: int, of: int) -> None:
    """Add to a system's count, and to what it is of."""
    before = counts.get(system, (0, 0))
    counts[system] = before[0] + count, before[1] + of


def listed(what: str, counts: dict[tuple[str, str], tuple[int, int]], settings: Row) -> str:
    """Counts that are not 0, as a line; empty where all are."""
    return joined(
        what, {system: f"{count:,} of {of:,}" for system, (count, of) in counts.items() if count}, settings, ", "
    )


def joined(what: str, texts: dict[tuple[str, str], str], settings: Row, between: str = "; ") -> str:
    """What there is to say of systems, as a line; empty where there is nothing."""
    several = len(settings["models"]) > 1
    told = [f"{f'{model} ' if several else ''}{system} {text}" for (model, system), text in texts.items()]
    return f"{what}: {between.join(told)}." if told else ""


TITLES = {
    "table1": "Table 1: response tuning against instruction tuning, win rate in percent",
    "table2": "Table 2: response ranking capability, percent of pairs",
    "table3": "Table 3: single-task tuning against instruction tuning, win rate in percent",
    "table4": "Table 4: the rule adapter on the base model against instruction tuning, win rate in percent",
    "similarity": "Section 5.2: responses in the style of the tuning data, percent, by quartile of similarity to it",
    "data": "What was read",
    "epochs": "Epoch counts and how they were chosen",
    "tuning": "What was tuned on",
    "responses": "What was generated, shares in percent, means per response",
} | CONTROL_TITLES


def main() -> None:
    args = arguments(__doc__, paths=["output"])
    settings = args.settings
    tables = win_rate_tables(settings)
    others = {"table2": ranking_table, "similarity": similarity_table, "data": data_table}
    others |= {"epochs": epochs_table, "tuning": tuning_table, "responses": responses_table} | CONTROLS
    tables |= {name: rows for name, make in others.items() if (rows := make(settings))}
    for name in settings["tables"]:
        rows = tables[name]
        notes = [settings["note"] or "", NOTES.get(name, "")]
        notes += [CONTROL_NOTE] if name in ("table1", "table3", "table4") else []
        notes += [PAPER_NOTE] if name.startswith("table") else []
        notes += footnotes(name, settings) if name in ("table1", "table2", "table3", "table4") else []
        notes = [note for note in notes if note]
        write_text(to_csv(rows), args.output / f"{name}.csv")
        write_text(to_markdown(rows, title=TITLES[name], notes=notes), args.output / f"{name}.md")
        write_text(to_latex(rows, title=TITLES[name], notes=notes), args.output / f"{name}.tex")
    say(f"{len(settings['tables'])} tables in {args.output}")


if __name__ == "__main__":
    run_stage(main)
