"""Compare two experiments, or results of one from two commits: differences in config, data and figures.

    python scripts/compare_results.py results/tiny results/other      (make compare A=results/tiny B=results/other)

A difference counts as real if Welch's t-test between the seeds of both sides gives p < 0.05 after Holm's correction for
the number of figures compared. It tests whether the means differ by more than seeds do; a difference based on a single
seed cannot be distinguished from noise and is reported as undecided.
"""

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config.differences import ABSENT, differences
from pipeline.files.storage import read_json
from pipeline.jobs.command import InputError, run_stage, say
from reporting.metrics.collect import read_metrics
from reporting.metrics.spent import all_records
from reporting.tables.forms import fixed, plus_minus

if TYPE_CHECKING:
    from pandas import DataFrame

ALPHA = 0.05
LEAST = 0.1 / math.sqrt(12)  # lower bound on the standard deviation over seeds, in percentage points
# (metric, slice, part) -> display name.
COMPARED = {
    ("win_rate", "all", ""): "win rate",
    ("lc_win_rate", "all", ""): "length-controlled",
    ("capability", "any", "sequence"): "capability",
    ("capability", "any", "token"): "per token",
}
MUST_AGREE = ("n", "judge", "metric")  # otherwise the numbers are not comparable


def figures(metrics: "DataFrame") -> "DataFrame":
    """The figures to compare, by name: mean and deviation over seeds, and context; without those missing for a seed."""
    import pandas as pd

    key = ["metric", "slice", "part"]
    names = pd.DataFrame([(*of, name) for of, name in COMPARED.items()], columns=[*key, "figure"])
    own = metrics[(metrics["level"] == "seed") & (metrics["opponent"] != "references")]
    own = own.merge(names, on=key)
    own["row"] = own["model"] + ", " + own["label"]
    found = own.groupby(own["row"] + ": " + own["figure"], sort=False).agg(
        mean=("value", "mean"), std=("value", "std"), seeds=("value", "size"), row=("row", "first"),
        n=("n", "first"), judge=("judge", "first"), metric=("judge_metric", "first"),
    )  # fmt: skip
    most = found.groupby("row")["seeds"].transform("max")
    return found[(found["seeds"] == most) | ~found.index.str.endswith(": length-controlled")]


def compared(a: "DataFrame", b: "DataFrame") -> "DataFrame":
    """The figures that both have, with the p-value of Welch's t-test (none with a single seed) and a verdict.

    Deviations below `LEAST` are raised to it: seeds that agree to the last digit do not prove anything. Verdicts use
    Holm's step-down procedure over all figures that can be decided.
    """
    from scipy.stats import ttest_ind_from_stats

    both = figures(a).merge(figures(b), left_index=True, right_index=True, suffixes=("_a", "_b"))
    sides = []
    for side in "ab":
        own = (both[f"mean_{side}"], both[f"std_{side}"].clip(lower=LEAST), both[f"seeds_{side}"])
        sides += [values.to_numpy(float) for values in own]
    both["p"] = ttest_ind_from_stats(*sides, equal_var=False).pvalue
    both["verdict"] = both["p"].isna().map({True: "undecided: one seed", False: "within seed noise"})
    same = (both["mean_a"] == both["mean_b"]) & (both["std_a"].fillna(0) == both["std_b"].fillna(0))
    both.loc[same & (both["seeds_a"] == both["seeds_b"]), "verdict"] = "the same"
    ordered = both["p"].dropna().sort_values()
    differs = (ordered * [*range(len(ordered), 0, -1)] < ALPHA).cummin()
    both.loc[differs[differs].index, "verdict"] = "DIFFERS by more than seeds do"
    for name, row in both.iterrows():
        unlike = [each for each in MUST_AGREE if str(row[f"{each}_a"]) != str(row[f"{each}_b"])]
        both.at[name, "verdict"] += f" (not the same {', '.join(unlike)})" if unlike else ""
    return both


def config_differences(a: Any, b: Any) -> list[str]:
    """The differences between two configs, one line per key."""

    def line(key: str, one: Any, other: Any) -> str:
        if ABSENT in (one, other):
            return f"{key}: only in {'B' if one is ABSENT else 'A'}: {other if one is ABSENT else one}"
        return f"{key}: A {one}, B {other}"

    return [line(*difference) for difference in differences(a, b)]


