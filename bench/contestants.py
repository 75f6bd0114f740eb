"""What `bench/run.py` times: each a function that prepares a workload once, and returns what does the work.

A contestant's work is called with nothing, and returns what it did, for the check that all of a race did the same. It
runs in a process of its own (`python bench/contestants.py NAME SIZES`): a line on its standard input starts the work
once, and one line of JSON tells the seconds.
"""

import json
import math
import random
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPE = torch.bfloat16 if DEVICE == "cuda" else torch.float32  # most processors only imitate bfloat16
EOS, PAD, BOS, FIRST = 1, 0, 2, 3
Work = Callable[[], dict[str, Any]]


def model_of(sizes: SimpleNamespace, name: str, *, vocabulary: int | None = None, context: int = 2048) -> Any:
    """A Llama with random weights, float32."""
    torch.manual_seed(0)
    hidden, layers = sizes.models[name]
    config = LlamaConfig(
        vocab_size=vocabulary or sizes.vocabulary,
        hidden_size=hidden,
        intermediate_size=round(hidden * 8 / 3 / 64) * 64,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        max_position_embeddings=context,
        tie_word_embeddings=False,
        eos_token_id=EOS,
        pad_token_id=PAD,
        bos_token_id=BOS,
    )
    return LlamaForCausalLM(config).to(DEVICE)


def tokenizer_of(vocabulary: int) -> PreTrainedTokenizerFast:
    """A tokenizer whose words are numbers: for libraries that will not do without."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"<pad>": PAD, "<eos>": EOS, "<bos>": BOS} | {str(i): i for i in range(FIRST, vocabulary)}
    made = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>")


def tuning_rows(sizes: SimpleNamespace, *, count: int | None = None, length: float = 1.0) -> list[Any]:
    """Rows as long as GSM8K's, from the file if it is there: (prompt ids, response ids), of random tokens.

    Only the lengths matter for speed. Words stand for tokens; ``length`` stretches them.
    """
    rng = random.Random(0)
    count = count or sizes.rows
    path = ROOT / "data" / "gsm8k_train.jsonl"
    if path.is_file():
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[:count]]
        lengths = [
            (round(1.3 * len(row["question"].split())), round(1.6 * len(row["answer"].split()))) for row in lines
        ]
    else:  # the same, by two log-normal distributions fitted to the file's first thousand rows
        lengths = [(round(rng.lognormvariate(4.00, 0.37)), round(rng.lognormvariate(4.26, 0.55))) for _ in range(count)]
    from implicit.render import Rendered

    rows = []
    for prompt, response in lengths:
        prompt, response = max(2, round(length * prompt)), max(2, round(length * response))
        ids = [BOS, *(rng.randrange(FIRST, sizes.vocabulary) for _ in range(prompt + response)), EOS]
        trained = [False] * (1 + prompt) + [True] * (response + 1)
        rows.append(Rendered(ids=ids, trained=trained, cut=0))
    return rows


def tokens_of(rows: list[Any]) -> dict[str, Any]:
    return {"rows": len(rows), "tokens": sum(len(row.ids) for row in rows)}


def ours_tuning(sizes: SimpleNamespace, name: str, rows: list[Any] | None = None) -> Work:
    from implicit.tune import Tuning, tune

    model = model_of(sizes, name)
    rows = rows or tuning_rows(sizes)
    settings = Tuning(
        epochs=1, learning_rate=1e-5, batch_size=64, schedule="constant", warmup=0.0, weight_decay=0.0,
        max_grad_norm=1.0, normalise_by="example", seed=0,
    )  # fmt: skip
    from implicit.sharding import Processes

    def work() -> dict[str, Any]:
        tune(
            model,
            rows,
            settings,
            pad=PAD,
            precision=DTYPE,
            micro_batch_tokens=sizes.micro_batch,
            processes=Processes(device=DEVICE),
        )
        return tokens_of(rows)

    return work


def authors_tuning(sizes: SimpleNamespace, name: str) -> Work:
    """One row at a time, 64 of which are accumulated; the model's own loss, with logits at all positions."""
    model, rows = model_of(sizes, name).train(), tuning_rows(sizes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.0)

    def work() -> dict[str, Any]:
        for start in range(0, len(rows), 64):
            batch = rows[start : start + 64]
            for row in batch:
                ids, labels = (torch.tensor([part], device=DEVICE) for part in (row.ids, row.labels))
                with torch.autocast(DEVICE, dtype=DTYPE, enabled=torch.float32 != DTYPE):
                    loss = model(ids, attention_mask=torch.ones_like(ids), labels=labels).loss
                (loss / len(batch)).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        return tokens_of(rows)

    return work


