"""Import an existing model as a base model, from a local directory or hub id: check it and add what the DAG needs.

    python scripts/import_model.py --model base/model --record base/record.json \\
        --settings '{"path": "models/llama", "revision": null, "chat": {...}}'

``--conversations`` are datasets whose responses must fit in the model's context; those in ``--cuttable`` may be
truncated. A tokenizer without a pad token of its own gets one, and the embeddings get a row for it if they have no
spare one, as in the authors' script: with EOS as the pad token, a trained EOS could be masked by mistake.
"""

import argparse
from typing import TYPE_CHECKING

from implicit.format.context import stated_context
from implicit.format.render import Format, chat_template
from pipeline.config.types import Section
from pipeline.files.hub import explained, find_commit, is_hub_id
from pipeline.jobs.command import PATHS, InputError, arguments, run_stage, say
from pipeline.jobs.job import Job, job
from pipeline.models.directories import context_length, load_model, name_special_tokens, save_model
from pipeline.models.exported import TEXTS, check_weights, encoder, file_encoder, first_difference, loaded_weights
from pipeline.models.fit import check_datasets
from pipeline.models.gguf_files import gguf_in, load_gguf

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

UNLIMITED = 10**9  # transformers uses 10**30 for tokenizers that do not state a maximum length


class Settings(Section):
    """Where a model is, its chat format, and the longest rows that it will be tuned on, in tokens."""

    path: str
    revision: str | None
    chat: Format
    max_length: int = 0


def load(path: str, commit: str | None) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """Load a model in its own precision, and its tokenizer, from a directory, or from the hub at a commit."""
    with explained("model", path, commit, Exception):  # invalid tokenizers or weights raise all kinds of errors
        tokenizer = load_own_tokenizer(path, commit or "main")
        return load_model(path, device="cpu", precision="own", revision=commit), tokenizer


def load_own_tokenizer(path: str, revision: str) -> "PreTrainedTokenizerBase":
    """Load a model's tokenizer such that it encodes as its own ``tokenizer.json``, if there is one.

    transformers rebuilds tokenizers of some classes from their vocabulary alone. If ``tokenizer_config.json`` names the
    wrong class, texts are then encoded differently than in the model's training.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    from transformers.utils import cached_file

    tokenizer = AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=False)
    lacking = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    file = cached_file(path, "tokenizer.json", revision=revision, **lacking)
    if file is None:
        return tokenizer
    # No texts that begin with a space: Llama-2's file doubles it, unlike SentencePiece and its class.
    texts = [text.strip() for text in TEXTS]
    text = first_difference(texts, encoder(tokenizer), file_encoder(file))
    if text is not None:
        say(f"a {type(tokenizer).__name__} encodes {text!r} differently than tokenizer.json, which is used instead")
        tokenizer = PreTrainedTokenizerFast.from_pretrained(path, revision=revision)
        text = first_difference(texts, encoder(tokenizer), file_encoder(file))
    if text is not None:
        raise InputError(f"models: the tokenizer of {path!r} encodes {text!r} differently than its own tokenizer.json")
    return tokenizer


def check_source(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", path: str) -> None:
    """Raise InputError for a model that cannot be tuned here."""
    if tokenizer.eos_token is None:
        raise InputError(f"models: the tokenizer of {path!r} has no EOS token, but responses must end with one")
    check_weights(loaded_weights(model))
    check_head(model)


def prepare_tokens(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """Add missing BOS and pad tokens to a tokenizer and its model, in place.

    Returns what was done, one line per change.
    """
    done = []
    if tokenizer.bos_token is None:
        tokenizer.bos_token = tokenizer.eos_token
        done.append(f"no BOS token: using {tokenizer.eos_token!r} instead, as in the authors' script")
    if tokenizer.pad_token is None or tokenizer.pad_token in (tokenizer.eos_token, tokenizer.bos_token):
        tokenizer.add_special_tokens({"pad_token": "<pad>"})
        done.append("added the pad token '<pad>'")
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        grow(model, len(tokenizer))
        done.append(f"embeddings grown from {rows} to {len(tokenizer)} rows")
    return done + name_special_tokens(model, tokenizer)


def state_context(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> None:
    """If a config does not state a context length (as Bloom's), set it to the tokenizer's maximum, if there is one."""
    if stated_context(model.config) is None and tokenizer.model_max_length < UNLIMITED:
        model.config.get_text_config().max_position_embeddings = tokenizer.model_max_length
        say(f"context length: {tokenizer.model_max_length} tokens, according to its tokenizer")


def grow(model: "PreTrainedModel", rows: int) -> None:
    """Add embeddings, each the mean of the old ones: as outputs, they are then never the most likely token."""
    import torch

    before = model.get_input_embeddings().weight.shape[0]
    model.resize_token_embeddings(rows, mean_resizing=False)
    with torch.no_grad():
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            layer.weight[before:] = layer.weight[:before].float().mean(dim=0).to(layer.weight.dtype)


def check_head(model: "PreTrainedModel") -> None:
    """Raise InputError for a model whose logits are not just its output embeddings applied to its last hidden state.

    Tuning and ranking do this projection themselves, for the positions that they need.
    """
    import torch

    ids = torch.arange(4)[None]
    with torch.inference_mode():
        head = model.get_output_embeddings()(model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state)
        logits = model(input_ids=ids, use_cache=False).logits
    if not torch.allclose(head.float(), logits.float(), rtol=1e-3, atol=1e-3):
        raise InputError(
            f"models: {type(model).__name__} changes its logits after the output embeddings (a soft cap or a scale), "
            "which is not supported"
        )


def main() -> None:
    checked = {"conversations": PATHS, "cuttable": PATHS}
    args = arguments(__doc__, paths=["model", "record"], settings=Settings, options=checked)
    with job("import_model", args, record=args.record, inputs={}) as this:
        import_model(args, this)


def import_model(args: argparse.Namespace, this: Job) -> None:
    """Load a model, check it, add missing tokens, and write it with its record."""
    settings: Settings = args.settings
    path, revision = settings.path, settings.revision
    commit = find_commit("model", path, revision) if is_hub_id(path) else None
    file = gguf_in(path)
    model, tokenizer, types = load_gguf(file) if file else (*load(path, commit), None)
    check_source(model, tokenizer, path)
    for line in prepare_tokens(model, tokenizer):
        say(line)
    state_context(model, tokenizer)
    context = context_length(model.config)
    if settings.max_length > context:
        raise InputError(
            f"tuning.max_length: {settings.max_length} tokens, but the context of {path} is {context}: lower it, or "
            "set it for this model only (models.NAME.tuning.max_length)"
        )
    check_datasets(args.conversations, tokenizer, context=context)
    check_datasets(args.cuttable, tokenizer, context=None)
    base = path + (f" at {commit}" if commit else "")
    card = {"base": base, "data": "none", "mode": "none", "seed": "none"}
    chat = settings.chat
    tokenizer.chat_template = chat_template(tokenizer, chat)
    save_model(model, tokenizer, args.model, card=card, chat=chat)
    if types:
        say(f"dequantised to float32: {', '.join(f'{count} tensors of {name}' for name, count in types.items())}")
    this.finish(
        f"{type(model).__name__} of {model.num_parameters():,} parameters, from {base}",
        outputs={"model": args.model},
        architecture=type(model).__name__,
        parameters=model.num_parameters(),
        commit_on_hub=commit,
        dequantised_from=types,
    )


if __name__ == "__main__":
    run_stage(main)
