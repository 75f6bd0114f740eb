"""Contestants in tuning: this project, the authors' way, TRL; and the machine's peak performance."""

import math
import tempfile
import time
from types import SimpleNamespace
from typing import Any

import torch
from loads import (
    DEVICE,
    DTYPE,
    PAD,
    Work,
    best_dtype,
    gemma_of,
    long_rows,
    model_of,
    tokenizer_of,
    tokens_of,
    tuning_rows,
)

LONG_ENOUGH = 0.2  # seconds, to measure the peak of a shape


def ours_tuning(sizes: SimpleNamespace, name: str, rows: list[Any] | None = None, *, compiled: bool = False) -> Work:
    from implicit.tuning.tune import Execution, Tuning, tune

    model = model_of(sizes, name)
    rows = rows or tuning_rows(sizes)
    settings = Tuning(
        epochs=1, learning_rate=1e-5, batch_size=64, schedule="constant", warmup=0.0, weight_decay=0.0,
        max_grad_norm=1.0, normalise_by="example", seed=0,
    )  # fmt: skip
    from implicit.tuning.sharding import Processes

    def work() -> dict[str, Any]:
        tune(
            model,
            rows,
            settings,
            Execution(PAD, sizes.micro_batch, DTYPE, compiled=compiled),
            processes=Processes(device=DEVICE),
        )
        return tokens_of(rows)

    return work


LORA_RATE, FULL_RATE, GEMMA_BATCH = 3e-4, 1e-5, 8  # the last: rows of a step
RANK, ALPHA = 16, 32.0


def gemma_rows(sizes: SimpleNamespace, count: int) -> list[Any]:
    """Rows for Gemma's shape, as long as GSM8K's."""
    sizes.vocabulary = sizes.gemma[-1]
    return tuning_rows(sizes, count=count)


def ours_of_gemma(sizes: SimpleNamespace, model: Any, rows: list[Any], rate: float) -> Work:
    """Tuning of the trainable weights of a model of Gemma's shape, as `tune` computes it."""
    from implicit.tuning.sharding import Processes
    from implicit.tuning.tune import Execution, Tuning, tune

    settings = Tuning(
        epochs=1, learning_rate=rate, batch_size=GEMMA_BATCH, schedule="constant", warmup=0.0, weight_decay=0.0,
        max_grad_norm=1.0, normalise_by="example", seed=0,
    )  # fmt: skip
    execution = Execution(PAD, sizes.gemma_micro_batch, best_dtype())

    def work() -> dict[str, Any]:
        tune(model, rows, settings, execution, processes=Processes(device=DEVICE))
        return tokens_of(rows)

    return work


def ours_lora(sizes: SimpleNamespace) -> Work:
    from implicit.tuning.lora import Lora, add_adapters

    model = gemma_of(sizes, dtype=torch.float32)
    add_adapters(model, Lora(RANK, ALPHA, 0.0))
    return ours_of_gemma(sizes, model, gemma_rows(sizes, sizes.lora_rows), LORA_RATE)


def ours_full(sizes: SimpleNamespace) -> Work:
    model = gemma_of(sizes, dtype=torch.float32)
    return ours_of_gemma(sizes, model, gemma_rows(sizes, sizes.full_rows), FULL_RATE)


def plain_of_gemma(model: Any, rows: list[Any], rows_at_once: int, rate: float) -> Work:
    """What anyone would write first: autocast, the loss of 256 positions at a time, padded micro-batches."""
    from torch.nn.functional import cross_entropy, linear

    dtype = best_dtype()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)

    def gradient(part: list[Any]) -> None:
        width = max(len(row.ids) for row in part)
        ids = torch.tensor([row.ids + [PAD] * (width - len(row.ids)) for row in part], device=DEVICE)
        labels = torch.tensor([row.labels + [-100] * (width - len(row.labels)) for row in part], device=DEVICE)[:, 1:]
        mask = labels != -100
        shares = (1 / mask.sum(1, keepdim=True)).expand_as(mask)[mask] / GEMMA_BATCH
        with torch.autocast(DEVICE, dtype=dtype, enabled=dtype != torch.float32):
            states = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1][mask].to(dtype)
            losses = [
                cross_entropy(linear(some, model.lm_head.weight).float(), targets, reduction="none")
                for some, targets in zip(states.split(256), labels[mask].split(256), strict=True)
            ]
        (torch.cat(losses) * shares).sum().backward()

    def work() -> dict[str, Any]:
        for start in range(0, len(rows), GEMMA_BATCH):
            batch = sorted(rows[start : start + GEMMA_BATCH], key=lambda row: len(row.ids))
            for place in range(0, len(batch), rows_at_once):
                gradient(batch[place : place + rows_at_once])
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
        return tokens_of(rows)

    return work


