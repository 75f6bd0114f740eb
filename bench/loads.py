"""Workloads: models with random weights, rows, prompts, pairs, judgements, the same for all contestants of a race."""

import json
import math
import random
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPE = torch.bfloat16 if DEVICE == "cuda" else torch.float32  # most CPUs only emulate bfloat16
EOS, PAD, BOS, FIRST = 1, 0, 2, 3
Work = Callable[[], dict[str, Any]]


def model_of(sizes: SimpleNamespace, name: str, *, device: str = DEVICE) -> Any:
    """A Llama with random weights in float32, created on the given device."""
    torch.manual_seed(0)
    hidden, layers = sizes.models[name][:2]
    own = dict(zip(("num_attention_heads", "intermediate_size", "vocab_size"), sizes.models[name][2:], strict=False))
    fields = {
        "num_attention_heads": hidden // 32,
        "intermediate_size": round(hidden * 8 / 3 / 64) * 64,
        "vocab_size": sizes.vocabulary,
    } | own
    config = LlamaConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        eos_token_id=EOS,
        pad_token_id=PAD,
        bos_token_id=BOS,
        **fields,
    )
    with torch.device(device):
        return LlamaForCausalLM(config)


def gemma_of(sizes: SimpleNamespace, *, dtype: torch.dtype) -> Any:
    """A model of Gemma 3 270M's shape with random weights: two thirds of its parameters are the embeddings."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    torch.manual_seed(0)
    hidden, layers, feed_forward, vocabulary = sizes.gemma
    config = Gemma3TextConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        intermediate_size=feed_forward,
        vocab_size=vocabulary,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=256,
        query_pre_attn_scalar=256,
        sliding_window=512,
        max_position_embeddings=2048,
        eos_token_id=EOS,
        pad_token_id=PAD,
        bos_token_id=BOS,
    )
    with torch.device(DEVICE):
        return Gemma3ForCausalLM(config).to(dtype)


def best_dtype() -> torch.dtype:
    """What `precision: auto` takes on this machine."""
    from pipeline.models.directories import pick_precision

    return getattr(torch, pick_precision("auto", DEVICE))


def frozen_of(sizes: SimpleNamespace, name: str) -> Any:
    """A model not to be tuned: Gemma's shape, with a load of its own, in the best precision here; others in DTYPE."""
    if name != "gemma":
        return model_of(sizes, name).to(DTYPE).eval()
    vars(sizes).update(sizes.gemma_load, vocabulary=sizes.gemma[-1])
    return gemma_of(sizes, dtype=best_dtype()).eval()


def tokenizer_of(vocabulary: int) -> PreTrainedTokenizerFast:
    """A tokenizer whose words are numbers, for libraries that require one."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"<pad>": PAD, "<eos>": EOS, "<bos>": BOS} | {str(i): i for i in range(FIRST, vocabulary)}
    made = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>")


def tuning_rows(sizes: SimpleNamespace, *, count: int | None = None, length: float = 1.0) -> list[Any]:
    """Rows of random tokens, as long as GSM8K's, taken from the file if it exists: (prompt ids, response ids).

    Only the lengths matter for speed. They are estimated from words and scaled by ``length``.
    """
    rng = random.Random(0)
    count = count or sizes.rows
    path = ROOT / "data" / "gsm8k_train.jsonl"
    if path.is_file():
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[:count]]
        lengths = [
            (round(1.3 * len(row["question"].split())), round(1.6 * len(row["answer"].split()))) for row in lines
        ]
    else:  # the same from two log-normal distributions fitted to the file's first thousand rows
        lengths = [(round(rng.lognormvariate(4.00, 0.37)), round(rng.lognormvariate(4.26, 0.55))) for _ in range(count)]
    from implicit.format.render import Rendered

    rows = []
    for prompt, response in lengths:
        prompt, response = max(2, round(length * prompt)), max(2, round(length * response))
        ids = [BOS, *(rng.randrange(FIRST, sizes.vocabulary) for _ in range(prompt + response)), EOS]
        trained = [False] * (1 + prompt) + [True] * (response + 1)
        rows.append(Rendered(ids=ids, trained=trained, cut=0))
    return rows


def tokens_of(rows: list[Any]) -> dict[str, Any]:
    return {"rows": len(rows), "tokens": sum(len(row.ids) for row in rows)}


def long_rows(sizes: SimpleNamespace, length: int, *, trained: float = 0.6) -> list[Any]:
    """Rows of one length, as many as fit in a micro-batch, with the share ``trained`` of their tokens trained."""
    from implicit.format.render import Rendered

    rng = random.Random(4)
    prompt = round((1 - trained) * length)
    ids = [[rng.randrange(FIRST, 200) for _ in range(length)] for _ in range(max(1, sizes.micro_batch // length))]
    return [Rendered(ids=row, trained=[False] * prompt + [True] * (length - prompt), cut=0) for row in ids]


def generation_load(sizes: SimpleNamespace) -> tuple[list[list[int]], list[int]]:
    """Prompts and response lengths: both log-normal, like AlpacaEval's; responses have at most ``new_tokens``."""
    rng = random.Random(1)
    prompts = [
        [
            BOS,
            *(rng.randrange(FIRST, sizes.vocabulary) for _ in range(min(300, round(rng.lognormvariate(3.2, 0.8)) + 4))),
        ]
        for _ in range(sizes.prompts)
    ]
    lengths = [min(sizes.new_tokens, round(rng.lognormvariate(4.3, 0.8)) + 1) for _ in range(sizes.prompts)]
    return prompts, lengths


