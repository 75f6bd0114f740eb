"""Whether responses can be tuned on with a model at all, which is checked before anything is computed with it."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from implicit.format.render import JoinedTokens, encode_response
from pipeline.files.storage import read_table
from pipeline.jobs.command import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def check_responses(
    rows: Iterable[dict[str, Any]], tokenizer: "PreTrainedTokenizerBase", *, context: int | None
) -> None:
    """Raise InputError for a response that cannot be encoded by itself, or is too long for a ``context`` in tokens.

    Its EOS counts. Without a context any length is allowed, as rows are cut.
    """
    for row in rows:
        for message in row["messages"]:
            if message["role"] != "assistant":
                continue
            length = len(encode_row(row, message["content"], tokenizer)) + 1
            if context is not None and length > context:
                raise InputError(
                    f"row {row['id']} ({row['source']}): a response of {length} tokens is longer than the context of "
                    f"the model, {context}: shorten or leave out the row"
                )


def encode_row(row: dict[str, Any], response: str, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """The token ids of a response of a row, without EOS. Raises InputError where they depend on what precedes it."""
    try:
        return encode_response(tokenizer, response.strip())
    except JoinedTokens as error:
        raise InputError(
            f"row {row['id']} ({row['source']}): {error}, so that the response has no tokens of its own: begin it "
            "with another character, leave out the row, or take a model with another tokenizer"
        ) from None


def check_datasets(paths: Iterable[Path], tokenizer: "PreTrainedTokenizerBase", *, context: int | None) -> None:
    """Check every conversation of some datasets, as `check_responses` does."""
    for path in paths:
        check_responses(read_table("conversations", path), tokenizer, context=context)
