"""Do responses follow the style of the tuning data if instructions resemble it (paper, section 5.2 and figure 5)?

    python scripts/measure_similarity.py --set alpaca_eval.parquet --responses responses.parquet --data gsm8k.parquet \\
        --baseline lima.parquet --output similarity.parquet --summary similarity.json --batch 64 \\
        --settings '{"encoder": "nomic-ai/nomic-embed-text-v1", "revision": null}'

Writes Parquet of kind ``similarity`` and its summary as JSON. ``encoder`` is a directory or hub id of any
sentence-embedding model that transformers supports; a model's own code is never run. ``--batch`` is in texts.
"""

import argparse
from typing import TYPE_CHECKING, Any

from implicit.measuring.similarity import STYLES, Encoder, first_turn, similarities, summarise
from implicit.progress import Progress
from pipeline.config.types import Section
from pipeline.files.hub import explained
from pipeline.files.storage import read_table, write_table
from pipeline.jobs.command import InputError, arguments, run_stage, say
from pipeline.jobs.costs import CHARACTERS_PER_TOKEN, scoring_hours
from pipeline.jobs.job import Job, execution_of, job

if TYPE_CHECKING:
    from pathlib import Path


class Settings(Section):
    """The sentence encoder, from a hub or a directory."""

    encoder: str
    revision: str | None


def load_encoder(path: str, revision: str | None) -> Encoder:
    """Load a sentence-embedding model in float32. Raises InputError if weights are missing."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    own = {"revision": revision or "main", "trust_remote_code": False}
    with explained("model", path, revision, Exception):  # an invalid model raises all kinds of errors
        tokenizer = AutoTokenizer.from_pretrained(path, **own)
        own |= {"dtype": torch.float32, "use_safetensors": True}
        model, found = AutoModel.from_pretrained(path, output_loading_info=True, **own)
    # Weights that are not in the file are initialised randomly, with only a warning. The pooler's are not used here.
    missing = [key for key in found["missing_keys"] if "pooler" not in key]
    if missing:
        raise InputError(f"similarity.encoder: {path} lacks weights of a {type(model).__name__}: {sorted(missing)[:3]}")
    return Encoder(model.eval(), tokenizer)


def read_turns(path: "Path") -> tuple[list[str], list[str]]:
    """The first instruction and response of each conversation of a dataset. Raises InputError if a row has none."""
    turns, further = [], 0
    for row in read_table("conversations", path):
        try:
            turns.append(first_turn(row["messages"]))
        except ValueError as error:
            raise InputError(f"{path}, row {row['id']} ({row['source']}): {error}") from None
        further += len(row["messages"]) - 2
    if further:
        say(f"{path}: {further:,} turns after the first two of their conversations are not compared")
    return [instruction for instruction, _ in turns], [response for _, response in turns]


def check_same(asked: list[dict[str, Any]], responses: list[dict[str, Any]]) -> None:
    """Raise InputError unless the responses are those to a set, in its order."""
    for key in ("id", "instruction"):
        if [row[key] for row in asked] != [row[key] for row in responses]:
            raise InputError(f"the responses do not belong to the evaluation set: their column {key!r} differs")
    if len(asked) < 4:
        raise InputError(f"the evaluation set has {len(asked)} instructions, but quartiles need at least 4")


def main() -> None:
    args = arguments(
        __doc__, paths=["set", "responses", "data", "baseline", "output", "summary"], settings=Settings, computes=True
    )
    inputs = {name: getattr(args, name) for name in ("set", "responses", "data", "baseline")}
    execution = execution_of(args)
    with job("similarity", args, record=args.summary, inputs=inputs, execution=execution) as this:
        compare_texts(args, this)


def compare_texts(args: argparse.Namespace, this: Job) -> None:
    """Embed the texts, and write their similarities and a summary."""
    settings = args.settings
    responses = read_table("responses", args.responses)
    check_same(read_table("evaluation_set", args.set), responses)
    tuning_instructions, tuning_responses = read_turns(args.data)
    texts = {
        "instructions": [row["instruction"] for row in responses],
        "outputs": [row["output"] for row in responses],
        "tuning_instructions": tuning_instructions,
        "tuning_responses": tuning_responses,
        "baseline_responses": read_turns(args.baseline)[1],
    }
    encoder = load_encoder(settings.encoder, settings.revision)
    this.reserve(
        scoring_hours,
        parameters=encoder.model.num_parameters() / 1e9,
        tokens=sum(min(len(text) / CHARACTERS_PER_TOKEN, encoder.max_tokens) for own in texts.values() for text in own),
    )
    encoder.model.to(this.device)
    progress = Progress(sum(map(len, texts.values())), "texts", log=say)
    found = {name: encoder.embed(own, batch_size=args.batch, done=progress.advance) for name, own in texts.items()}
    x, y = similarities(**{name: embeddings.vectors for name, embeddings in found.items()})
    rows = [
        {"id": row["id"], "index": row["index"], "x": float(x[i]), "y": float(y[i])}
        | {style: keeps(row["output"]) for style, keeps in STYLES.items()}
        for i, row in enumerate(responses)
    ]
    write_table("similarity", rows, args.output)
    summary = summarise(rows) | {"cut": {name: embeddings.cut for name, embeddings in found.items()}}
    for name, embeddings in found.items():
        say(f"{name}: {len(embeddings.vectors):,} texts, {embeddings.cut:,} truncated at {encoder.max_tokens} tokens")
    spearman = summary["spearman"]
    finding = "undefined, as one of them is constant" if spearman is None else f"{spearman:.3f}"
    this.finish(
        f"{len(rows)} responses, rank correlation of x and y {finding}",
        outputs={"table": args.output},
        summary=summary,
    )


if __name__ == "__main__":
    run_stage(main, if_gpu_is_full="Lower execution.generation_batch_size")
