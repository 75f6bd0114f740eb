"""What is timed against what, on which loads, and the ratios that must be reached."""

from dataclasses import dataclass
from typing import Any

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
