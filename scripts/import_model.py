"""Take an existing model as a base model, by local directory or hub id: checked, and given what the DAG needs.

    python scripts/import_model.py --model base/model --record base/record.json \\
        --settings '{"path": "models/llama", "revision": null, "chat": {...}}'

``--conversations`` are datasets whose responses must fit in the model's context, those of ``--cuttable`` may be cut.
A tokenizer without a pad token of its own gets one, and the embeddings a row for it where they have none to spare,
as in the authors' script: with EOS as the pad token, a trained EOS could be masked by mistake.
"""

import argparse
from typing import TYPE_CHECKING, Any

from implicit.format.context import stated_context
from implicit.format.render import Format, chat_template
from pipeline.files.hub import explained, find_commit, is_hub_id
from pipeline.jobs.command import PATHS, InputError, arguments, run_stage, say
from pipeline.jobs.job import Job, job
from pipeline.models.directories import context_length, load_model, name_special_tokens, save_model
from pipeline.models.exported import TEXTS, check_weights, encoder, file_encoder, first_difference, loaded_weights
from pipeline.models.fit import check_datasets
from pipeline.models.gguf_files import gguf_in, load_gguf, tensor_types

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

UNLIMITED = 10**9  # transformers gives tokenizers that state no maximum length 10**30


def load(path: str, commit: str | None) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """A model in its own precision, and its tokenizer, from a directory, or from the hub at a commit."""
    with explained("model", path, commit, Exception):  # what is no tokenizer or no weights leads to errors of any kind
        tokenizer = load_own_tokenizer(path, commit or "main")
        return load_model(path, device="cpu", precision="auto", revision=commit), tokenizer


def load_own_tokenizer(path: str, revision: str) -> "PreTrainedTokenizerBase":
    """A model's tokenizer, which encodes as its own ``tokenizer.json`` does, if it has one.

    transformers rebuilds tokenizers of some classes from their vocabulary alone. Where a ``tokenizer_config.json``
    names a class that does not fit, texts are then not encoded as in the model's training.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    from transformers.utils import cached_file

    tokenizer = AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=False)
    lacking = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    file = cached_file(path, "tokenizer.json", revision=revision, **lacking)
    if file is None:
        return tokenizer
    # Not texts that begin with a blank: Llama-2's file doubles it, other than SentencePiece and its class.
    texts = [text.strip() for text in TEXTS]
    text = first_difference(texts, encoder(tokenizer), file_encoder(file))
    if text is not None:
        say(f"a {type(tokenizer).__name__} encodes {text!r} otherwise than tokenizer.json, which is taken as it is")
        tokenizer = PreTrainedTokenizerFast.from_pretrained(path, revision=revision)
        text = first_difference(texts, encoder(tokenizer), file_encoder(file))
    if text is not None:
        raise InputError(f"models: the tokenizer of {path!r} encodes {text!r} otherwise than its own tokenizer.json")
    return tokenizer


def check_source(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", path: str) -> None:
    """Raise InputError for a model that cannot be tuned here."""
    if tokenizer.eos_token is None:
        raise InputError(f"models: the tokenizer of {path!r} has no EOS token, which responses are to end with")
    check_weights(loaded_weights(model))
    check_head(model)


def prepare_tokens(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """Give a tokenizer the BOS and the pad token that it lacks, and a model the same, in place.

    Returns what was done, a line each.
    """
    done = []
    if tokenizer.bos_token is None:
        tokenizer.bos_token = tokenizer.eos_token
        done.append(f"no BOS token: {tokenizer.eos_token!r} stands for it, as in the authors' script")
    if tokenizer.pad_token is None or tokenizer.pad_token in (tokenizer.eos_token, tokenizer.bos_token):
        tokenizer.add_special_tokens({"pad_token": "<pad>"})
        done.append("added the pad token '<pad>'")
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        grow(model, len(tokenizer))
        done.append(f"embeddings grown from {rows} to {len(tokenizer)} rows")
    return done + name_special_tokens(model, tokenizer)


def state_context(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> None:
    """Let a config that states no context length, such as Bloom's, state its tokenizer's maximum, where that is one."""
    if stated_context(model.config) is None and tokenizer.model_max_length < UNLIMITED:
        model.config.get_text_config().max_position_embeddings = tokenizer.model_max_length
        say(f"context length: {tokenizer.model_max_length} tokens, as its tokenizer says")


def grow(model: "PreTrainedModel", rows: int) -> None:
    """Add embeddings, each the mean of the old: as outputs, they are then never the most likely token."""
    import torch

    before = model.get_input_embeddings().weight.shape[0]
    model.resize_token_embeddings(rows, mean_resizing=False)
    with torch.no_grad():
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            layer.weight[before:] = layer.weight[:before].float().mean(dim=0).to(layer.weight.dtype)


def check_head(model: "PreTrainedModel") -> None:
    """Raise InputError for a model whose logits are not just its output embeddings of its last hidden state.

    Tuning and ranking project only the positions that they need, by themselves.
    """
    import torch

    ids = torch.arange(4)[None]
    with torch.inference_mode():
        head = model.get_output_embeddings()(model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state)
        logits = model(input_ids=ids, use_cache=False).logits
    if not torch.allclose(head.float(), logits.float(), rtol=1e-3, atol=1e-3):
        raise InputError(
            f"models: {type(model).__name__} changes its logits behind the output embeddings (a soft cap or a scale), "
            "which is not supported"
        )


def main() -> None:
    args = arguments(__doc__, paths=["model", "record"], options={"conversations": PATHS, "cuttable": PATHS})
    with job("import_model", args, record=args.record, inputs={}) as this:
        import_model(args, this)


def import_model(args: argparse.Namespace, this: Job) -> None:
    """Load a model, check it, complete its tokens, and write it with its record."""
    settings: dict[str, Any] = args.settings
    path, revision = settings["path"], settings["revision"]
    commit = find_commit("model", path, revision) if is_hub_id(path) else None
    file = gguf_in(path)
    types = tensor_types(file) if file else None  # first, as loading takes longer
    model, tokenizer = load_gguf(file) if file else load(path, commit)
    check_source(model, tokenizer, path)
    for line in prepare_tokens(model, tokenizer):
        say(line)
    state_context(model, tokenizer)
    context = context_length(model.config)
    if settings.get("max_length", 0) > context:
        raise InputError(
            f"tuning.max_length: {settings['max_length']} tokens, but the context of {path} is {context}: lower it, or "
            "set it for this model alone (models.NAME.tuning.max_length)"
        )
    check_datasets(args.conversations, tokenizer, context=context)
    check_datasets(args.cuttable, tokenizer, context=None)
    base = path + (f" at {commit}" if commit else "")
    card = {"base": base, "data": "none", "mode": "none", "seed": "none"}
    chat = Format(**settings["chat"])
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