def ranking_load(sizes: SimpleNamespace) -> list[tuple[list[int], list[int]]]:
    """Instructions, each with its true response and five others, as long as Alpaca's: (prompt, response) ids."""
    rng = random.Random(2)

    def drawn(mean: float, spread: float) -> list[int]:
        return [
            rng.randrange(FIRST, sizes.vocabulary) for _ in range(min(400, round(rng.lognormvariate(mean, spread)) + 3))
        ]

    count = sizes.instructions
    prompts, responses = (
        [[BOS, *drawn(3.4, 0.6)] for _ in range(count)],
        [[*drawn(3.5, 0.9), EOS] for _ in range(count)],
    )
    return [(prompts[i], responses[j % count]) for i in range(count) for j in range(i, i + 6)]


def judgements(sizes: SimpleNamespace) -> list[dict[str, Any]]:
    """As many rows as AlpacaEval has, with lengths and preferences that depend on each other."""
    rng = random.Random(3)
    rows = []
    for i in range(sizes.judgements):
        first, second = (round(rng.lognormvariate(6.5, 0.6)) + 1 for _ in range(2))
        won = 1 / (1 + math.exp(-0.5 * math.tanh((second - first) / 500) - rng.gauss(0, 1)))
        rows.append({"index": i, "cluster": str(i), "preference": 1 + won, "output_1": "x" * first,
                     "output_2": "y" * second, "generator_1": "one", "generator_2": "two",
                     "annotator": "a"})  # fmt: skip
    return rows


def rule_adapter(vocabulary: int) -> Any:
    from implicit.generation.rules import RuleAdapter, RuleSettings

    scores = {str(FIRST + i): (-1) ** i * (1.0 + i % 4) for i in range(15)}
    settings = RuleSettings(15.0, 250, "hold", scores, -1.5, "response")
    return RuleAdapter(settings, ["eos", "uniform", "diversity"], tokenizer_of(vocabulary), vocab_size=vocabulary)


class Stops:
    """Ends each response after a pre-drawn number of tokens: instead of a rule adapter, or wrapping one."""

    def __init__(self, lengths: list[int], adapter: Any = None) -> None:
        self.lengths, self.adapter = torch.tensor(lengths, device=DEVICE), adapter

    def start(self, prompts: list[list[int]], device: str) -> None:
        """Begin a batch; a prompt begins with its place."""
        self.left = self.lengths[torch.tensor([place for place, *_ in prompts], device=DEVICE)]
        if self.adapter:
            self.adapter.start([prompt[1:] for prompt in prompts], device)

    def keep(self, rows: torch.Tensor) -> None:
        """Keep only these rows."""
        self.left = self.left[rows]
        if self.adapter:
            self.adapter.keep(rows)

    def add_scores(self, logits: torch.Tensor, chosen: torch.Tensor | None) -> torch.Tensor:
        """Force EOS when the length is reached, and forbid it before."""
        if self.adapter:
            logits = self.adapter.add_scores(logits, chosen)
        logits[:, EOS] = torch.where(self.left == 0, torch.inf, -torch.inf)
        self.left = self.left - 1
        return logits
