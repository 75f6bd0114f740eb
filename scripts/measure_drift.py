"""Measure the cost of tuning: compare a tuned model with its base model on text that neither was tuned on.

    python scripts/measure_drift.py --base base/model --base-record base/record.json --model poem/model \\
        --model-record poem/record.json --output drift.parquet --recall recall.parquet --summary drift.json \\
        --settings '{"documents": 200, "file": null, "world_seed": 1, "controls": {},
                     "precision": "float32", "chat": {...}}'

Writes Parquet of kinds ``drift`` (a row per document) and ``recall`` (a row per fact and form; none without a world),
and as JSON perplexities, KL(base || tuned) per token, and the shares of facts recalled. Documents are drawn from the
world, or are the first non-empty rows of the column ``text`` of a ``file``.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from implicit.format.render import Format, encode, encode_after
from implicit.scoring.drift import measure_drift, recalled, summarise
from implicit.world.corpus import Controls
from implicit.world.recall import FactQuestion, fact_questions
from implicit.world.sets import World
from pipeline.config.schema import Drift
from pipeline.config.types import Seed
from pipeline.files.local_files import is_url, read_rows, take_first
from pipeline.files.storage import write_table
from pipeline.jobs.command import arguments, run_stage, say
from pipeline.jobs.costs import scoring_hours
from pipeline.jobs.job import Job, execution_of, job
from pipeline.models.directories import context_length, load_model, load_tokenizer, stored_parameters

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Settings(Drift):
    """The section `drift`, the world that the model knows, if any, and its chat format."""

    harness: None = None
    world_seed: Seed | None
    controls: Controls
    chat: Format


def read_documents(settings: Settings) -> list[str]:
    """Read the texts of a file, or draw them from the world. Raises InputError if a file has too few."""
    if settings.file is None:
        return World(settings.world_seed).held_out(settings.documents, settings.controls)

    empty = 0

    def texts() -> Iterator[str]:
        nonlocal empty
        for _, row in read_rows(settings.file, {"text": "text"}):
            if row["text"].strip():
                yield row["text"]
            else:
                empty += 1

    found = take_first(texts(), settings.documents, key="drift.documents")
    say(f"{len(found):,} documents of {settings.file}; skipped {empty:,} empty rows before the last one")
    return found


def encoded(
    questions: list[FactQuestion], tokenizer: "PreTrainedTokenizerBase", first: list[int]
) -> list[tuple[list[int], list[list[int]]]]:
    """The questions as token ids, with ``first`` before each prompt. Prompts end in a letter, so values follow one."""
    values = {
        value: encode_after(tokenizer, FactQuestion.continuation(value), before="a")
        for q in questions
        for value in q.values
    }
    return [(first + encode(tokenizer, q.prompt), [values[value] for value in q.values]) for q in questions]


def main() -> None:
    paths = ["base", "base-record", "model", "model-record", "output", "recall", "summary"]
    args = arguments(__doc__, paths=paths, settings=Settings, computes=True)
    file = args.settings.file
    inputs = {"base": args.base, "model": args.model, "file": Path(file) if file and not is_url(file) else None}
    execution = execution_of(args, precision=args.settings.precision)
    with job("drift", args, record=args.summary, inputs=inputs, execution=execution) as this:
        compare_models(args, this)


def compare_models(args: argparse.Namespace, this: Job) -> None:
    """Measure drift on documents and recall of facts, and write both tables and their summary."""
    from transformers import AutoConfig

    settings = args.settings
    tokenizer = load_tokenizer(args.model)
    first = [tokenizer.bos_token_id] if settings.chat.add_bos else []
    context = context_length(AutoConfig.from_pretrained(args.model))
    documents = [first + encode(tokenizer, text) for text in read_documents(settings)]
    tokens = 2 * sum(min(len(ids), context) for ids in documents)
    this.reserve(scoring_hours, parameters=stored_parameters(args.model) / 1e9, tokens=tokens)
    base, tuned = (load_model(path, device=this.device, precision=this.precision) for path in (args.base, args.model))
    computing = {"pad": tokenizer.pad_token_id, "batch_tokens": args.batch, "device": this.device, "log": say}
    found = measure_drift(base, tuned, [ids[:context] for ids in documents], **computing)
    rows = [
        {"id": str(i), "cut": max(0, len(ids) - context), **vars(drift)}
        for i, (ids, drift) in enumerate(zip(documents, found, strict=True))
    ]
    questions = fact_questions(World(settings.world_seed).facts) if settings.world_seed is not None else []
    asked = encoded(questions, tokenizer, first)
    answers = zip(questions, *(recalled(model, asked, **computing) for model in (base, tuned)), strict=True)
    facts = [
        {"fact": q.fact, "form": q.form, "key": q.key, "right": q.right, "rivals": len(q.values)}
        | {"base": q.values[before], "tuned": q.values[after]}
        for q, before, after in answers
    ]
    summary = summarise(rows, facts)
    write_table("drift", rows, args.output)
    write_table("recall", facts, args.recall)
    say(f"{summary['tokens']:,} tokens of {len(rows)} documents, {summary['cut']:,} truncated at the context length")
    for form, recall in summary["recall"].items():
        say(f"{form}: {recall['base']:.3f} of {recall['facts']} facts, tuned {recall['tuned']:.3f}")
    this.finish(
        f"perplexity {summary['base_perplexity']:.3f}, tuned {summary['tuned_perplexity']:.3f}; KL {summary['kl']:.4f}",
        outputs={"table": args.output, "recall": args.recall},
        summary=summary,
    )


if __name__ == "__main__":
    run_stage(main, if_gpu_is_full="Lower execution.ranking_batch_tokens")
