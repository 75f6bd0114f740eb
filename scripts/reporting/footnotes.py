"""What was cut or changed on the way to tables 1 to 4: a line for each kind of loss that there was, by system."""

from typing import TYPE_CHECKING

from reporting.view import View

if TYPE_CHECKING:
    from pandas import DataFrame

# What is told, and the metric that counts it. Counts are sums over the runs that a table shows, and their opponents.
LOSSES = {
    "Rows cut at tuning.max_length": "rows_cut",
    "Prompts cut, as they left too little of the context": "prompts_cut",
    "Responses not stopped, but cut off at max_new_tokens or the context": "not_stopped",
    "Texts shown to the judge with their control marks broken up": "protected",
}
OF_ONE_SEED = {"rows_cut"}  # all seeds share the rows that they were tuned on


def footnotes(view: View, main: "DataFrame") -> list[str]:
    """The losses of the systems in a table, whose main rows are ``main``."""
    pairs = {*zip(main["model"], main["system"], strict=True), *zip(main["model"], main["opponent"], strict=True)}
    shown = [pair in pairs for pair in zip(view.metrics["model"], view.metrics["system"], strict=True)]
    own = view.metrics[shown]
    lines = []
    for what, metric in LOSSES.items():
        rows = own[own["metric"] == metric]
        if metric == "protected":  # of the comparisons themselves
            rows = rows[rows["source"].isin(main["source"])]
        elif metric not in OF_ONE_SEED and not main["opponent"].any():  # nothing that was generated is shown
            continue
        counts = []
        for (model, name), each in rows.groupby(["model", "name"], sort=False):
            each = each.tail(1) if metric in OF_ONE_SEED else each
            count, of = int(each["value"].sum()), int(each["n"].sum())
            several = f"{model} " if len(view.models) > 1 else ""
            counts += [f"{several}{name} {count:,} of {of:,}"] if count else []
        lines += [f"{what}: {', '.join(counts)}."] if counts else []
    return lines
