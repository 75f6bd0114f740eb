"""What was lost on the way to tables 1 to 4, and what makes a judge's preferences doubtful: lines of systems."""

import statistics
from collections.abc import Iterator
from typing import TYPE_CHECKING

from reporting.metrics.view import View
from reporting.tables.forms import fixed

if TYPE_CHECKING:
    from pandas import DataFrame

# What is told, and the metric that counts it. Counts are sums over the runs that a table shows, and their opponents.
LOSSES = {
    "Rows cut at tuning.max_length": "rows_cut",
    "Turns dropped, as no response follows them": "turns_dropped",
    "Prompts cut, as they left too little of the context": "prompts_cut",
    "Responses not stopped, but cut off at max_new_tokens or the context": "not_stopped",
    "Texts shown to the judge with their control marks broken up": "protected",
}
OF_ONE_SEED = {"rows_cut", "turns_dropped"}  # all seeds share the rows that they were tuned on
# Below or above these a footnote says so. GPT-4 Turbo's labels had a share of 0.99999 in the mean.
LOW_MEAN, LOW_MINIMUM = 0.9, 0.5  # of the labels' share of probability
HIGH_BIAS = 20.0  # percent points beyond a half


def footnotes(view: View, main: "DataFrame") -> list[str]:
    """The losses of the systems in a table, whose main rows are ``main``, and the doubts about their comparisons."""
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
            counts += [f"{named(view, model, name)} {count:,} of {of:,}"] if count else []
        lines += [f"{what}: {', '.join(counts)}."] if counts else []
    own = own[own["source"].isin(main["source"])]
    doubts = {
        "Labels with little of the judge's probability (1 is all of it), mean": low_shares(view, own),
        "Share of comparisons won by the output shown first, in points beyond 50 %": biases(view, own),
    }
    told = {what: "; ".join(texts) for what, texts in doubts.items()}
    return lines + [f"{what}: {texts}." for what, texts in told.items() if texts]


def named(view: View, model: str, name: str) -> str:
    """A system, with its model where there are several."""
    return f"{model} {name}" if len(view.models) > 1 else name


def low_shares(view: View, own: "DataFrame") -> Iterator[str]:
    """Systems whose judge gave its labels little of its probability: mean and minimum over all seeds."""
    for (model, name), rows in own.groupby(["model", "name"], sort=False):
        shares, minima = (rows[rows["metric"] == key]["value"] for key in ("label_share", "label_share_minimum"))
        if len(shares) and (shares.mean() < LOW_MEAN or minima.min() < LOW_MINIMUM):
            yield f"{named(view, model, name)} {fixed(shares.mean(), 3)}, minimum {fixed(minima.min(), 3)}"


def biases(view: View, own: "DataFrame") -> Iterator[str]:
    """Systems in whose comparisons the output shown first wins, or loses, too often.

    From both orders where they were judged, else from those that were drawn.
    """
    for (model, name), rows in own.groupby(["model", "name"], sort=False):
        found: dict[str, float] = {}
        for metric in ("first_shown", "position_bias"):
            known = rows[rows["metric"] == metric]
            found |= dict(zip(known["source"], known["value"], strict=True))
        if found and abs(bias := statistics.fmean(found.values())) >= HIGH_BIAS:
            yield f"{named(view, model, name)} {fixed(bias, 1, sign='+')}"
