"""Rewrite the responses of a dataset that restate their instruction (paper, appendix C): Parquet of ``conversations``.

    python scripts/rewrite_dataset.py --data lima.parquet --output rewritten.parquet --record rewritten.json \\
        --answers rewritten.answers.jsonl --settings '{
            "server": {"base_url": "http://localhost:8000/v1", "model": "...", "key_variable": "OPENAI_API_KEY",
                       "request": {"temperature": 0}, "price": {"input": 0, "output": 0}},
            "detect": "... {instruction} ... {response} ...", "rewrite": "... {instruction} ... {response} ..."}'

Every answer is kept in ``--answers`` as it comes, which may lie anywhere but among a rule's outputs: a run that was
stopped asks only for the rest.
"""

import argparse

from implicit.data.rewriting import IncompleteRewriting, RewritingError, rewrite
from implicit.servers.answers import Answers, AnswersError
from implicit.servers.chat_client import Asked, ChatServer, ServerError
from pipeline.config.judges import Rewriting
from pipeline.files.storage import read_table, write_table
from pipeline.jobs.command import arguments, run_stage, say
from pipeline.jobs.job import Job, job


def main() -> None:
    args = arguments(__doc__, paths=["data", "output", "answers", "record"], settings=Rewriting, asks=True)
    inputs = {"data": args.data}
    with job("rewrite_dataset", args, record=args.record, inputs=inputs, claims=()) as this:  # the answers are locked
        rewrite_dataset(args, this)


def rewrite_dataset(args: argparse.Namespace, this: Job) -> None:
    """Ask the server, and write the rewritten conversations and their record."""
    settings = args.settings
    rows = read_table("conversations", args.data)
    asking = {"requests": args.requests, "timeout": args.timeout, "attempts": args.attempts}
    server = ChatServer.from_settings(settings.server.model_dump(), **asking)
    with Answers(args.answers, log=say) as answers, this.paying(answers) as budget:
        done = rewrite(
            rows,
            detect=settings.detect,
            rewrite=settings.rewrite,
            server=server,
            answers=answers,
            budget=budget,
        )
        asked = Asked()
        asked.add(done.detected)
        asked.add(done.rewritten)
        this.paid_now, this.unpriced_now = asked.spent, asked.unpriced
    told = asked.summary()
    kept = "" if done.kept_characters is None else f", to {100 * done.kept_characters:.0f} % of their characters"
    price = "unknown" if told["price"] is None else f"{told['price']:.4f}"
    write_table("conversations", done.rows, args.output)
    this.finish(
        f"{done.flagged} of {done.turns} responses in {len(rows)} conversations rewritten{kept}; {told['calls']} calls "
        f"now, {told['cached']} answers of before, {told['prompt_tokens']} + {told['completion_tokens']} tokens, "
        f"price {price}",
        outputs={"table": args.output},
        rows=len(rows),
        model=server.model,
        turns=done.turns,
        flagged=done.flagged,
        kept_characters=done.kept_characters,
        **told,
    )


if __name__ == "__main__":
    run_stage(main, AnswersError, IncompleteRewriting, RewritingError, ServerError)
