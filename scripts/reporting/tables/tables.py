"""Declarations of all tables: the metric that determines the lines, what distinguishes lines, and the columns.

Means are over seeds, ± their standard deviation with n - 1 in the denominator.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reporting.metrics.registry import SCORES
from reporting.metrics.view import Column, Key, Line, Row, View, first, interval, mean, n_of, seeds, text
from reporting.tables.card_table import card_in_short, card_lines, card_notes
from reporting.tables.columns import (
    SYSTEM,
    WIN_RATE_COLUMNS,
    drift_columns,
    each,
    judging_columns,
    kinds_columns,
    ranking_columns,
)
from reporting.tables.condition_tables import condition_lines, condition_notes, world_lines
from reporting.tables.footnotes import footnotes
from reporting.tables.forms import to_csv, to_latex, to_markdown

if TYPE_CHECKING:
    from pandas import DataFrame

SHORT = ("model", "tuning", "right", "right, 95 %", "win rate", "95 %", "stopped", "seeds", "n")
PAPER_NOTE = (
    "The paper's columns are for Llama-2-7B and OLMo-7B, judged by gpt-4-1106-preview, length-controlled (v1). They "
    "show the pattern of the effect; individual values are comparable only for the same model, judge and metric."
)
CONTROL_NOTE = (
    "Win rates are raw; length-controlled ones (length_controlled_minimal) are omitted if the length model is "
    "undefined for any seed: alpaca-eval would then report exactly 50, whatever the outcomes."
)


@dataclass(frozen=True)
class Table:
    """A table: ``main`` selects the rows of its main metric, ``by`` distinguishes its lines."""

    title: str
    needs: frozenset[str]  # what an experiment must have measured
    main: Callable[[View], "DataFrame"] = lambda view: view.metrics
    by: tuple[str, ...] = ("model", "name")
    columns: Callable[[View], list[Column]] = lambda view: []
    system: Callable[[Row], Key] | None = None  # the system of a line's other numbers; its own by default
    make: Callable[[View], list[Line]] | None = None  # for a table that is not made from groups of a main metric
    notes: Callable[[View, "DataFrame"], list[str]] = lambda view, main: []
    forms: tuple[str, ...] = ("csv", "md", "tex")
    short: tuple[str, ...] = ()  # the columns that a paper has room for, in LaTeX; all by default


@dataclass(frozen=True)
class Made:
    """A finished table."""

    name: str
    title: str
    notes: list[str]
    lines: list[Line]

    def form(self, ending: str) -> str:
        """The table as CSV, Markdown or LaTeX."""
        rows = [line.cells for line in self.lines]
        if ending == "csv":
            return to_csv(rows)
        if ending == "md":
            return to_markdown(rows, title=self.title, notes=self.notes)
        short = TABLES[self.name].short
        if not short:
            return to_latex(rows, title=self.title, notes=self.notes, label=self.name)
        kept = [{name: row[name] for name in short if name in row} for row in rows]
        notes = [note for note in self.notes if note not in (CONTROL_NOTE, PAPER_NOTE)]  # on columns that are left out
        return to_latex(kept, title=self.title, notes=[self.caption(), *notes], label=self.name)

    def caption(self) -> str:
        """What the columns of a short table are, by which judge."""
        judges = dict.fromkeys(f"{row.cells['judge']} ({row.cells['metric']})" for row in self.lines)
        return (
            f"Judge: {', '.join(judges)}. After ± is the standard deviation over seeds; 95 % is the interval over "
            "seeds and instructions, of which there are n."
        )


def make_table(name: str, view: View) -> Made:
    """Make one of `TABLES`."""
    table = TABLES[name]
    main = table.main(view)
    if table.make is not None:
        lines = table.make(view)
    else:
        columns, lines = table.columns(view), []
        for group in view.groups(main, table.by, table.system):
            cells = {column.name: column.cell(group) for column in columns}
            lines.append(Line(cells, list(group.sources)))
        for empty in [c.name for c in columns if c.optional and not any(line.cells[c.name] for line in lines)]:
            for line in lines:
                del line.cells[empty]
    notes = [view.note or "", *table.notes(view, main)]
    return Made(name, table.title.replace("AXIS", view.axis), [note for note in notes if note], lines)


def tables_of(measured: set[str]) -> list[str]:
    """The names of the tables for an experiment with these measurements."""
    return [name for name, table in TABLES.items() if table.needs <= measured]


def judged(kinds: Callable[["DataFrame"], "DataFrame"]) -> Callable[[View], "DataFrame"]:
    """The win rates of the base model, and of the systems that ``kinds`` selects."""

    def main(view: View) -> "DataFrame":
        own = view.of("win_rate")
        return own[(own["kind"] == "base") | kinds(own)]

    return main


def under_rules(view: View) -> "DataFrame":
    """The win rates of models that have rules: the base model's, with rules and without."""
    own = view.of("win_rate")
    own = own[own["kind"] != "tuned"]
    return own[own["model"].isin(own[own["kind"] == "rules"]["model"])]


