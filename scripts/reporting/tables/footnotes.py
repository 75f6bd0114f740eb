"""Footnotes to tables 1 to 4: what was lost on the way, and reasons to doubt a judge's preferences, by system."""

import statistics
from collections.abc import Iterator
from typing import TYPE_CHECKING

from reporting.metrics.view import View
from reporting.tables.forms import fixed

if TYPE_CHECKING:
    from pandas import DataFrame

# Footnote -> the metric that counts it. Counts are sums over the runs in a table, and their opponents.
LOSSES = {
    "Rows truncated at tuning.max_length": "rows_cut",
    "Turns dropped because no response follows them": "turns_dropped",
    "Prompts truncated because they left too little of the context": "prompts_cut",
    "Responses that did not stop before max_new_tokens or the end of the context": "not_stopped",
    "Texts shown to the judge with special markers broken up": "protected",
}
OF_ONE_SEED = {"rows_cut", "turns_dropped"}  # all seeds share the rows that they were tuned on
# A footnote appears below the first two, and above the last. GPT-4 Turbo's labels had a mean share of 0.99999.
LOW_MEAN, LOW_MINIMUM = 0.9, 0.5  # of the labels' share of probability
HIGH_BIAS = 20.0  # percentage points beyond a half


def footnotes(view: View, main: "DataFrame") -> list[str]:
    """The losses of the systems in a table with main rows ``main``, and doubts about their comparisons."""
    pairs = {*zip(main["model"], main["system"], strict=True), *zip(main["model"], main["opponent"], strict=True)}
    shown = [pair in pairs for pair in zip(view.metrics["model"], view.metrics["system"], strict=True)]
    own = view.metrics[shown]
    lines = []
    for what, metric in LOSSES.items():
        rows = own[own["metric"] == metric]
        if metric == "protected":  # belongs to the comparisons themselves
            rows = rows[rows["source"].isin(main["source"])]
        elif metric not in OF_ONE_SEED and not main["opponent"].any():  # the table shows no generated responses
            continue
        counts = []
        for (model, name), each in rows.groupby(["model", "name"], sort=False):
            each = each.tail(1) if metric in OF_ONE_SEED else each
            count, of = int(each["value"].sum()), int(each["n"].sum())
            counts += [f"{named(view, model, name)} {count:,} of {of:,}"] if count else []
        lines += [f"{what}: {', '.join(counts)}."] if counts else []
    own = own[own["source"].isin(main["source"])]
    doubts = {
        "Low probability of the labels in the judge's answers (1 is the maximum), mean": low_shares(view, own),
        "Share of comparisons won by the output shown first, in percentage points above 50 %": biases(view, own),
    }
    joined = {what: "; ".join(texts) for what, texts in doubts.items()}
    return lines + [f"{what}: {texts}." for what, texts in joined.items() if texts]


def named(view: View, model: str, name: str) -> str:
    """A system's name, with its model if there are several."""
    return f"{model} {name}" if len(view.models) > 1 else name


def low_shares(view: View, own: "DataFrame") -> Iterator[str]:
    """Systems whose judge gave its labels low probability: mean and minimum over all seeds."""
    for (model, name), rows in own.groupby(["model", "name"], sort=False):
        shares, minima = (rows[rows["metric"] == key]["value"] for key in ("label_share", "label_share_minimum"))
        if len(shares) and (shares.mean() < LOW_MEAN or minima.min() < LOW_MINIMUM):
            yield f"{named(view, model, name)} {fixed(shares.mean(), 3)}, minimum {fixed(minima.min(), 3)}"


def biases(view: View, own: "DataFrame") -> Iterator[str]:
    """Systems in whose comparisons the output shown first wins, or loses, too often.

    Computed from both orders if they were judged, otherwise from the drawn ones.
    """
    for (model, name), rows in own.groupby(["model", "name"], sort=False):
        found: dict[str, float] = {}
        for metric in ("first_shown", "position_bias"):
            known = rows[rows["metric"] == metric]
            found |= dict(zip(known["source"], known["value"], strict=True))
        if found and abs(bias := statistics.fmean(found.values())) >= HIGH_BIAS:
            yield f"{named(view, model, name)} {fixed(bias, 1, sign='+')}"
