"""Compare two experiments, or two commits' results of one: what differs in config and data, and which figures differ.

    python scripts/compare_results.py results/tiny results/other      (make compare A=results/tiny B=results/other)

A difference counts as real where Welch's t-test between the seeds of both sides gives p < 0.05, after Holm's correction
for the number of figures that are compared. It asks whether the means differ by more than seeds do; what a single seed
says cannot be told from noise, and is said to be undecided.
"""

import argparse
import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reporting.collect import read_metrics
from reporting.forms import plus_minus
from reporting.spent import all_records
from stage.command import InputError, run_stage, say
from stage.storage import read_json

if TYPE_CHECKING:
    from pandas import DataFrame

ALPHA = 0.05
LEAST = 0.1 / math.sqrt(12)  # the least standard deviation of seeds that is believed, in percent points
# (metric, slice, part) -> what it is called.
COMPARED = {
    ("win_rate", "all", ""): "win rate",
    ("lc_win_rate", "all", ""): "length-controlled",
    ("capability", "any", "sequence"): "capability",
    ("capability", "any", "token"): "per token",
}
MUST_AGREE = {"n": "n", "judge": "judge", "judge_metric": "metric"}  # or numbers are of different things


@dataclass(frozen=True)
class Side:
    """A figure of one experiment: mean and standard deviation (None for one seed) over ``seeds``."""

    mean: float
    deviation: float | None
    seeds: int


@dataclass
class Difference:
    """A figure that both experiments have; ``p`` is None where nothing can be decided."""

    name: str
    a: Side
    b: Side
    unlike: str  # in what the figures are not of the same thing
    p: float | None = None
    verdict: str = ""


def compared(metrics: "DataFrame") -> dict[str, "DataFrame"]:
    """The rows of each figure that is compared, a seed each, by its name; without those that not every seed has."""
    found = {}
    own = metrics[(metrics["level"] == "seed") & (metrics["opponent"] != "references")]
    for (metric, part, piece), name in COMPARED.items():
        rows = own[(own["metric"] == metric) & (own["slice"] == part) & (own["part"] == piece)]
        for (model, system, label), seeds in rows.groupby(["model", "name", "label"], sort=False):
            judged = own[(own["metric"] == "win_rate") & (own["model"] == model) & (own["name"] == system)]
            if metric != "lc_win_rate" or len(seeds) == len(judged):
                found[f"{model}, {label}: {name}"] = seeds
    return found


