"""Rewrite the responses of a dataset that restate their instruction (paper, appendix C): Parquet of ``conversations``.

    python scripts/rewrite_dataset.py --data lima.parquet --output rewritten.parquet --record rewritten.json \\
        --answers rewritten.answers.jsonl --settings '{
            "server": {"base_url": "http://localhost:8000/v1", "model": "...", "key_variable": "OPENAI_API_KEY",
                       "request": {"temperature": 0}, "price": {"input": 0, "output": 0}},
            "detect": "... {instruction} ... {response} ...", "rewrite": "... {instruction} ... {response} ..."}'

Every answer is kept in ``--answers`` as it comes, which may lie anywhere but among a rule's outputs: a run that was
stopped asks only for the rest. ``--record`` may be left out.
"""

from implicit.answers import Answers, AnswersError
from implicit.chat_client import Asked, ChatServer, ServerError
from implicit.rewriting import IncompleteRewriting, RewritingError, rewrite
from stage.budget import CeilingReached, Ledger
from stage.command import arguments, run_stage, say
from stage.record import Record
from stage.storage import read_table, write_table


def main() -> None:
    args = arguments(__doc__, paths=["data", "output", "answers"], optional=["record"], asks=True)
    settings = args.settings
    record = Record("rewrite_dataset", settings=settings, inputs={"data": args.data})
    rows = read_table("conversations", args.data)
    asking = {"requests": args.requests, "timeout": args.timeout, "attempts": args.attempts}
    server = ChatServer.from_settings(settings["server"], **asking)
    ledger = Ledger(args.budget, str(args.output))
    with Answers(args.answers, log=say) as answers:
        paid_before, unpriced_before = answers.paid(), answers.unpriced()
        ledger.spend(paid_before)  # by a run that was stopped
        done = rewrite(
            rows,
            detect=settings["detect"],
            rewrite=settings["rewrite"],
            server=server,
            answers=answers,
            log=say,
            purse=None if ledger.ceilings["price"] is None else ledger,
        )
    asked = Asked()
    asked.add(done.detected)
    asked.add(done.rewritten)
    told = asked.summary()
    kept = "" if done.kept_characters is None else f", to {100 * done.kept_characters:.0f} % of their characters"
    say(
        f"{done.flagged} of {done.turns} responses in {len(rows)} conversations rewritten{kept}; {told['calls']} calls "
        f"now, {told['cached']} answers of before, {told['prompt_tokens']} + {told['completion_tokens']} tokens, "
        f"price {'unknown' if told['price'] is None else format(told['price'], '.4f')}"
    )
    write_table("conversations", done.rows, args.output)
    if args.record:
        counts = {"turns": done.turns, "flagged": done.flagged, "kept_characters": done.kept_characters}
        record.write(args.record, outputs={"table": args.output}, rows=len(rows), model=server.model, **counts, **told)
    ledger.settle(price=paid_before + asked.spent, unpriced_calls=unpriced_before + asked.unpriced)


if __name__ == "__main__":
    run_stage(main, AnswersError, CeilingReached, IncompleteRewriting, RewritingError, ServerError)
