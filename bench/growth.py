"""Measure how time and memory grow, as part of `make bench`.

    python bench/growth.py --output results/bench [--small]

Seconds of a tuning step against the number of rows, their length and the model's size; seconds of a dry run against the
number of jobs; each with the fitted exponent, seconds ~ size^exponent, by least squares on logarithms. And the peak
memory of tuning and ranking, beyond that of the idle model, against row length and vocabulary size: as implemented, and
with the logits of all positions at once.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from run import ROOT, SIZES, SMALL, Contestant, machine

from reporting.tables.forms import to_csv, to_markdown

WIDTHS = (128, 192, 256, 384, 512)  # hidden sizes, of four layers


def exponent(points: list[tuple[float, float]]) -> float:
    """The slope of log(second) against log(first), by least squares."""
    return float(np.polyfit(*np.log(points).T, 1)[0])


def step(name: str, sizes: dict[str, Any], logs: Path) -> dict[str, Any]:
    """The fastest of three turns of a contestant after a warm-up turn."""
    contestant = Contestant(name, sys.executable, sizes, logs / f"{name.replace(':', '-')}.log")
    contestant.turn()
    turns = [contestant.turn() for _ in range(3)]
    contestant.end()
    return min(turns, key=lambda turn: turn["seconds"])


def tuning_growth(sizes: dict[str, Any], logs: Path) -> list[dict[str, Any]]:
    """(what, size, seconds, tokens per second) of tuning steps."""
    rows = []
    names = [("rows", count, f"tune-rows:5M:{count}") for count in (16, 32, 64, 128)]
    names += [("length, percent of GSM8K's", percent, f"tune-length:5M:{percent}") for percent in (50, 100, 200, 400)]
    names += [("width of the model", width, f"tune:w{width}") for width in sizes["widths"]]
    for what, size, name in names:
        turn = step(name, sizes, logs)
        rows.append(
            {"what": what, "size": size, "seconds": turn["seconds"], "per second": turn["tokens"] / turn["seconds"]}
        )
        print(f"  {what} {size}: {turn['seconds']:.2f} s, {rows[-1]['per second']:,.0f} tokens/s", flush=True)
    return rows


def dag_growth(counts: tuple[int, ...]) -> list[dict[str, Any]]:
    """(what, jobs, seconds, jobs per second) of dry runs of the paper's experiment with these numbers of test seeds."""
    rows = []
    for seeds in counts:
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as overlay:
            json.dump({"experiment": f"bench-{seeds}", "run": {"test_seeds": list(range(1, seeds + 1))}}, overlay)
            overlay.flush()
            command = [sys.executable, "-m", "snakemake", "-n", "--cores", "1", "--quiet", "rules"]
            started = time.perf_counter()
            done = subprocess.run(
                [*command, "--configfile", "experiments/paper.yaml", overlay.name],
                cwd=ROOT, capture_output=True, text=True, check=False,
            )  # fmt: skip
            seconds = time.perf_counter() - started
        if done.returncode:
            raise RuntimeError(f"the dry run failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        totals = [line.split() for line in (done.stdout + done.stderr).splitlines() if line.startswith("total ")]
        jobs = int(totals[0][1])
        rows.append({"what": "jobs of a dry run", "size": jobs, "seconds": seconds, "per second": jobs / seconds})
        print(f"  {jobs} jobs: {seconds:.1f} s", flush=True)
    return rows


def memory_growth(sizes: dict[str, Any], logs: Path) -> list[dict[str, Any]]:
    """MiB beyond the idle model, of a step or batch of ``micro_batch`` tokens, or of one longer row."""
    rows = []
    for stage in ("tune", "rank"):
        cases = [("vocabulary", size, size, sizes["memory_length"]) for size in sizes["vocabularies"]]
        cases += [("length", length, sizes["memory_vocabulary"], length) for length in sizes["lengths"]]
        for what, size, vocabulary, length in cases:
            found = {}
            for how in ("plain", "ours"):
                name = f"memory-{stage}:{vocabulary}:{length}:{how}"
                contestant = Contestant(name, sys.executable, sizes, logs / f"{name.replace(':', '-')}.log")
                found[how] = contestant.turn()["mib"] - contestant.prepare()["mib"]
                contestant.end()
            rows.append(
                {
                    "stage": stage,
                    "against": what,
                    "size": size,
                    "all at once, MiB": found["plain"],
                    "MiB": found["ours"],
                }
            )
            print(f"  {stage}, {what} {size}: {found['plain']} MiB all at once, {found['ours']} MiB", flush=True)
    return rows


def draw(rows: list[dict[str, Any]], exponents: dict[str, float], path: Path) -> None:
    """A chart for each kind of growth, on logarithmic axes."""
    import vl_convert

    panels = []
    for what, fitted in exponents.items():
        values = [{"size": row["size"], "seconds": row["seconds"]} for row in rows if row["what"] == what]
        axes = {
            "x": {"field": "size", "type": "quantitative", "scale": {"type": "log"}, "title": what},
            "y": {"field": "seconds", "type": "quantitative", "scale": {"type": "log"}, "title": "seconds"},
        }
        title = f"seconds ~ size^{fitted:.2f}"
        panels.append(
            {"data": {"values": values}, "mark": {"type": "line", "point": True}, "encoding": axes, "title": title}
        )
    spec = {"$schema": "https://vega.github.io/schema/vega-lite/v5.json", "concat": panels, "columns": 2}
    path.write_bytes(vl_convert.vegalite_to_png(spec, scale=2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("results/bench"))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--small", action="store_true", help="tiny sizes, only for testing")
    args = parser.parse_args()
    sizes = SIZES | (SMALL if args.small else {}) | {"threads": args.threads, "micro_batch": 2048}
    sizes |= {"widths": WIDTHS[:2] if args.small else WIDTHS, "memory_length": 1024, "memory_vocabulary": 32_000}
    sizes |= {"vocabularies": (1000, 32_000, 128_000), "lengths": (256, 1024, 4096, 8192)}
    if args.small:
        sizes |= {"vocabularies": (300, 600), "lengths": (64, 128), "memory_length": 64, "memory_vocabulary": 300}
        sizes |= {"micro_batch": 256}
    sizes["models"] = sizes["models"] | {f"w{width}": (width, 4) for width in sizes["widths"]} | {"memory": (64, 2)}
    logs = args.output / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    print("how time grows", flush=True)
    rows = tuning_growth(sizes, logs) + dag_growth((1, 2) if args.small else (1, 5, 20, 80))
    kinds = dict.fromkeys(row["what"] for row in rows)
    exponents = {
        what: exponent([(row["size"], row["seconds"]) for row in rows if row["what"] == what]) for what in kinds
    }
    rows = [row | {"exponent": f"{exponents[row['what']]:.2f}"} for row in rows]
    print("how memory grows", flush=True)
    memory = memory_growth(sizes, logs)
    for name, table in (("growth", rows), ("memory", memory)):
        table = [
            {key: f"{value:.3g}" if isinstance(value, float) else value for key, value in row.items()} for row in table
        ]
        (args.output / f"{name}.csv").write_text(to_csv(table), encoding="utf-8")
        notes = machine(sys.executable)
        (args.output / f"{name}.md").write_text(to_markdown(table, title=name, notes=notes), encoding="utf-8")
    draw(rows, exponents, args.output / "growth.png")
    print((args.output / "memory.md").read_text(encoding="utf-8"))
    print("exponents: " + ", ".join(f"{what} {value:.2f}" for what, value in exponents.items()))


if __name__ == "__main__":
    main()
