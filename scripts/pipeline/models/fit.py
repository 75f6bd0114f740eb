"""Whether a model can be tuned on given responses, checked before anything is computed with it."""

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
    """Raise InputError for a response that cannot be encoded on its own, or is too long for a ``context`` in tokens.

    EOS counts. Without a context any length is allowed, since rows are truncated.
    """
    for row in rows:
        for message in row["messages"]:
            if message["role"] != "assistant":
                continue
            length = len(encode_row(row, message["content"], tokenizer)) + 1
            if context is not None and length > context:
                raise InputError(
                    f"row {row['id']} ({row['source']}): a response of {length} tokens is longer than the context of "
                    f"the model, {context}: shorten or remove the row"
                )


def encode_row(row: dict[str, Any], response: str, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """The token ids of a row's response, without EOS. Raises InputError if they depend on the text before it."""
    try:
        return encode_response(tokenizer, response.strip())
    except JoinedTokens as error:
        raise InputError(
            f"row {row['id']} ({row['source']}): {error}, so the response has no tokens of its own: start it "
            "with another character, remove the row, or use a model with another tokenizer"
        ) from None


def check_datasets(paths: Iterable[Path], tokenizer: "PreTrainedTokenizerBase", *, context: int | None) -> None:
    """Check every conversation of several datasets with `check_responses`."""
    for path in paths:
        check_responses(read_table("conversations", path), tokenizer, context=context)