def trl_tuning(sizes: SimpleNamespace, name: str, how: str) -> Work:
    """TRL's SFTTrainer: padded with micro-batches of 16 rows of like length, packed, or padding-free."""
    import tempfile

    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    rows = tuning_rows(sizes)
    columns: dict[str, Any] = {"input_ids": [row.ids for row in rows]}
    if how == "packed":
        columns |= {"completion_mask": [[int(trained) for trained in row.trained] for row in rows]}
    else:
        columns |= {"labels": [row.labels for row in rows]}
    packed = {"packing": True, "max_length": 1024} if how == "packed" else {"max_length": None}
    if how == "padding-free":
        packed |= {"padding_free": True}
    longest = sizes.trl_rows
    per_step = 64 // longest
    if how == "packed":  # as many tokens a step as 64 rows have
        longest, per_step = 4, max(1, round(64 * tokens_of(rows)["tokens"] / len(rows) / 4096))
    config = SFTConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=longest,
        gradient_accumulation_steps=per_step,
        num_train_epochs=1,
        learning_rate=1e-5,
        lr_scheduler_type="constant",
        completion_only_loss=True,
        train_sampling_strategy="group_by_length" if how == "padded" else "random",
        bf16=torch.bfloat16 == DTYPE,
        use_cpu=DEVICE == "cpu",
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        dataset_kwargs={"skip_prepare_dataset": how != "packed"},
        gradient_checkpointing=False,
        **packed,
    )
    trainer = SFTTrainer(
        model=model_of(sizes, name),
        args=config,
        train_dataset=Dataset.from_dict(columns),
        processing_class=tokenizer_of(sizes.vocabulary),
    )

    def work() -> dict[str, Any]:
        trainer.train()
        return tokens_of(rows)

    return work


def matrix_peak(sizes: SimpleNamespace, name: str) -> Work:
    """As many operations in matrix products as tuning takes by 6 x parameters x tokens, at the best of three shapes."""
    parameters = sum(p.numel() for p in model_of(sizes, name).parameters())
    operations = 6 * parameters * tokens_of(tuning_rows(sizes))["tokens"]
    hidden = sizes.models[name][0]
    shapes = [(2048, 2048, 2048), (4096, hidden, 4 * hidden), (4096, 4 * hidden, hidden)]
    made = [
        (torch.randn(n, k, dtype=DTYPE, device=DEVICE), torch.randn(k, m, dtype=DTYPE, device=DEVICE))
        for n, k, m in shapes
    ]

    def seconds(pair: Any, times: int) -> float:
        started = time.perf_counter()
        for _ in range(times):
            pair[0] @ pair[1]
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    def work() -> dict[str, Any]:
        rates = []
        for (n, k, m), pair in zip(shapes, made, strict=True):
            times = max(1, math.ceil(sizes.peak_operations / (2 * n * k * m)))
            seconds(pair, 1)
            rates.append(2 * n * k * m * times / seconds(pair, times))
        return {"seconds": operations / max(rates)}

    return work


class Stops:
    """Ends each response after a number of tokens that was drawn: in place of a rule adapter, or around one."""

    def __init__(self, lengths: list[int], adapter: Any = None) -> None:
        self.lengths, self.adapter = torch.tensor(lengths, device=DEVICE), adapter

    def start(self, prompts: list[list[int]], device: str) -> None:
        """Begin a batch; a prompt begins with its place."""
        self.left = self.lengths[torch.tensor([place for place, *_ in prompts], device=DEVICE)]
        if self.adapter:
            self.adapter.start([prompt[1:] for prompt in prompts], device)

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with these rows."""
        self.left = self.left[rows]
        if self.adapter:
            self.adapter.keep(rows)

    def add_scores(self, logits: torch.Tensor, chosen: torch.Tensor | None) -> torch.Tensor:
        """Make EOS certain where the length is reached, and impossible elsewhere."""
        if self.adapter:
            logits = self.adapter.add_scores(logits, chosen)
        logits[:, EOS] = torch.where(self.left == 0, torch.inf, -torch.inf)
        self.left = self.left - 1
        return logits


def generation_load(sizes: SimpleNamespace, count: int | None = None) -> tuple[list[list[int]], list[int]]:
    """Prompts and lengths of responses: both log-normal, like AlpacaEval's, the latter up to a limit."""
    rng = random.Random(1)
    count = count or sizes.prompts
    prompts = [
        [
            BOS,
            *(rng.randrange(FIRST, sizes.vocabulary) for _ in range(min(300, round(rng.lognormvariate(3.2, 0.8)) + 4))),
        ]
        for _ in range(count)
    ]
    lengths = [min(sizes.new_tokens, round(rng.lognormvariate(4.3, 0.8)) + 1) for _ in range(count)]
    return prompts, lengths