def plain_lora(sizes: SimpleNamespace, rows_at_once: int) -> Work:
    """With peft's adapters, in float32 on weights in the best precision here."""
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(
        gemma_of(sizes, dtype=best_dtype()), LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear")
    )
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return plain_of_gemma(adapted.base_model.model, gemma_rows(sizes, sizes.lora_rows), rows_at_once, LORA_RATE)


def plain_full(sizes: SimpleNamespace, rows_at_once: int) -> Work:
    model = gemma_of(sizes, dtype=torch.float32).train()
    return plain_of_gemma(model, gemma_rows(sizes, sizes.full_rows), rows_at_once, FULL_RATE)


def trl_of_gemma(model: Any, rows: list[Any], rows_at_once: int, rate: float, adapters: Any = None) -> Work:
    """TRL's SFTTrainer, which computes the logits of all positions."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    columns = {"input_ids": [row.ids for row in rows], "labels": [row.labels for row in rows]}
    config = SFTConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=rows_at_once,
        gradient_accumulation_steps=GEMMA_BATCH // rows_at_once,
        num_train_epochs=1,
        learning_rate=rate,
        lr_scheduler_type="constant",
        max_length=None,
        bf16=best_dtype() == torch.bfloat16,
        use_cpu=DEVICE == "cpu",
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        dataset_kwargs={"skip_prepare_dataset": True},
        gradient_checkpointing=False,
    )
    trainer = SFTTrainer(
        model=model,
        args=config,
        train_dataset=Dataset.from_dict(columns),
        processing_class=tokenizer_of(1000),
        peft_config=adapters,
    )

    def work() -> dict[str, Any]:
        trainer.train()
        return tokens_of(rows)

    return work


def trl_lora(sizes: SimpleNamespace, rows_at_once: int) -> Work:
    from peft import LoraConfig

    model, rows = gemma_of(sizes, dtype=best_dtype()), gemma_rows(sizes, sizes.lora_rows)
    adapters = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear")
    return trl_of_gemma(model, rows, rows_at_once, LORA_RATE, adapters)


def trl_full(sizes: SimpleNamespace, rows_at_once: int) -> Work:
    model, rows = gemma_of(sizes, dtype=torch.float32), gemma_rows(sizes, sizes.full_rows)
    return trl_of_gemma(model, rows, rows_at_once, FULL_RATE)


def large_rows(sizes: SimpleNamespace, percent: int) -> list[Any]:
    """Rows for the largest model, with ``percent`` percent of the length of GSM8K's."""
    return tuning_rows(sizes, count=sizes.large_rows, length=percent / 100)


def large_tuning(sizes: SimpleNamespace, name: str, percent: int) -> Work:
    """As on a GPU, with compiled layers."""
    sizes.micro_batch = sizes.large_micro_batch
    return ours_tuning(sizes, name, large_rows(sizes, percent), compiled=True)


def authors_tuning(sizes: SimpleNamespace, name: str) -> Work:
    """One row at a time with gradient accumulation over 64; the model's own loss, with logits at all positions."""
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


def trl_tuning(sizes: SimpleNamespace, name: str, how: str, longest: int) -> Work:
    """TRL's SFTTrainer: padded with micro-batches of ``longest`` rows of similar length, packed, or padding-free."""

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
    per_step = 64 // longest
    if how == "packed":  # as many tokens per step as in 64 rows
        per_step = max(1, round(64 * tokens_of(rows)["tokens"] / len(rows) / (1024 * longest)))
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


def matrix_peak(sizes: SimpleNamespace, name: str, rows: list[Any] | None = None) -> Work:
    """As many matrix product operations as tuning needs (6 x parameters x tokens), at the best of four shapes."""
    parameters = sum(p.numel() for p in model_of(sizes, name, device="meta").parameters())
    operations = 6 * parameters * tokens_of(rows or tuning_rows(sizes))["tokens"]
    hidden = sizes.models[name][0]
    largest = 8192 if DEVICE == "cuda" else 1024
    shapes = [(2048,) * 3, (largest,) * 3, (4096, hidden, 4 * hidden), (4096, 4 * hidden, hidden)]
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
            once = min(seconds(pair, 1), seconds(pair, 1))
            times = math.ceil(LONG_ENOUGH / once)
            rates.append(2 * n * k * m * times / seconds(pair, times))
        return {"seconds": operations / max(rates)}

    return work


def memory_of_tuning(sizes: SimpleNamespace, vocabulary: int, length: int, how: str) -> Work:
    """A step on rows of one length; ``plain``: with the logits of all trained positions at once."""
    if how == "plain":
        import implicit.scoring.likelihood

        implicit.scoring.likelihood.AT_A_TIME = 2**60
    sizes.vocabulary = vocabulary
    return ours_tuning(sizes, "memory", long_rows(sizes, length))
