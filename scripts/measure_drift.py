"""What has tuning cost? A tuned model beside its base model, on text that neither was tuned on.

    python scripts/measure_drift.py --base base/model --base-record base/record.json --model poem/model \\
        --model-record poem/record.json --output drift.parquet --recall recall.parquet --summary drift.json \\
        --settings '{"documents": 200, "file": null, "world": 1, "controls": {}, "precision": "float32", "chat": {...}}'

Writes Parquet of kinds ``drift`` (a row for each document) and ``recall`` (for each fact and form; none without a
world), and as JSON perplexities, KL(base || tuned) per token, and the shares of facts that are recalled. Documents are
drawn from the world, or the first rows of a ``file`` that hold a text, in a column ``text``.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from implicit.drift import measure_drift, recalled, summarise
from implicit.render import encode, encode_after
from implicit.world.corpus import Controls
from implicit.world.recall import FactQuestion, fact_questions
from implicit.world.sets import World
from stage.budget import CeilingReached, Ledger
from stage.command import arguments, execution_of, run_stage, say
from stage.costs import scoring_hours
from stage.local_files import is_url, read_rows, take_first
from stage.models import context_length, load_model, load_tokenizer, pick_device
from stage.record import Record, check_record
from stage.storage import write_table

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def read_documents(settings: dict[str, Any]) -> list[str]:
    """The texts: of a file, or drawn from the world. Raises InputError for a file without enough of them."""
    if settings["file"] is None:
        return World(settings["world"]).held_out(settings["documents"], Controls(**settings["controls"]))

    empty = 0

    def texts() -> Iterator[str]:
        nonlocal empty
        for _, row in read_rows(settings["file"], {"text": "text"}):
            if row["text"].strip():
                yield row["text"]
            else:
                empty += 1

    found = take_first(texts(), settings["documents"], key="drift.documents")
    say(f"{len(found):,} documents of {settings['file']}, where {empty:,} rows before the last are empty and skipped")
    return found


def encoded(
    questions: list[FactQuestion], tokenizer: "PreTrainedTokenizerBase", first: list[int]
) -> list[tuple[list[int], list[list[int]]]]:
    """The questions as token ids, ``first`` before each prompt. All prompts end in a letter, so values follow one."""
    values = {
        value: encode_after(tokenizer, FactQuestion.continuation(value), before="a")
        for q in questions
        for value in q.values
    }
    return [(first + encode(tokenizer, q.prompt), [values[value] for value in q.values]) for q in questions]


def main() -> None:
    import torch

    paths = ["base", "base-record", "model", "model-record", "output", "recall", "summary"]
    args = arguments(__doc__, paths=paths, computes=True)
    settings = args.settings
    ledger = Ledger(args.budget, str(args.output))
    for record_path, model_path in ((args.base_record, args.base), (args.model_record, args.model)):
        check_record(record_path, model_path)
    inputs = {"base": args.base, "model": args.model}
    if settings["file"] is not None and not is_url(settings["file"]):
        inputs["file"] = Path(settings["file"])
    execution = execution_of(args, pick_device(args.device))
    record = Record("drift", settings=settings, inputs=inputs, execution=execution)
    torch.set_num_threads(args.threads)
    tokenizer = load_tokenizer(args.model)
    loading = {"device": execution["device"], "precision": settings["precision"]}
    base, tuned = load_model(args.base, **loading), load_model(args.model, **loading)
    first = [tokenizer.bos_token_id] if settings["chat"]["add_bos"] else []
    context = context_length(tuned.config)
    documents = [first + encode(tokenizer, text) for text in read_documents(settings)]
    if ledger.machine:
        tokens = 2 * sum(min(len(ids), context) for ids in documents)
        hours = scoring_hours(ledger.machine, parameters=tuned.num_parameters() / 1e9, tokens=tokens)
        ledger.reserve(gpu_hours=hours)
    computing = {"pad": tokenizer.pad_token_id, "batch_tokens": args.batch, "device": execution["device"]}
    found = measure_drift(base, tuned, [ids[:context] for ids in documents], **computing)
    rows = [
        {"id": str(i), "cut": max(0, len(ids) - context), **vars(drift)}
        for i, (ids, drift) in enumerate(zip(documents, found, strict=True))
    ]
    questions = fact_questions(World(settings["world"]).facts) if settings["world"] is not None else []
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
    say(f"{summary['tokens']:,} tokens of {len(rows)} documents, {summary['cut']:,} cut off at the context")
    for form, told in summary["recall"].items():
        say(f"{form}: {told['base']:.3f} of {told['facts']} facts, tuned {told['tuned']:.3f}")
    say(f"perplexity {summary['base_perplexity']:.3f}, tuned {summary['tuned_perplexity']:.3f}; KL {summary['kl']:.4f}")
    ledger.settle(gpu_hours=record.hours() if execution["device"] == "cuda" else 0.0)
    record.write(args.summary, outputs={"table": args.output, "recall": args.recall}, summary=summary)


if __name__ == "__main__":
    run_stage(main, CeilingReached, if_gpu_is_full="Lower execution.ranking_batch_tokens")