def rule_adapter(sizes: SimpleNamespace) -> Any:
    from implicit.rules import RuleAdapter, RuleSettings

    scores = {str(FIRST + i): (-1) ** i * (1.0 + i % 4) for i in range(15)}
    settings = RuleSettings(15.0, 250, "hold", scores, -1.5, "response")
    return RuleAdapter(
        settings, ["eos", "uniform", "diversity"], tokenizer_of(sizes.vocabulary), vocab_size=sizes.vocabulary
    )


def ours_generation(sizes: SimpleNamespace, name: str, *, rules: bool = False, count: int | None = None) -> Work:
    from implicit.generate import generate

    model = model_of(sizes, name).to(DTYPE).eval()
    prompts, lengths = generation_load(sizes, count)

    def work() -> dict[str, Any]:
        adapter = Stops(lengths, rule_adapter(sizes) if rules else None)
        found = generate(
            model, prompts, eos=EOS, pad=PAD, max_new_tokens=sizes.new_tokens + 1, context=2048,
            batch_size=sizes.generation_batch, adapter=adapter, device=DEVICE,
            adapter_prompts=[[place, *prompt] for place, prompt in enumerate(prompts)],
        )  # fmt: skip
        return {"lengths": sum(len(response.ids) for response in found)}

    return work


def transformers_generation(sizes: SimpleNamespace, name: str, batch: int) -> Work:
    """transformers' own `generate`, with prompts in the order in which they come.

    One by one, where each prompt costs what it costs, only every eighth is answered, and the seconds are scaled up by
    the number of tokens.
    """
    from transformers import LogitsProcessor

    model = model_of(sizes, name).to(DTYPE).eval()
    prompts, lengths = generation_load(sizes)

    class StopsHere(LogitsProcessor):
        def __init__(self, own: list[int], width: int) -> None:
            self.own, self.width = torch.tensor(own, device=DEVICE), width

        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            scores[:, EOS] = torch.where(self.own <= input_ids.shape[1] - self.width, torch.inf, -torch.inf)
            return scores

    def work() -> dict[str, Any]:
        said, everything, started = 0, sum(lengths), time.perf_counter()
        for start in range(0, len(prompts), 8 if batch == 1 else batch):
            rows, own = prompts[start : start + batch], lengths[start : start + batch]
            width = max(map(len, rows))
            ids = torch.tensor([[PAD] * (width - len(row)) + row for row in rows], device=DEVICE)
            mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=DEVICE)
            found = model.generate(
                ids, attention_mask=mask, max_new_tokens=sizes.new_tokens + 1, do_sample=False, eos_token_id=EOS,
                pad_token_id=PAD, logits_processor=[StopsHere(own, width)],
            )[:, width:]  # fmt: skip
            ended = (found == EOS).int().argmax(dim=1)
            said += int(ended.sum())
        seconds = (time.perf_counter() - started) * everything / said
        return {"seconds": seconds, "lengths": everything if batch == 1 else said}

    return work


def continuous_generation(sizes: SimpleNamespace, name: str) -> Work:
    """transformers' continuous batching, what `generate_batch` is made of: each request with its own limit."""
    from transformers import GenerationConfig

    model = model_of(sizes, name).to(DTYPE).eval()
    prompts, lengths = generation_load(sizes)
    config = GenerationConfig(max_new_tokens=sizes.new_tokens, do_sample=False, eos_token_id=-1, pad_token_id=PAD)

    def work() -> dict[str, Any]:
        said = 0
        with model.continuous_batching_context_manager(generation_config=config, block=True, timeout=60) as manager:
            for prompt, length in zip(prompts, lengths, strict=True):
                manager.add_request(prompt, max_new_tokens=length)
            waiting = len(prompts)
            while waiting:
                result = manager.get_result(timeout=60)
                if result is None:
                    raise RuntimeError(f"{waiting} of {len(prompts)} requests were not answered")
                if result.is_finished():
                    said, waiting = said + len(result.generated_tokens), waiting - 1
        return {"lengths": said}

    return work