def changed(a: "DataFrame", b: "DataFrame") -> list[str]:
    """Datasets and evaluation sets in both experiments that differ in their number of rows or their texts."""
    both = [metrics[metrics["metric"] == "data_rows"].set_index(["slice", "set"]) for metrics in (a, b)]
    one, two = (own[~own.index.duplicated(keep="last")] for own in both)
    names = {"value": "rows", "sha256": "sha256"}
    return [
        f"{', '.join(key)}: {label} A {one.at[key, column]:{form}}, B {two.at[key, column]:{form}}"
        for key in one.index.intersection(two.index, sort=False)
        for (column, label), form in zip(names.items(), (".0f", ""), strict=True)
        if one.at[key, column] != two.at[key, column]
    ]


def chosen(metrics: "DataFrame") -> dict[str, str]:
    """The chosen epoch count of each model and mode."""
    rows = metrics[(metrics["metric"] == "chosen") & (metrics["value"] == 1)]
    systems = zip(rows["model"], rows["name"], rows["slice"], strict=True)
    return {f"{model}, {mode}": epochs for model, mode, epochs in systems}


def origin(results: Path) -> str:
    """The commits and package versions named in an experiment's records, as one line."""
    records = all_records(results).values()
    commits = sorted({(record["commit"] or "unknown")[:12] for record in records})
    versions = {
        f"{package} {number}" for r in records for package, number in r["versions"].items() if package == "torch"
    }
    return f"{results}: commit {', '.join(commits) or 'unknown'}; {', '.join(sorted(versions)) or 'no records'}"


def print_section(title: str, lines: list[str], *, nothing: str) -> None:
    """Print lines under a title."""
    say(f"\n{title}")
    for line in lines or [nothing]:
        say(f"  {line}")


def show(both: "DataFrame") -> list[str]:
    """The figures as lines of a table."""
    lines, width = [], max(map(len, both.index), default=0)
    for name, row in both.iterrows():
        one, two = (plus_minus((row[f"mean_{s}"], row[f"std_{s}"] if row[f"seeds_{s}"] > 1 else None)) for s in "ab")
        p = f", p = {row['p']:.2g}" if row["p"] == row["p"] else ""
        verdict = f"{row['verdict']} ({row['seeds_a']} and {row['seeds_b']} seeds{p})"
        difference = fixed(row["mean_b"] - row["mean_a"], 1, sign="+")  # rounded like every other number
        lines.append(f"{name:<{width}}  {one:>12}  {two:>12}  {difference:>7}  {verdict}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("a", type=Path)
    parser.add_argument("b", type=Path)
    args = parser.parse_args()
    for results in (args.a, args.b):
        if not (results / "metrics.parquet").is_file():
            raise InputError(f"{results}: not the results of an experiment, as metrics.parquet is missing")
    a, b = (read_metrics(results / "metrics.parquet") for results in (args.a, args.b))
    configs = [path for path in (args.a / "config.json", args.b / "config.json") if path.is_file()]
    say(f"A  {origin(args.a)}\nB  {origin(args.b)}")
    if len(configs) == 2:
        lines = config_differences(*map(read_json, configs))
        print_section("Config, A and B:", lines, nothing="no difference")
    else:
        print_section(
            "Config:",
            [],
            nothing="not recorded for both (config.json is missing): run both experiments again with this version",
        )
    print_section("Data:", changed(a, b), nothing="no difference")
    one, two = chosen(a), chosen(b)
    epochs = [f"{name}: A {one[name]}, B {two[name]}" for name in one if name in two and one[name] != two[name]]
    print_section("Chosen epochs:", epochs, nothing="no difference")
    both = compared(a, b)
    print_section("Figures: A, B, and B minus A (percentage points):", show(both), nothing="none in common")
    ours, theirs = figures(a).index, figures(b).index
    lonely = [f"{name}: only in A" for name in ours.difference(theirs, sort=False)]
    lonely += [f"{name}: only in B" for name in theirs.difference(ours, sort=False)]
    if lonely:
        print_section("Not on both sides:", lonely, nothing="")
    decidable = both["p"].notna().sum()
    say(
        f"\n'DIFFERS': Welch's t-test between seeds, p < {ALPHA} after Holm's correction for {decidable} figures.\n"
        "Only variation between seeds is considered: other instructions or pre-training runs may give other results.\n"
        "With one seed there is no estimate of the spread, so nothing can be decided."
    )


if __name__ == "__main__":
    run_stage(main)
