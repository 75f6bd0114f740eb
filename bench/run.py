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
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import torch
from races import CPU_RACES, GPU_RACES, ON_A_GPU, RACES, SIZES, SMALL, Race

from reporting.tables.forms import to_csv, to_markdown


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
