"""Time this project against what a user would use instead, on the same work: `make bench`.

    python bench/run.py --output results/bench [--peers .venv-peers/bin/python] [--only tuning,ranking] [--small]

Contestants of a race take turns, each in a persistent process, so that anything that slows the machine affects all of
them. The table has ratios of seconds (the peer's over ours) of neighbouring turns: minimum, median, maximum. Absolute
figures are printed and kept, but say nothing about another machine, or this one on another day. RACES defines what is
timed against what, and the required ratios.
"""

import argparse
import json
import os
import platform
import select
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import torch

from reporting.tables.forms import to_csv, to_markdown

SIZES: dict[str, Any] = {
    # Hidden size, layers; optionally, instead of the defaults: heads, feed-forward width, vocabulary.
    "models": {"5M": (256, 4), "25M": (512, 6), "7B": (4096, 32, 32, 11008, 32000)},  # the last is Llama-2-7B's shape
    "vocabulary": 4096,
    "rows": 64,  # for tuning: one optimizer step
    # Ours; like generation_batch and ranking_batch, the best on two cores. Peers' sizes are part of their names.
    "micro_batch": 1024,  # tokens, padding included
    "large_rows": 128,  # for the 7B model: two steps, the second with the optimizer state in memory
    "large_micro_batch": 2048,  # 4096 does not fit in 140 GB
    "prompts": 256,
    "new_tokens": 256,
    "generation_batch": 128,
    "listing_prompts": 8,
    "instructions": 200,
    "ranking_batch": 2048,
    "judgements": 805,
    "draws": 200,
    # Gemma 3 270M's shape: hidden size, layers, feed-forward width, vocabulary.
    "gemma": (640, 18, 2048, 262144),
    "lora_rows": 24,  # three steps
    "full_rows": 16,  # two steps, the second with the optimizer state in memory
    "gemma_micro_batch": 1024,
    "gemma_load": {"prompts": 64, "new_tokens": 64, "generation_batch": 64, "instructions": 20},
}
ON_A_GPU = {"micro_batch": 8192, "generation_batch": 256, "ranking_batch": 16384}
SMALL = {
    "models": {"5M": (64, 2), "25M": (64, 2), "7B": (64, 2, 2, 128, 300)},
    "rows": 8,
    "large_rows": 8,
    "prompts": 8,
    "new_tokens": 12,
}
SMALL |= {"generation_batch": 8, "listing_prompts": 2, "instructions": 6, "judgements": 60, "draws": 3}
SMALL |= {"vocabulary": 300, "gemma": (64, 2, 96, 400), "lora_rows": 16, "full_rows": 16}
SMALL |= {"gemma_load": {"prompts": 8, "new_tokens": 8, "generation_batch": 8, "instructions": 6}}


@dataclass(frozen=True)
class Race:
    """Ours and what it is timed against: if several, the fastest counts. ``peers`` need their own environment."""

    work: str
    ours: str
    against: str
    theirs: tuple[str, ...]
    required: float  # the ratio that must be reached, seconds of theirs over ours
    aim: float
    peers: bool = False
    fewer: int = 1  # divides the number of repeats, for slow peers


TRL_WAYS = ("padded:4", "padded:16", "packed:4", "padding-free:16")  # rows of a micro-batch