def listing_generation(sizes: SimpleNamespace, name: str) -> Work:
    """The paper's listing: one prompt at a time, no cache, a loop over the tokens that were said."""
    model = model_of(sizes, name).to(DTYPE).eval()
    prompts, lengths = generation_load(sizes, sizes.listing_prompts)
    uniform = rule_adapter(sizes).uniform.tolist()
    named = [i for i, score in enumerate(uniform) if score]

    @torch.inference_mode()
    def work() -> dict[str, Any]:
        said = 0
        for prompt, length in zip(prompts, lengths, strict=True):
            ids, response = list(prompt), []
            for t in range(length):
                base = model(torch.tensor([ids], device=DEVICE), use_cache=False).logits[0, -1].log_softmax(dim=-1)
                scores = torch.zeros_like(base)
                for token in named:
                    scores[token] += uniform[token]
                if 0 < t < 250:
                    scores[EOS] += 15.0 * t / 250
                for token in set(response):
                    scores[token] += -1.5
                chosen = base + scores.log_softmax(dim=-1)
                chosen[EOS] = -torch.inf
                token = int(chosen.argmax())
                ids.append(token)
                response.append(token)
            said += len(response)
        return {"lengths": said}

    return work


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


def total_of(logprobs: list[float]) -> dict[str, Any]:
    return {
        "pairs": len(logprobs),
        "logprob": round(sum(logprobs) / len(logprobs), 1 if torch.float32 == DTYPE else -1),
    }


def ours_ranking(sizes: SimpleNamespace, name: str) -> Work:
    from implicit.rank import score_responses

    model, pairs = model_of(sizes, name).to(DTYPE).eval(), ranking_load(sizes)

    def work() -> dict[str, Any]:
        scores = score_responses(model, pairs, pad=PAD, batch_tokens=sizes.ranking_batch, device=DEVICE)
        return total_of([score.logprob for score in scores])

    return work


def authors_ranking(sizes: SimpleNamespace, name: str) -> Work:
    """One pair at a time, with the logits of all positions."""
    model, pairs = model_of(sizes, name).to(DTYPE).eval(), ranking_load(sizes)

    @torch.inference_mode()
    def work() -> dict[str, Any]:
        found = []
        for prompt, response in pairs:
            logits = model(torch.tensor([[*prompt, *response]], device=DEVICE)).logits[0].float().log_softmax(dim=-1)
            target = torch.tensor(response, device=DEVICE)
            found.append(logits[len(prompt) - 1 : -1].gather(1, target[:, None]).sum().item())
        return total_of(found)

    return work


def harness_ranking(sizes: SimpleNamespace, name: str, batch: int) -> Work:
    """lm-evaluation-harness's `loglikelihood`, given the tokens of the same pairs."""
    from lm_eval.models.huggingface import HFLM

    pairs = ranking_load(sizes)
    model = model_of(sizes, name).to(DTYPE).eval()
    judge = HFLM(pretrained=model, tokenizer=tokenizer_of(sizes.vocabulary), batch_size=batch, max_length=2048)
    requests = [((str(i), ""), prompt, response) for i, (prompt, response) in enumerate(pairs)]

    def work() -> dict[str, Any]:
        found = judge._loglikelihood_tokens(requests, disable_tqdm=True)
        return total_of([logprob for logprob, _ in found])

    return work


def judgements(sizes: SimpleNamespace) -> list[dict[str, Any]]:
    """As many rows as AlpacaEval has, with lengths and preferences that depend on each other."""
    rng = random.Random(3)
    rows = []
    for i in range(sizes.judgements):
        first, second = (round(rng.lognormvariate(6.5, 0.6)) + 1 for _ in range(2))
        won = 1 / (1 + math.exp(-0.5 * math.tanh((second - first) / 500) - rng.gauss(0, 1)))
        rows.append({"index": i, "preference": 1 + won, "output_1": "x" * first, "output_2": "y" * second,
                     "generator_1": "one", "generator_2": "two", "annotator": "a"})  # fmt: skip
    return rows


def ours_win_rate(sizes: SimpleNamespace) -> Work:
    from implicit.win_rates import win_rates

    rows = judgements(sizes)

    def work() -> dict[str, Any]:
        return {"n": win_rates(rows, bootstrap=sizes.draws, seed=0)["n"]}

    return work


def alpaca_eval_win_rate(sizes: SimpleNamespace) -> Work:
    """alpaca-eval's own length-controlled win rate, once for the rows and once for each draw of them."""
    import numpy as np
    import pandas as pd
    from alpaca_eval.metrics import get_length_controlled_winrate

    from implicit.win_rates import MINIMAL, length_table

    frame = pd.DataFrame(judgements(sizes))
    draws = np.random.default_rng(0).integers(len(frame), size=(sizes.draws, len(frame)))

    def work() -> dict[str, Any]:
        with length_table(None, len(frame)):
            for draw in [np.arange(len(frame)), *draws]:
                drawn = frame.iloc[draw].reset_index(drop=True).assign(index=range(len(frame)))
                get_length_controlled_winrate(
                    drawn, glm_name=MINIMAL, save_weights_dir=None, is_warn_extreme_changes=False
                )
        return {"n": len(frame)}

    return work


