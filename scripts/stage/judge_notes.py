"""What makes a judge's preferences doubtful, for the tables and their footnotes."""

import statistics
from typing import Any

from stage.table_forms import fixed

Row = dict[str, Any]
System = tuple[str, str]  # a model and its system

# Below or above these a footnote says so. GPT-4 Turbo's labels had a share of 0.99999 in the mean.
LOW_MEAN, LOW_MINIMUM = 0.9, 0.5  # of the labels' share of probability
HIGH_BIAS = 20.0  # percent points beyond a half


def label_share(summaries: list[Row]) -> tuple[float, float] | None:
    """Mean and minimum of the probability that a judge's labels had; None for one that is not read by it."""
    known = [s for s in summaries if s.get("label_share") is not None]
    if not known:
        return None
    return statistics.fmean(s["label_share"] for s in known), min(s["label_share_minimum"] for s in known)


def share_columns(summaries: list[Row]) -> dict[str, str]:
    """The labels' share as columns of a table; empty for a judge that is not read by it."""
    mean, least = label_share(summaries) or (None, None)
    return {
        "label share": "" if mean is None else fixed(mean, 3),
        "label share, minimum": "" if least is None else fixed(least, 3),
    }


def without_shares(rows: list[Row]) -> list[Row]:
    """Rows without the columns of shares, where all are empty."""
    if any(row["label share"] for row in rows):
        return rows
    return [{name: cell for name, cell in row.items() if not name.startswith("label share")} for row in rows]


def position_bias(summaries: list[Row]) -> float | None:
    """By how many percent points more than a half the output shown first wins; None where that is not known.

    From both orders where they were judged, else from random ones.
    """
    found = [s["position_bias"] if s["position_bias"] is not None else s.get("first_shown") for s in summaries]
    known = [bias for bias in found if bias is not None]
    return statistics.fmean(known) if known else None


def doubts(summaries: dict[System, list[Row]]) -> dict[str, dict[System, str]]:
    """What footnotes say of systems, by the beginning of each: low shares of labels, and that the first output wins."""
    low, biased = {}, {}
    for system, own in summaries.items():
        share, bias = label_share(own), position_bias(own)
        if share is not None and (share[0] < LOW_MEAN or share[1] < LOW_MINIMUM):
            low[system] = f"{fixed(share[0], 3)}, minimum {fixed(share[1], 3)}"
        if bias is not None and abs(bias) >= HIGH_BIAS:
            biased[system] = fixed(bias, 1, sign="+")
    return {
        "Labels with little of the judge's probability (1 is all of it), mean": low,
        "Share of comparisons won by the output shown first, in points beyond 50 %": biased,
    }