RACES = (
    *(
        race
        for size, fewer, ways in (("5M", 1, TRL_WAYS), ("25M", 2, TRL_WAYS[:2]))  # to save time
        for race in (
            Race(f"tuning {size}", f"tune:{size}", "one row at a time", (f"tune-authors:{size}",), 3, 5, fewer=fewer),
            Race(
                f"tuning {size}",
                f"tune:{size}",
                "TRL's SFTTrainer, the best of its ways",
                tuple(f"tune-trl:{size}:{way}" for way in ways),
                1.3,
                2,
                peers=True,
                fewer=fewer,
            ),
            Race(
                f"tuning {size}",
                f"tune:{size}",
                "the peak of matrix products",
                (f"peak:{size}",),
                0.35,
                0.6,
                fewer=fewer,
            ),
        )
    ),
    Race("adapters of Gemma's shape", "lora", "a plain loop", ("lora-plain:4", "lora-plain:8"), 1.3, 2, fewer=2),
    Race("adapters of Gemma's shape", "lora", "TRL's SFTTrainer", ("lora-trl:4",), 1.3, 2, peers=True, fewer=2),
    Race("full tuning of Gemma's shape", "full", "a plain loop", ("full-plain:4", "full-plain:8"), 1.3, 2, fewer=2),
    Race("full tuning of Gemma's shape", "full", "TRL's SFTTrainer", ("full-trl:4",), 1.3, 2, peers=True, fewer=2),
    Race("ranking of Gemma's shape", "rank:gemma", "one pair at a time", ("rank-authors:gemma",), 1.5, 2, fewer=2),
    Race(
        "ranking of Gemma's shape",
        "rank:gemma",
        "lm-evaluation-harness, its best batch size",
        ("rank-harness:gemma:4", "rank-harness:gemma:8", "rank-harness:gemma:16"),
        1.5,
        2,
        peers=True,
        fewer=2,
    ),
    Race(
        "generation of Gemma's shape",
        "generate:gemma",
        "the best batch size of `generate`",
        ("generate-transformers:gemma:16", "generate-transformers:gemma:64"),
        1.3,
        2,
        fewer=2,
    ),
    Race("generation", "generate:5M", "`generate`, one by one", ("generate-transformers:5M:1",), 6, 12, fewer=2),
    Race(
        "generation",
        "generate:5M",
        "the best batch size of `generate`",
        tuple(f"generate-transformers:5M:{rows}" for rows in (16, 32, 64, 256)),
        1.3,
        2,
        fewer=2,
    ),
    Race("generation", "generate:5M", "continuous batching", ("generate-continuous:5M",), 1.3, 2, fewer=2),
    Race("rules", "generate-rules:5M", "the paper's listing", ("generate-listing:5M",), 50, 150, fewer=2),
    Race("rules", "generate-rules:5M", "our generation without them", ("generate:5M",), 0.9, 0.97, fewer=2),
    Race("ranking", "rank:5M", "one pair at a time", ("rank-authors:5M",), 5, 10),
    Race(
        "ranking",
        "rank:5M",
        "lm-evaluation-harness, its best batch size",
        ("rank-harness:5M:4", "rank-harness:5M:8", "rank-harness:5M:16", "rank-harness:5M:64"),
        1.3,
        2,
        peers=True,
    ),
    Race("win rate", "win-rate", "alpaca-eval's for each draw", ("win-rate-alpaca-eval",), 5, 20, fewer=3),
)

# Only without a GPU, as this peer cannot use one.
CPU_RACES = (
    Race(
        "generation of Gemma's shape", "generate:gemma", "llama.cpp's server for AVX2, the best of two precisions",
        ("generate-llamacpp:gemma:BF16", "generate-llamacpp:gemma:Q8_0"), 1.3, 2, peers=True, fewer=2,
    ),
)  # fmt: skip

# Only on a GPU, with 140 GB for tuning. Rows are as long as GSM8K's, and as LIMA's, which are about five times as long.
GPU_RACES = (
    *(
        Race(
            f"tuning 7B, rows of {name}",
            f"tune-large:7B:{percent}",
            "the peak of matrix products",
            (f"peak-large:7B:{percent}",),
            0.5,
            0.6,
            fewer=2,
        )
        for name, percent in (("GSM8K", 100), ("LIMA", 500))
    ),
    Race("rules 7B", "generate-rules:7B", "our generation without them", ("generate:7B",), 0.9, 0.97, fewer=2),
    Race(
        "generation 7B", "generate:7B", "the best batch size of `generate`",
        ("generate-transformers:7B:64", "generate-transformers:7B:256"), 1.3, 2, fewer=2,
    ),
)  # fmt: skip