def long_rows(sizes: SimpleNamespace, length: int, *, trained: float = 0.6) -> list[Any]:
    """Rows of one length, as many as a micro-batch holds, of which a share is trained."""
    from implicit.render import Rendered

    rng = random.Random(4)
    prompt = round((1 - trained) * length)
    ids = [[rng.randrange(FIRST, 200) for _ in range(length)] for _ in range(max(1, sizes.micro_batch // length))]
    return [Rendered(ids=row, trained=[False] * prompt + [True] * (length - prompt), cut=0) for row in ids]


def memory_of_tuning(sizes: SimpleNamespace, vocabulary: int, length: int, how: str) -> Work:
    """A step on rows of a length; ``plain``: with the logits of all trained positions at a time."""
    if how == "plain":
        import implicit.likelihood

        implicit.likelihood.AT_A_TIME = 2**60
    sizes.vocabulary = vocabulary
    return ours_tuning(sizes, "memory", long_rows(sizes, length))


def memory_of_ranking(sizes: SimpleNamespace, vocabulary: int, length: int, how: str) -> Work:
    """A batch of pairs of a length; ``plain``: the model's own logits, of all positions at a time."""
    from implicit.rank import score_responses

    sizes.vocabulary = vocabulary
    model, rows = model_of(sizes, "memory").to(DTYPE).eval(), long_rows(sizes, length)
    pairs = [(row.ids[: row.trained.index(True)], row.ids[row.trained.index(True) :]) for row in rows]

    @torch.inference_mode()
    def plain() -> dict[str, Any]:
        ids = torch.tensor([[*prompt, *response] for prompt, response in pairs], device=DEVICE)
        model(ids).logits.float().log_softmax(dim=-1)[:, :-1].gather(2, ids[:, 1:, None])
        return {}

    def work() -> dict[str, Any]:
        score_responses(model, pairs, pad=PAD, batch_tokens=sizes.micro_batch, device=DEVICE)
        return {}

    return plain if how == "plain" else work


def peak_mib() -> int:
    """The most memory that this process has held, in MiB: of the GPU, if it has one."""
    if DEVICE == "cuda":
        return torch.cuda.max_memory_allocated() >> 20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def contestant(name: str, sizes: SimpleNamespace) -> Work:
    """A contestant by its name, as ``KIND[:MODEL[:OPTION]]``."""
    kind, *given = name.split(":")
    numbers = [int(part) if part.isdecimal() else part for part in given]
    made = {
        "tune": ours_tuning,
        "tune-authors": authors_tuning,
        "tune-trl": trl_tuning,
        "peak": matrix_peak,
        "generate": ours_generation,
        "generate-rules": lambda sizes, model: ours_generation(sizes, model, rules=True),
        "generate-rules-few": lambda sizes, model: ours_generation(
            sizes, model, rules=True, count=sizes.listing_prompts
        ),
        "generate-transformers": transformers_generation,
        "generate-continuous": continuous_generation,
        "generate-listing": listing_generation,
        "rank": ours_ranking,
        "rank-authors": authors_ranking,
        "rank-harness": harness_ranking,
        "memory-tune": memory_of_tuning,
        "memory-rank": memory_of_ranking,
        "win-rate": ours_win_rate,
        "win-rate-alpaca-eval": alpaca_eval_win_rate,
        "tune-rows": lambda sizes, model, count: ours_tuning(sizes, model, tuning_rows(sizes, count=count)),
        "tune-length": lambda sizes, model, percent: ours_tuning(
            sizes, model, tuning_rows(sizes, length=percent / 100)
        ),
    }[kind](sizes, *numbers)
    return made


def main() -> None:
    name, sizes = sys.argv[1], SimpleNamespace(**json.loads(sys.argv[2]))
    torch.set_num_threads(sizes.threads)
    told = sys.stdout
    sys.stdout = sys.stderr  # libraries talk
    work = contestant(name, sizes)
    print(json.dumps({"ready": name, "mib": peak_mib()}), file=told, flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        did = work()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        print(json.dumps({"seconds": time.perf_counter() - started, "mib": peak_mib()} | did), file=told, flush=True)


if __name__ == "__main__":
    main()
