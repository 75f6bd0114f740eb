"""Take an existing model as a base model, by local directory or hub id: checked, and given what the DAG needs.

    python scripts/import_model.py --model base/model --record base/record.json \\
        --settings '{"path": "models/llama", "chat": {...}}'

A tokenizer without a pad token gets one of its own, and the embeddings a row for it, as in the authors'
script: with EOS as the pad token, a trained EOS could be masked by mistake.
"""

from implicit.render import Format, chat_template
from stage.command import InputError, arguments, run_stage, say
from stage.fit import check_datasets
from stage.models import load_model, save_model
from stage.record import Record, fingerprint


def main() -> None:
    from transformers import AutoTokenizer

    args = arguments(__doc__, paths=["model", "record"], lists=["conversations"])
    source = args.settings["path"]
    record = Record("import_model", settings=args.settings, inputs={})
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        model = load_model(source, device="cpu")
    except (OSError, ValueError) as error:
        raise InputError(f"models: {source!r} cannot be loaded as a model with its tokenizer: {error}") from None
    if tokenizer.eos_token is None:
        raise InputError(f"models: the tokenizer of {source!r} has no EOS token, which responses are to end with")
    if tokenizer.bos_token is None:
        tokenizer.bos_token = tokenizer.eos_token
        say(f"no BOS token: {tokenizer.eos_token!r} stands for it")
    if tokenizer.pad_token is None or tokenizer.pad_token == tokenizer.eos_token:
        tokenizer.add_special_tokens({"pad_token": "<pad>"})
        if len(tokenizer) > model.get_input_embeddings().num_embeddings:
            model.resize_token_embeddings(len(tokenizer))
        say("added the pad token '<pad>'")
    check_datasets(args.conversations, tokenizer, context=model.config.max_position_embeddings)
    tokenizer.chat_template = chat_template(Format(**args.settings["chat"]))
    save_model(model, tokenizer, args.model, card={"base": source, "data": "none", "mode": "none", "seed": "none"})
    record.write(args.record, model_sha256=fingerprint(args.model), device="cpu")


if __name__ == "__main__":
    run_stage(main)