class Contestant:
    """A process that prepares its work and does it on request."""

    def __init__(self, name: str, python: str, sizes: dict[str, Any], log: Path) -> None:
        self.name, self.log = name, log
        self.process = subprocess.Popen(
            [python, str(Path(__file__).with_name("contestants.py")), name, json.dumps(sizes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            text=True,
        )
        self.ready: dict[str, Any] | None = None

    def _read(self, limit: float | None = None) -> dict[str, Any]:
        if not select.select([self.process.stdout], [], [], limit)[0]:
            raise TooSlow(f"a turn takes more than {limit:.0f} s")
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} failed; see {self.log}")
        return json.loads(line)

    def prepare(self) -> dict[str, Any]:
        """Wait until it is ready; returns its report at that point."""
        if self.ready is None:
            self.ready = self._read()
        return self.ready

    def turn(self, limit: float | None = None) -> dict[str, Any]:
        """Do the work once, within ``limit`` seconds; returns the seconds taken and what was done.

        Raises RuntimeError if it fails, and TooSlow.
        """
        self.prepare()
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self._read(limit)

    def end(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()  # also closes its streams


class TooSlow(RuntimeError):
    """A contestant's turn exceeds its time limit."""


def patience(race: Race, ours: float) -> float:
    """The time limit of a turn in seconds, given that ours takes ``ours``: no peer may run indefinitely."""
    return max(300.0, 2 * race.aim * ours)


def run_race(race: Race, repeats: int, sizes: dict[str, Any], python: str, folder: Path) -> list[dict[str, Any]]:
    """Run a race: a table row for the fastest peer, and one for each of the others, marked as slower."""
    repeats = max(2, repeats // race.fewer)
    ours = Contestant(race.ours, sys.executable, sizes, folder / f"{race.ours.replace(':', '-')}.log")
    rows = []
    for name in race.theirs:
        log = folder / f"{name.replace(':', '-')}.log"
        theirs = Contestant(name, python if race.peers else sys.executable, sizes, log)
        try:
            warm = ours.turn()
            limit = patience(race, warm["seconds"])
            cold = theirs.turn(limit)
            shared = (warm.keys() & cold.keys()) - {"seconds", "mib"}
            different = {key: (warm[key], cold[key]) for key in shared if warm[key] != cold[key]}
            if different:
                raise RuntimeError(f"{race.ours} and {name} did not do the same: {different}")
            pairs = [(ours.turn()["seconds"], theirs.turn(limit)["seconds"]) for _ in range(repeats)]
        except (RuntimeError, OSError) as error:
            print(f"  {name}: not timed: {error}", flush=True)
            bound = limit / warm["seconds"] if isinstance(error, TooSlow) else None
            rows.append({"name": name, "error": str(error), "bound": bound})
            continue
        finally:
            theirs.end()
        ratios = [second / first for first, second in pairs]
        rows.append({"name": name, "ratios": ratios, "ours": [a for a, _ in pairs], "theirs": [b for _, b in pairs]})
        print(f"  {name}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})", flush=True)
    ours.end()
    timed = [row for row in rows if "ratios" in row]
    best = min(timed, key=lambda row: statistics.median(row["ratios"]), default=None)
    return [table_row(race, row, best is row, repeats) for row in rows]


def table_row(race: Race, row: dict[str, Any], best: bool, repeats: int) -> dict[str, Any]:
    """A row of the table."""
    head = {"work": race.work, "against": race.against, "peer": row["name"]}
    if "error" in row:
        columns = ("min", "median", "max", "required", "aim", "reached", "repeats", "ours s", "theirs s")
        too_slow = row["bound"] is not None
        found = {
            "median": f"> {row['bound']:.0f}" if too_slow else "",
            "reached": "too slow" if too_slow else "not timed",
        }
        return head | dict.fromkeys(columns, "") | found
    middle = statistics.median(row["ratios"])
    reached = (
        ("aim" if middle >= race.aim else "required" if middle >= race.required else "no") if best else "(slower peer)"
    )
    return head | {
        "min": f"{min(row['ratios']):.2f}",
        "median": f"{middle:.2f}",
        "max": f"{max(row['ratios']):.2f}",
        "required": race.required,
        "aim": race.aim,
        "reached": reached,
        "repeats": repeats,
        "ours s": f"{statistics.median(row['ours']):.3f}",
        "theirs s": f"{statistics.median(row['theirs']):.3f}",
    }


def machine(python: str) -> list[str]:
    """The context of the figures: machine, versions, date."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else torch.backends.cpu.get_cpu_capability()
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format=freeze"], capture_output=True, text=True, check=False
    )
    wanted = ("torch==", "transformers==", "trl==", "lm_eval==", "alpaca_eval==", "scikit-learn==", "xllamacpp==")
    versions = [line for line in listed.stdout.splitlines() if line.startswith(wanted)]
    system = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {device}"
    return [
        f"{system}, Python {platform.python_version()}",
        ", ".join(versions),
        time.strftime("%Y-%m-%d %H:%M"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("results/bench"))
    parser.add_argument(
        "--peers",
        help="the Python with TRL, lm-evaluation-harness and llama.cpp installed; without it, they are skipped",
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", help="prefixes of the races to run, such as ranking, separated by commas")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--small", action="store_true", help="tiny sizes, only for testing")
    args = parser.parse_args()
    sizes = SIZES | (ON_A_GPU if torch.cuda.is_available() else {}) | (SMALL if args.small else {})
    sizes |= {"threads": args.threads}
    only = tuple(args.only.split(",")) if args.only else ("",)
    (args.output / "logs").mkdir(parents=True, exist_ok=True)
    notes = [*machine(args.peers or sys.executable), "sizes: " + json.dumps(sizes)]
    notes.append("ratios are seconds of the peer over ours for neighbouring turns; for the peak, the share reached")
    rows: list[dict[str, Any]] = []
    for race in RACES + (GPU_RACES if torch.cuda.is_available() else CPU_RACES):
        title = f"{race.work} against {race.against}"
        if not title.startswith(only) or (race.peers and not args.peers):
            continue
        print(title, flush=True)
        rows += run_race(race, args.repeats, sizes, args.peers or sys.executable, args.output / "logs")
        # Written after each race, as all of them together take an hour.
        (args.output / "speed.csv").write_text(to_csv(rows), encoding="utf-8")
        (args.output / "speed.md").write_text(to_markdown(rows, title="Speed", notes=notes), encoding="utf-8")
    print((args.output / "speed.md").read_text(encoding="utf-8"))
    missed = [row["work"] for row in rows if row["reached"] in ("no", "not timed")]
    print(f"not reached: {', '.join(missed) or 'nothing'}")


if __name__ == "__main__":
    main()
