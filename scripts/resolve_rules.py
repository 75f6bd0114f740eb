"""Look up the rules' tokens in a model's vocabulary, before any costly job, and write their ids as JSON.

    python scripts/resolve_rules.py --model base/model --output tokens.json --settings '{"token_scores": {"!": 1.0}}'

A string that is not a single token is an error, which lists similar tokens.
"""

from implicit.generation.rules import UnresolvedToken, resolve_tokens
from pipeline.config.types import Number, Section
from pipeline.files.storage import write_json
from pipeline.jobs.command import arguments, run_stage, say
from pipeline.models.directories import load_tokenizer


class Settings(Section):
    """The scores of the rules' tokens."""

    token_scores: dict[str, Number]


def main() -> None:
    args = arguments(__doc__, paths=["model", "output"], settings=Settings)
    scores = args.settings.token_scores
    ids = resolve_tokens(scores, load_tokenizer(args.model))
    write_json(
        [{"token": text, "id": i, "score": scores[text]} for text, i in zip(scores, ids, strict=True)], args.output
    )
    say(f"{len(ids)} tokens of the rules")


if __name__ == "__main__":
    run_stage(main, UnresolvedToken)
