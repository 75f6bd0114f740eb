"""The contestants that `bench/run.py` times: functions that prepare a workload once and return a function to run it.

A contestant's work takes no arguments and returns what it did, to check that all contestants of a race did the same.
It runs in a process of its own (`python bench/contestants.py NAME SIZES`): each line on its standard input starts the
work once, and one line of JSON reports the seconds.
"""

import json
import resource
import sys
import time
from types import SimpleNamespace

import generation
import llamacpp
import scoring
import torch
import tuning
from loads import DEVICE, Work, tuning_rows


def peak_mib() -> int:
    """The peak memory of this process in MiB: GPU memory, if there is a GPU."""
    if DEVICE == "cuda":
        return torch.cuda.max_memory_allocated() >> 20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def give_back() -> None:
    """Release the GPU memory that torch caches, as the next turn is another contestant's."""
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def contestant(name: str, sizes: SimpleNamespace) -> Work:
    """A contestant by its name, as ``KIND[:MODEL[:OPTION]]``."""
    kind, *given = name.split(":")
    numbers = [int(part) if part.isdecimal() else part for part in given]
    made = {
        "tune": tuning.ours_tuning,
        "tune-authors": tuning.authors_tuning,
        "tune-trl": tuning.trl_tuning,
        "lora": tuning.ours_lora,
        "lora-plain": tuning.plain_lora,
        "lora-trl": tuning.trl_lora,
        "full": tuning.ours_full,
        "full-plain": tuning.plain_full,
        "full-trl": tuning.trl_full,
        "tune-large": tuning.large_tuning,
        "peak": tuning.matrix_peak,
        "peak-large": lambda sizes, model, percent: tuning.matrix_peak(sizes, model, tuning.large_rows(sizes, percent)),
        "generate": generation.ours_generation,
        "generate-rules": lambda sizes, model: generation.ours_generation(sizes, model, rules=True),
        "generate-transformers": generation.transformers_generation,
        "generate-continuous": generation.continuous_generation,
        "generate-listing": generation.listing_generation,
        "generate-llamacpp": llamacpp.server_generation,
        "rank": scoring.ours_ranking,
        "rank-authors": scoring.authors_ranking,
        "rank-harness": scoring.harness_ranking,
        "memory-tune": tuning.memory_of_tuning,
        "memory-rank": scoring.memory_of_ranking,
        "win-rate": scoring.ours_win_rate,
        "win-rate-alpaca-eval": scoring.alpaca_eval_win_rate,
        "tune-rows": lambda sizes, model, count: tuning.ours_tuning(sizes, model, tuning_rows(sizes, count=count)),
        "tune-length": lambda sizes, model, percent: tuning.ours_tuning(
            sizes, model, tuning_rows(sizes, length=percent / 100)
        ),
    }[kind](sizes, *numbers)
    return made


def main() -> None:
    name, sizes = sys.argv[1], SimpleNamespace(**json.loads(sys.argv[2]))
    torch.set_num_threads(sizes.threads)
    reports = sys.stdout
    sys.stdout = sys.stderr  # for what libraries print
    work = contestant(name, sizes)
    give_back()
    print(json.dumps({"ready": name, "mib": peak_mib()}), file=reports, flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        did = work()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        report = {"seconds": time.perf_counter() - started, "mib": peak_mib()} | did
        give_back()
        print(json.dumps(report), file=reports, flush=True)


if __name__ == "__main__":
    main()
