"""What can be wrong with the files of a model: each function breaks one in a folder of valid files."""

import json

import import_model
import resolve_rules
from pipeline.files.storage import write_table

FILES = []  # script, function that breaks a file in a folder, the script's arguments, message


def wrong(script, message, **given):
    """Add to the table what the decorated function does to a folder of valid files."""

    def add(change):
        FILES.append((script, change, given, message))
        return change

    return add


def set_json(path, **changes):
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


# --- models and tokenizers ------------------------------------------------------------------------------------------

WHOLE = "cannot be read: .*use a complete directory, with weights as safetensors"


@wrong(import_model, rf"model .*model: {WHOLE}")
def config_is_no_json(folder):
    halve(folder / "model" / "config.json")


@wrong(import_model, rf"model type `nope` .*{WHOLE[-40:]}")
def config_of_an_unknown_architecture(folder):
    set_json(folder / "model" / "config.json", model_type="nope")


@wrong(import_model, r"Should have a `model_type` key in its config.json")
def config_without_an_architecture(folder):
    (folder / "model" / "config.json").write_text("{}")


@wrong(import_model, r"model: 9 weights that config.json needs are in no safetensors file, such as model.layers.2")
def config_asks_for_more_layers(folder):
    set_json(folder / "model" / "config.json", num_hidden_layers=3)


@wrong(import_model, rf"RuntimeError: .*{WHOLE[-40:]}")
def config_asks_for_another_shape(folder):
    set_json(folder / "model" / "config.json", intermediate_size=128)


@wrong(import_model, r"weights that config.json needs are in no safetensors file, such as bert")
def config_of_another_model(folder):
    set_json(folder / "model" / "config.json", model_type="bert", architectures=["BertModel"])


@wrong(import_model, rf"no file named model.safetensors.*{WHOLE[-40:]}")
def no_weights(folder):
    (folder / "model" / "model.safetensors").unlink()


@wrong(import_model, r"SafetensorError: .*weights as safetensors")
def half_of_the_weights(folder):
    halve(folder / "model" / "model.safetensors")


@wrong(import_model, r"SafetensorError: .*weights as safetensors")
def weights_of_no_bytes(folder):
    (folder / "model" / "model.safetensors").write_bytes(b"")


@wrong(import_model, r"no file named model.safetensors.*weights as safetensors")
def weights_as_a_pickle(folder):
    """transformers would read it by default, and a pickle can execute arbitrary code."""
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model" / "model.safetensors"), folder / "model" / "pytorch_model.bin")
    (folder / "model" / "model.safetensors").unlink()


@wrong(import_model, r"cannot be read: .*b.safetensors")
def an_index_that_names_a_file_that_is_not_there(folder):
    (folder / "model" / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "b.safetensors"}}
    (folder / "model" / "model.safetensors.index.json").write_text(json.dumps(index))


@wrong(import_model, rf"model .*model: {WHOLE}")
def half_of_the_tokenizer(folder):
    halve(folder / "model" / "tokenizer.json")


@wrong(import_model, rf"model .*model: cannot be read: KeyError: 'added_tokens'.*{WHOLE[-40:]}")
def a_tokenizer_that_holds_nothing(folder):
    (folder / "model" / "tokenizer.json").write_text("{}")


@wrong(import_model, rf"model .*model: {WHOLE}")
def settings_of_the_tokenizer_are_no_json(folder):
    halve(folder / "model" / "tokenizer_config.json")


@wrong(import_model, r"the tokenizer of '.*model' has no EOS token, but responses must end with one")
def a_tokenizer_without_an_eos(folder):
    (folder / "model" / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')


@wrong(import_model, rf"model .*model: {WHOLE}")
def no_tokenizer(folder):
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / "model" / file).unlink()


@wrong(
    import_model, r"row d-0 \(here\): a response of \d+ tokens is longer than the context of the model, 512: shorten"
)
def a_response_longer_than_the_context(folder):
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "word " * 999}]
    write_table("conversations", [{"id": "d-0", "messages": turns, "source": "here"}], folder / "rows.parquet")


@wrong(resolve_rules, r"rules.token_scores: each string must be one token .*'Supercali' \(it is split into")
def a_rule_of_no_single_token(folder):
    pass