def first_rows(*names: str, **where: str) -> Callable[[View], "DataFrame"]:
    """The rows of some metrics, of one slice or part."""

    def main(view: View) -> "DataFrame":
        own = view.of(*names)
        for column, value in where.items():
            own = own[own[column] == value]
        return own

    return main


def validated(column: str) -> Column:
    """A column of an epoch count's validation; empty if there was only one count."""
    return Column(column, lambda group: next((row[column] for row in group.rows("win_rate", "all")), ""))


def win_rate_table(title: str, main: Callable[[View], "DataFrame"], *needs: str) -> Table:
    """Tables 1, 3 and 4."""
    return Table(
        title,
        frozenset({"judge", *needs}),
        main,
        columns=lambda view: WIN_RATE_COLUMNS,
        notes=lambda view, main: [CONTROL_NOTE, PAPER_NOTE, *card_in_short(view), *footnotes(view, main)],
        short=SHORT,
    )


TABLES = {
    "conditions": Table(
        "Conditions: AXIS", frozenset({"conditions"}), make=condition_lines, notes=condition_notes,
    ),
    "conditions_by_world": Table("Results by world", frozenset({"conditions"}), make=world_lines, forms=("csv",)),
    "table1": win_rate_table(
        "Table 1: response tuning against instruction tuning, win rate in percent",
        judged(lambda rows: (rows["kind"] == "tuned") & (rows["turn"] != "shown")),
    ),
    "table2": Table(
        "Table 2: response ranking capability, percent of pairs", frozenset({"rank"}),
        first_rows("capability", slice="any", part="sequence"), columns=ranking_columns,
        notes=lambda view, main: [PAPER_NOTE, *footnotes(view, main)],
    ),
    "table3": win_rate_table(
        "Table 3: single-task tuning against instruction tuning, win rate in percent",
        judged(lambda rows: (rows["kind"] == "tuned") & (rows["turn"] == "shown")),
    ),
    "table4": win_rate_table(
        "Table 4: the rule adapter on the base model against instruction tuning, win rate in percent",
        under_rules, "rules",
    ),
    "similarity": Table(
        "Section 5.2: responses in the style of the tuning data, percent, by quartile of instruction similarity",
        frozenset({"similarity"}), first_rows("adherence"), ("model", "name", "slice"),
        lambda view: [
            *SYSTEM, text("style", "slice"),
            *(mean(part, "adherence", part=part) for part in each(view.of("adherence"), "part")),
            n_of("n of a quartile", "adherence", part="lowest"),
            mean("similarity, rank correlation", "similarity_correlation", "all", ""),
        ],
    ),
    "kinds": Table(
        "Mean quality of responses by kind of request", frozenset({"oracle"}),
        first_rows("oracle_quality", slice="all"), columns=kinds_columns,
        notes=lambda view, main: ["Quality is the oracle's, in [0, 1]."],
    ),
    "judging": Table(
        "Win rate against instruction tuning under other judges of the same pairs, percent", frozenset({"oracle"}),
        first_rows("rejudged_win_rate", slice="judged"), columns=judging_columns, notes=lambda view, main: [
            "Content: without the oracle's deductions for length and not stopping. Right: correctness only. "
            "Similar length: pairs in which neither output is more than 1.25 times as long as the other, in "
            "characters; their n is over all seeds."
        ],
    ),
    "ranking_controls": Table(
        "Response ranking by kind of negatives, with and without EOS, percent of pairs", frozenset({"rank"}),
        first_rows("capability"), ("model", "name", "slice", "part"), lambda view: [
            *SYSTEM, Column("negatives", lambda group: group.first["slice"].replace("_", " ")),
            Column("score", lambda group: SCORES[group.first["part"]][0]),
            Column("EOS", lambda group: "with" if SCORES[group.first["part"]][1] else "without"),
            mean("capability", "capability", spread=True), interval("95 %", "capability"),
            mean("ties", "ranking_ties"), seeds(), first("instructions", "ranked", part=""),
            n_of("pairs", "capability"), first("left out", "left_out", part=""), first("fewer", "fewer", part=""),
        ],
        notes=lambda view, main: [
            "Negatives of the same kind, and of another kind with the same format, are wrong according to the oracle. "
            "Left out: instructions without any; fewer: those with fewer than requested."
        ],
    ),
    "checks": Table(
        "Checks of responses without a judge, percent passed", frozenset({"checks"}), first_rows("prompts_passed"),
        ("model", "name", "slice", "part"), lambda view: [
            *SYSTEM, text("set", "slice"), text("way", "part"),
            mean("prompts", "prompts_passed", spread=True), interval("prompts, 95 %", "prompts_passed"),
            mean("checks", "checks_passed", spread=True), interval("checks, 95 %", "checks_passed"),
            seeds(), n_of("n, prompts", "prompts_passed"), n_of("n, checks", "checks_passed"),
        ],
        notes=lambda view, main: [
            "A prompt passes if all of its checks do. IFEval: by lm-evaluation-harness; GSM8K: by the last number."
        ],
    ),
    "judge_card": Table(
        "The judge's card: agreement with known judgements, percent", frozenset({"card"}), make=card_lines,
        notes=card_notes,
    ),
    "drift": Table(
        "The cost of tuning, on held-out text", frozenset({"drift"}), first_rows("kl"),
        columns=drift_columns, notes=lambda view, main: [
            "KL(base || tuned) per token, over the whole vocabulary. Recall: percentage of facts whose correct value "
            "is the most likely of all."
        ],
    ),
    "harness": Table(
        "lm-evaluation-harness", frozenset({"harness"}), first_rows("harness"), ("model", "name", "slice", "part"),
        lambda view: [
            *SYSTEM, text("task", "slice"), text("metric", "part"), mean("value", "harness", spread=True), seeds(),
        ],
    ),
    "data": Table(
        "Datasets", frozenset(), first_rows("data_rows"), ("source",), lambda view: [
            text("name", "set"), text("kind", "slice"), Column("rows", lambda group: int(group.first["value"])),
            text("source", "origin"), text("sha256"),
        ],
    ),
    "epochs": Table(
        "Epoch counts and how they were chosen", frozenset(), first_rows("chosen"), ("model", "name", "slice"),
        lambda view: [
            text("model"), text("mode", "name"), text("epochs", "slice"),
            mean("validation win rate", "win_rate", "all"), mean("error", "win_rate_error", "all"),
            n_of("n", "win_rate", "all"), validated("judge"), validated("date"),
            Column("chosen", lambda group: "yes" if group.first["value"] else ""),
        ],
        system=lambda row: (row["model"], row["name"], row["slice"]),
        notes=lambda view, main: [*card_in_short(view)],
    ),
    "tuning": Table(
        "Tuning data and losses", frozenset(), first_rows("last_loss"), ("model", "system"), lambda view: [
            text("model"), text("mode", "name"), text("seed"), first("rows", "rows"), first("rows cut", "rows_cut"),
            first("tokens cut", "tokens_cut"), first("turns dropped", "turns_dropped"),
            first("trained tokens", "trained_tokens"), first("first loss", "first_loss"),
            first("last loss", "last_loss"),
        ],
    ),
    "responses": Table(
        "Generation statistics: shares in percent, means per response", frozenset(), first_rows("tokens"),
        ("model", "system"), lambda view: [
            text("model"), text("system"), n_of("n", "tokens"), mean("stopped", "stopped"), mean("tokens", "tokens"),
            mean("characters", "characters"), first("empty", "empty"), mean("repeats", "repeats"),
            mean("distinct bigrams", "distinct_bigrams"), first("prompts cut", "prompts_cut"),
        ],
    ),
}  # fmt: skip
