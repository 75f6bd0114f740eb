"""Do responses fit into a model at all? Asked before anything is computed with it."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from implicit.render import encode_response
from stage.command import InputError
from stage.storage import read_table

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def check_responses(rows: Iterable[dict[str, Any]], tokenizer: "PreTrainedTokenizerBase", *, context: int) -> None:
    """Raise InputError for a response that, with its EOS, is longer than ``context`` tokens."""
    for row in rows:
        for message in row["messages"]:
            length = len(encode_response(tokenizer, message["content"].strip())) + 1
            if message["role"] == "assistant" and length > context:
                raise InputError(
                    f"row {row['id']} ({row['source']}): a response of {length} tokens is longer than the context of "
                    f"the model, {context}: shorten or leave out the row"
                )


def check_datasets(paths: Iterable[Path], tokenizer: "PreTrainedTokenizerBase", *, context: int) -> None:
    """Check every conversation of some datasets."""
    for path in paths:
        check_responses(read_table("conversations", path), tokenizer, context=context)
