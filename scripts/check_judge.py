"""Ask the judge for one comparison, in both orders, before anything costly: through the same path as all later ones.

    python scripts/check_judge.py --output judge_check.json --answers judge_check.answers.jsonl \\
        --settings '{"name": "mine", "kind": "server", "server": {"base_url": ..., "model": ..., "price": null}, ...}'

The settings are those of judge_responses.py. A run starts with this if its judge is one that is asked: a server, an
evaluator of alpaca-eval's, or a model on this machine that answers a prompt. If the judge cannot be used, the message
says what came from where, and which lines of the config may mend it.
"""

import argparse

from pipeline.config.judges import BY_PROMPT, Assessor, JudgeSettings
from pipeline.jobs.command import NAMED, OPTIONAL_PATH, PATHS, InputError, arguments, say
from pipeline.jobs.job import Job
from pipeline.jobs.judging import judging_job, run_judging

PAIR = {"id": "check", "instruction": "Name a colour.", "request": None, "stopped": True, "references": {}}
OUTPUTS = ("I would rather not say.", "Red.")  # the judge should prefer the second, but need not
ATTEMPTS = 2  # so that a missing server is reported quickly
ADDRESSES = "vLLM: http://localhost:8000/v1, llama.cpp: 8080, Ollama: 11434, LM Studio: 1234"

# What the error or the answer contains -> what may mend it.
REMEDIES = (
    (("onnection error", "APIConnectionError", "Timeout"),
     f"nothing answered there: start the server, or correct judge.server.base_url ({ADDRESSES})"),
    (("<think", "reasoning"),
     "the model thinks before it answers: turn that off, in judge.server.request with `chat_template_kwargs: "
     "{enable_thinking: false}` (vLLM, llama.cpp) or `reasoning_effort: none` (Ollama, OpenAI), or use a model that "
     "does not; or set `answer: text` and a `max_tokens` that leaves room for it"),
    (('"logprobs": null', "logprob"),
     "the server sends no usable log-probabilities: set `answer: text` in `judge`, without `logprobs` and "
     "`top_logprobs` in its request; or use a server that sends them, with at most as many as it allows"),
    (("cut off",), "raise `max_tokens` in judge.server.request"),
    (("no preference can be read",),
     "the judge does not answer with a label: use another model, or a `template` of your own that asks for m or M"),
)  # fmt: skip


def advice(message: str, *, by_text: bool) -> str:
    """What may fix an error, empty if unknown; ``by_text``: no judge is read by its log-probabilities."""
    matching = [remedy for signs, remedy in REMEDIES if any(sign in message for sign in signs)]
    return next((remedy for remedy in matching if not by_text or "log-probabilities" not in remedy), "")


def where(judges: dict[str, Assessor]) -> str:
    """The judges' names, with their servers and models."""

    def one(name: str, own: Assessor) -> str:
        at = f"{own.server.model} at {own.server.base_url}" if own.server else str(own.path or own.evaluator)
        return f"{name} ({at})"

    return ", ".join(one(name, own) for name, own in judges.items())


def check_judge(args: argparse.Namespace, this: Job) -> None:
    """Compare the pair, and say what came out. Raises InputError with what may mend it if nothing did."""
    from implicit.judging.judge import IncompleteJudging, JudgeError
    from implicit.judging.local_judge import LocalJudgeError
    from implicit.servers.chat_client import ServerError
    from pipeline.jobs.comparing import judging

    args.settings, args.attempts = args.settings.model_copy(update={"both_orders": True}), ATTEMPTS
    asked = {name: own for name, own in args.settings.panel().items() if own.kind in BY_PROMPT}
    args.answers.unlink(missing_ok=True)  # asked anew: the server may have changed
    sides = [[PAIR | {"output": output}] for output in OUTPUTS]
    try:
        with judging(args, this, asked, sides=sides, kept=args.answers) as judges:
            found = judges.compare(*sides)
    except (IncompleteJudging, JudgeError, LocalJudgeError, ServerError) as error:
        message = "; ".join(map(str, getattr(error, "reasons", []))) or str(error)
        remedy = advice(message, by_text=all(own.answer == "text" for own in asked.values()))
        raise InputError(f"judge {where(asked)}: {message}{f'. To fix it: {remedy}' if remedy else ''}") from None
    (preference,) = found.together.preferences
    say(f"the judge answers: it prefers {OUTPUTS[1]!r} to {OUTPUTS[0]!r} with {preference - 1:.2f}")
    this.finish("the judge answers", outputs={}, **found.summary)


def main() -> None:
    options = {"answers": OPTIONAL_PATH, "references": PATHS, "model": NAMED}
    args = arguments(__doc__, paths=["output"], settings=JudgeSettings, options=options, computes=True, asks=True)
    with judging_job("check_judge", args, record=args.output) as this:
        check_judge(args, this)


if __name__ == "__main__":
    run_judging(main, if_gpu_is_full="Lower execution.ranking_batch_tokens")