def side(rows: "DataFrame") -> Side:
    """A figure of one experiment."""
    values = rows["value"].tolist()
    return Side(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def differences(a: "DataFrame", b: "DataFrame") -> tuple[list[Difference], list[str]]:
    """Figures that both have, and the names of those that only one has."""
    ours, theirs = compared(a), compared(b)
    found = []
    for name in [name for name in ours if name in theirs]:
        one, two = ours[name].iloc[0], theirs[name].iloc[0]
        unlike = [told for column, told in MUST_AGREE.items() if one[column] != two[column]]
        found.append(Difference(name, side(ours[name]), side(theirs[name]), ", ".join(unlike)))
    lonely = [
        f"{name}: only in {'A' if name in ours else 'B'}"
        for name in [*ours, *theirs]
        if (name in ours) != (name in theirs)
    ]
    return found, lonely


def welch(a: Side, b: Side) -> float | None:
    """The p-value of Welch's t-test from means and deviations; None with a single seed on either side.

    Deviations below `LEAST` are taken as that: seeds that agree to the last digit do not prove anything.
    """
    from scipy.stats import ttest_ind_from_stats

    if a.deviation is None or b.deviation is None:
        return None
    spread = [max(each.deviation or 0.0, LEAST) for each in (a, b)]
    return float(ttest_ind_from_stats(a.mean, spread[0], a.seeds, b.mean, spread[1], b.seeds, equal_var=False).pvalue)


def decide(found: list[Difference]) -> None:
    """Give every figure its verdict: Holm's step-down over all that can be decided."""
    for each in found:
        each.p = welch(each.a, each.b)
        each.verdict = "undecided: one seed" if each.p is None else "within the noise of seeds"
        if each.a == each.b:
            each.verdict = "the same"
    decidable = sorted((each for each in found if each.p is not None), key=lambda each: each.p or 0.0)
    for rank, each in enumerate(decidable):
        if (each.p or 0.0) * (len(decidable) - rank) >= ALPHA:
            break
        each.verdict = "DIFFERS by more than seeds do"
    for each in found:
        each.verdict += f" (not the same {each.unlike})" if each.unlike else ""


def config_differences(a: Any, b: Any, name: str = "") -> list[str]:
    """What differs between two configs, a line for each key; a section that only one has is one line."""
    if not (isinstance(a, dict) and isinstance(b, dict)):
        return [] if a == b else [f"{name}: A {a}, B {b}"]
    lines = []
    for key in dict.fromkeys([*a, *b]):
        inner = f"{name}.{key}" if name else key
        if key in a and key in b:
            lines += config_differences(a[key], b[key], inner)
        else:
            lines.append(f"{inner!s}: only in {'A' if key in a else 'B'}: {a.get(key, b.get(key))}")
    return lines


def changed(a: "DataFrame", b: "DataFrame") -> list[str]:
    """Datasets and evaluation sets of both experiments that differ, in how many rows or in their texts."""
    both = [metrics[metrics["metric"] == "data_rows"].set_index(["slice", "set"]) for metrics in (a, b)]
    one, two = (own[~own.index.duplicated(keep="last")] for own in both)
    names = {"value": "rows", "sha256": "sha256"}
    return [
        f"{', '.join(key)}: {told} A {one.at[key, column]:{form}}, B {two.at[key, column]:{form}}"
        for key in one.index.intersection(two.index, sort=False)
        for (column, told), form in zip(names.items(), (".0f", ""), strict=True)
        if one.at[key, column] != two.at[key, column]
    ]


def chosen(metrics: "DataFrame") -> dict[str, str]:
    """The epoch count of each model and mode."""
    rows = metrics[(metrics["metric"] == "chosen") & (metrics["value"] == 1)]
    systems = zip(rows["model"], rows["name"], rows["slice"], strict=True)
    return {f"{model}, {mode}": epochs for model, mode, epochs in systems}


def origin(results: Path) -> str:
    """The commits and package versions that the records of an experiment name, in a line."""
    records = all_records(results).values()
    commits = sorted({(record["commit"] or "unknown")[:12] for record in records})
    versions = {
        f"{package} {number}" for r in records for package, number in r["versions"].items() if package == "torch"
    }
    return f"{results}: commit {', '.join(commits) or 'unknown'}; {', '.join(sorted(versions)) or 'no records'}"


def told(title: str, lines: list[str], *, nothing: str) -> None:
    """Print lines under a title."""
    say(f"\n{title}")
    for line in lines or [nothing]:
        say(f"  {line}")


def show(found: list[Difference]) -> list[str]:
    """The figures as lines of a table."""
    lines = []
    width = max((len(each.name) for each in found), default=0)
    for each in found:
        sides = [plus_minus((s.mean, s.deviation)) for s in (each.a, each.b)]
        seeds = f"{each.a.seeds} and {each.b.seeds} seeds"
        p = "" if each.p is None else f", p = {each.p:.2g}"
        change = each.b.mean - each.a.mean
        lines.append(
            f"{each.name:<{width}}  {sides[0]:>12}  {sides[1]:>12}  {change:>+7.1f}  {each.verdict} ({seeds}{p})"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("a", type=Path)
    parser.add_argument("b", type=Path)
    args = parser.parse_args()
    for results in (args.a, args.b):
        if not (results / "metrics.parquet").is_file():
            raise InputError(f"{results}: no results of an experiment, as it has no metrics.parquet")
    a, b = (read_metrics(results / "metrics.parquet") for results in (args.a, args.b))
    configs = [path for path in (args.a / "config.json", args.b / "config.json") if path.is_file()]
    say(f"A  {origin(args.a)}\nB  {origin(args.b)}")
    if len(configs) == 2:
        lines = config_differences(*map(read_json, configs))
        told("Config, A and B:", lines, nothing="no difference")
    else:
        told(
            "Config:",
            [],
            nothing="not recorded on both sides (config.json): run both experiments again with this version",
        )
    told("Data:", changed(a, b), nothing="no difference")
    one, two = chosen(a), chosen(b)
    epochs = [f"{name}: A {one[name]}, B {two[name]}" for name in one if name in two and one[name] != two[name]]
    told("Chosen epochs:", epochs, nothing="no difference")
    found, lonely = differences(a, b)
    decide(found)
    told("Figures, A, B, and B less A (percent points):", show(found), nothing="none that both have")
    if lonely:
        told("Not on both sides:", lonely, nothing="")
    decidable = sum(each.p is not None for each in found)
    say(
        f"\n'DIFFERS': Welch's t-test between seeds, p < {ALPHA} after Holm's correction for {decidable} figures.\n"
        "Only seeds are drawn anew: other instructions, or another pre-training, may give something else.\n"
        "One seed has no spread: nothing is decided from it."
    )


if __name__ == "__main__":
    run_stage(main)
