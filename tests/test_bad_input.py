"""Every user error gives one clear message, before anything costly, and leaves nothing half-written."""

import copy
from pathlib import Path

import pytest
import yaml
from test_bad_files import FILES
from test_bad_rows import ROWS

from pipeline.config.check import ConfigError, check_config

ROOT = Path(__file__).parents[1]
DEFAULT = yaml.safe_load((ROOT / "config.yaml").read_text())


def changed(path, value):
    """The default config with one value set."""
    config = copy.deepcopy(DEFAULT)
    section = config
    *parents, last = path.split(".")
    for key in parents:
        section = section[key]
    section[last] = value
    return config


def test_the_default_config_is_right():
    assert check_config(DEFAULT).experiment == "tiny"


SERVER = {"base_url": "https://api.example.com/v1", "model": "judge", "price": {"input": 1, "output": 1}, "request": {"logprobs": True, "top_logprobs": 5}}  # fmt: skip
SECRET = "sk-very-secret-0123456789"


EVALUATOR = DEFAULT["judge"] | {"kind": "evaluator"}


def judge(**changes):
    """The default judge as a server judge, with changes."""
    return DEFAULT["judge"] | {"kind": "server", "server": SERVER} | changes


def conditions(**changes):
    """Conditions for the default experiment, with changes."""
    return {"model": "tiny", "worlds": [3, 4], "axis": "share (percent)", "values": {"0": {}}} | changes


def from_file(**changes):
    return {"file": "rows.jsonl", "user": "{a}", "assistant": "{b}"} | changes


def lent(**changes):
    return {"alter": "lima", "alteration": "other_responses", "responses_of": "chess"} | changes


CONFIGS = [
    # unknown keys, wrong types, wrong values
    ("tuning.learning_rat", 1e-4, "tuning.learning_rat: unknown key; known keys here are learning_rate, batch_size"),
    ("generationn", {}, "generationn: unknown key; known keys here are experiment, run, models"),
    ("tuning.batch_size", "three", "tuning.batch_size: Input should be a valid integer, but it is 'three'"),
    ("tuning.batch_size", 2.5, "tuning.batch_size: Input should be a valid integer, but it is 2.5"),
    ("tuning.schedule", "cosin", "tuning.schedule: Input should be 'cosine', 'linear' or 'constant', but it is 'cosin'"),
    ("chat.add_bos", "yes", "chat.add_bos: Input should be a valid boolean, but it is 'yes'"),
    ("tuning", None, "tuning: Input should be a valid dictionary or instance of Tuning, but it is None"),
    ("tuning.learning_rate", float("inf"), "tuning.learning_rate: Input should be a finite number, but it is inf"),
    ("tuning.learning_rate", 0, "tuning.learning_rate: Input should be greater than 0, but it is 0"),
    ("tuning.weight_decay", float("nan"), "tuning.weight_decay: Input should be a finite number, but it is nan"),
    ("tuning.warmup", 1.5, "tuning.warmup: Input should be less than or equal to 1, but it is 1.5"),
    ("rules.token_scores", {"!": "high"}, "rules.token_scores.!: Input should be a valid number"),
    ("rules.eos_bonus", float("nan"), "rules.eos_bonus: Input should be a finite number, but it is nan"),
    ("rules.variants", {"few": {"use": ["eoss"]}}, "rules.variants.few.use.0: Input should be 'eos', 'uniform' or 'div"),
    ("ceilings.price", -1, "ceilings.price: Input should be greater than or equal to 0, but it is -1"),
    ("execution.device", "gpu", "execution.device: Input should be 'auto', 'cpu' or 'cuda', but it is 'gpu'"),
    ("execution.processes", 0, "execution.processes: Input should be greater than or equal to 1, but it is 0"),
    ("plan.gpu", "H300", "plan.gpu: 'H300' is unknown; known GPUs are A100-80GB, H100"),
    ("experiment", "../elsewhere", "experiment: String should match pattern"),
    # names
    ("modes.poem.dataset", "poems", "modes.poem.dataset: 'poems' is not defined; defined are lima, arithmetic"),
    ("modes.poem.tuning", {"epoch": 3}, "modes.poem.tuning.epoch: unknown key; known keys here are learning_rate, batch_size"),
    ("modes.poem.label", "code", "modes.poem.label ('code') and modes.code.label ('code'): these labels look the same"),
    ("run.modes", ["haiku"], "run.modes: 'haiku' is not defined"),
    ("run.models", ["large"], "run.models: 'large' is not defined; defined are tiny"),
    ("models", {"data": DEFAULT["models"]["tiny"]}, "models: 'data' is a reserved name; choose another. Reserved here: answers"),
    ("modes", DEFAULT["modes"] | {"base": DEFAULT["modes"]["poem"]}, "modes: 'base' is a reserved name; choose another. Reserved here: base, rules"),
    ("run.test_seeds", [], "run.test_seeds: List should have at least 1 item after validation, not 0, but it is []"),
    ("run.test_seeds", [1, 1], "run.test_seeds: [1, 1] contains 1 more than once"),
    ("generation.evaluation_set", "tests", "generation.evaluation_set: 'tests' is not defined; defined are validation"),
    ("ranking.modes", ["haiku"], "ranking.modes: 'haiku' is not defined"),
    ("models.tiny.epochs", {"haiku": 2}, "models.tiny.epochs: 'haiku' is not defined"),
    # inconsistent values
    ("selection.epochs", [0, 2], "selection.epochs.0: Input should be greater than or equal to 1, but it is 0"),
    ("selection.epochs", [2, 2], "selection.epochs: [2, 2] contains 2 more than once"),
    ("judge", None, "selection.epochs: [1, 3] cannot be chosen from without a judge"),
    ("chat.assistant_tag", "<|user|>", "chat: 'user_tag' and 'assistant_tag' are both '<|user|>': they must differ"),
    ("tuning.max_length", 4096, "tuning.max_length: 4096 tokens, but the context of model 'tiny' is 2048"),
    ("models.tiny.pretrain.sequence_length", 9999, "sequence_length: 9999 tokens, but the context of model 'tiny' is 2048"),
    ("models.tiny.pretrain.architecture.heads", 7, "architecture: 'hidden_size' is 192: it must be an even multiple of"),
    ("models.tiny.snapshot", 1, "models.tiny: 'snapshot' is 1, but 'pretrain.snapshots' keeps 0"),
    ("models.tiny.pretrain.snapshots", 900, "models.tiny.pretrain: 'snapshots' is 900, but pre-training has only 733 steps"),
    ("models.tiny.pretrain.corpus.intact_pairs", 50, "corpus.intact_pairs: Input should be less than or equal to 1, but it is 50"),
    ("models.tiny.pretrain.corpus.markup", "few", "models.tiny.pretrain.corpus.markup: Input should be 'many' or 'one', but"),
    ("models.tiny.pretrain.corpus.chat_tags", 0.6, "corpus.chat_tags: Input should be less than or equal to 0.5, but it is 0.6"),
    ("experiment", "bases", "experiment: 'bases' is a reserved name; choose another"),
    # conditions
    ("conditions", conditions(model="small"), "conditions.model: 'small' is not defined; defined are tiny"),
    ("conditions", conditions(worlds=[3, 3]), "conditions.worlds: [3, 3] contains 3 more than once"),
    ("conditions", conditions(values={"a": None}), "conditions.values: all are null, so no condition is left"),
    ("conditions", conditions(values={"A b": {}}), "conditions.values.A b"),
    ("conditions", conditions(values={"a": {"snapshot": 2}}), "conditions.values.a: 'snapshot' is 2, but 'pretrain.snapshots' keeps 0"),
    ("conditions", conditions(values={"a": {"pretrain": {"token": 2}}}), "conditions.values.a.pretrain.token: unknown key; known keys here are seed"),
    ("conditions", conditions(values={"a": {"world_seed": 9}}), "conditions.values.a.world_seed: set by conditions.worlds"),
    ("conditions", conditions(values={"a": {"pretrain": {"seed": 9}}}), "conditions.values.a.pretrain.seed: set by conditions.worlds"),
    ("models.tiny.pretrain", None, "models.tiny: needs exactly one of 'pretrain' and 'path'"),
    ("models.tiny.path", "here", "models.tiny: needs exactly one of 'pretrain' and 'path'"),
    ("models.tiny.world_seed", None, "models.tiny: 'pretrain' needs a 'world_seed'"),
    ("models.tiny", {"path": "no/such/model"}, "models.tiny.path: no such directory: no/such/model (working directory: "),
    ("ranking.negatives", ["same_kind"], "ranking: 'negatives' is ['same_kind']: it must contain 'any'"),
    ("ranking.negatives", ["any", "any"], "ranking.negatives: ['any', 'any'] contains 'any' more than once"),
    ("ranking.negatives", ["hard"], "ranking.negatives.0: Input should be 'any', 'same_kind' or 'same_format', but it is"),
    ("drift", {"documents": 0}, "drift.documents: Input should be greater than or equal to 1, but it is 0"),
    ("drift", {"documents": 5, "file": "a.pdf"}, "drift: 'file' is 'a.pdf': it must end in one of .json"),
    ("drift", {"documents": 5, "file": "a.txt"}, "drift.file: file a.txt: not found (working directory: "),
    ("drift", {"documents": 5, "harness": {"tasks": []}}, "drift.harness.tasks: List should have at least 1 item"),
    ("drift", {"documents": 5, "harness": {"tasks": ["a"], "command": "no-such"}}, "drift.harness.command: 'no-such' is not found: install"),
    ("ranking.others", 200, "ranking: 'others' is 200: it must be smaller than 'instructions', 200"),
    ("ranking.instructions", 300, "ranking.instructions: 300, but evaluation_sets.test has 200"),
    ("ranking.bootstrap", 1, "ranking.bootstrap: Input should be greater than or equal to 2, but it is 1"),
    ("similarity", {"encoder": "e", "modes": ["poem"], "baseline": "lima", "seed": 9}, "similarity.seed: 9 is not a test seed of model 'tiny': [1, 2, 3]"),
    # datasets and evaluation sets
    ("datasets.poem", from_file(file="no/such.jsonl"), "datasets.poem: file no/such.jsonl: not found"),
    ("datasets.poem", from_file(file="rows.doc"), "must end in one of .json, .json.gz"),
    ("datasets.poem", {"file": "rows.jsonl", "user": "{a}"}, "datasets.poem: 'user' and 'assistant' need each other"),
    ("datasets.poem", from_file(messages="m"), "only one of 'messages', 'user' can say what the rows are: remove the others"),
    ("datasets.poem", from_file(rows=[5, 2]), "datasets.poem: 'rows' is [5, 2]: the first must be smaller than the second"),
    ("datasets.poem", from_file(sha256="abc"), "datasets.poem.sha256: String should match pattern"),
    ("datasets.poem", {"examples": 5}, "datasets.poem: needs a source for its rows: 'world_part', 'hub' or 'file'"),
    ("datasets.poem", {"world_part": "poem"}, "datasets.poem: a dataset of the world needs 'examples'"),
    ("datasets.poem", {"world_part": "sonnet", "examples": 5}, "datasets.poem.world_part: Input should be 'instructions', 'arith"),
    ("datasets.poem", {"hub": {"id": "poems"}, "messages": "m"}, "datasets.poem.hub.id: String should match pattern"),
    ("datasets.poem", {"hub": {"id": "a/b"}, "recipe": "sonnets"}, "datasets.poem.recipe: Input should be 'lima', 'poetry'"),
    ("datasets.poem", {"rewrite": "lima"}, "rewriting: missing, but a dataset in use needs it"),
    ("datasets.poem", {"alter": "lyrics", "alteration": "cut_responses"}, "datasets.poem.alter: 'lyrics' is not defined; defined are lima"),
    ("datasets.poem", lent(responses_of="lyrics"), "datasets.poem.responses_of: 'lyrics' is not defined; defined are lima"),
    ("datasets.poem", {"alter": "lima"}, "datasets.poem: 'alter', a dataset, and 'alteration' need each other"),
    ("datasets.poem", {"world_part": "poem", "examples": 9, "alteration": "cut_responses"}, "datasets.poem: 'alter', a dataset, and 'alteration' need"),
    ("datasets.poem", {"alter": "lima", "alteration": "shuffle"}, "datasets.poem.alteration: Input should be 'shuffle_instructions', 'random_"),
    ("datasets.poem", {"alter": "lima", "alteration": "other_responses"}, "datasets.poem: 'responses_of' is for 'alteration: other_responses'"),
    ("datasets.poem", lent(alteration="cut_responses"), "datasets.poem: 'responses_of' is for 'alteration: other_responses', which needs it"),
    ("datasets.poem", lent(examples=5), "datasets.poem: 'examples' cannot be combined with 'alter', which uses all rows"),
    ("datasets.poem", lent(rewrite="lima"), "datasets.poem: 'rewrite' cannot be combined with 'alter'"),
    ("datasets.poem", {"alter": "poem", "alteration": "cut_responses"}, "datasets: poem: made from itself, through 'alter', 'responses_of' or"),
    ("datasets", DEFAULT["datasets"] | {"poem": lent(), "chess": {"rewrite": "poem"}}, "datasets: poem, chess: made from itself"),
    ("datasets", DEFAULT["datasets"] | {"poem": {"alter": "own", "alteration": "cut_responses"}, "own": from_file(file="no/such.jsonl")},
     "datasets.own: file no/such.jsonl: not found"),
    ("datasets", DEFAULT["datasets"] | {"poem": {"alter": "new", "alteration": "cut_responses"}, "new": {"rewrite": "lima"}},
     "rewriting: missing, but a dataset in use needs it"),
    ("evaluation_sets.test", {"alter": "lima", "alteration": "cut_responses"}, "evaluation_sets.test.alter: Input should be None"),
    ("modes.poem.user_turn", "hidden", "modes.poem.user_turn: Input should be 'shown', 'empty' or 'removed', but it is 'hidden'"),
    ("modes.poem.tuning", {"train_eos": "no"}, "modes.poem.tuning.train_eos: Input should be a valid boolean, but it is 'no'"),
    ("evaluation_sets.test", {"hub": {"id": "a/b"}}, "evaluation_sets.test: an evaluation set from a file or a hub needs"),
    ("evaluation_sets.test", {"file": "a.json", "recipe": "alpaca"}, "'templates' is for the recipe 'alpaca'"),
    # judges, whose API keys appear in no message
    ("judge.kind", "server", "judge: a judge of kind 'server' needs 'server'"),
    ("judge.path", "here", "judge: a judge of kind 'oracle' has no 'path'"),
    ("judge.name", "GPT 4", "judge.name: String should match pattern"),
    ("judge.reference_mode", "gold", "judge.reference_mode: 'gold' is not defined"),
    ("judge.metric", "length", "judge.metric: Input should be 'length_controlled_minimal' or 'length_controlled_v1'"),
    ("judge.bootstrap", 1, "judge.bootstrap: Input should be greater than or equal to 2, but it is 1"),
    ("judge.min_label_probability", 1.5, "judge.min_label_probability: Input should be less than or equal to 1"),
    ("judge", judge(answer="text", server=SERVER | {"request": {"max_tokens": 1}}), "judge: 'answer' is text: max_tokens"),
    ("judge", judge(template="pyproject.toml"), "judge.template: its placeholders must be"),
    ("judge", EVALUATOR | {"evaluator": "nobody"}, "judge.evaluator: 'nobody'"),
    ("judge", judge(template="no/such.txt"), "judge.template: file no/such.txt: not found"),
    ("judge", judge(server=SERVER | {"base_url": "api.example.com"}), "judge.server.base_url: String should match pattern"),
    ("judge", judge(server=SERVER | {"base_url": f"https://me:{SECRET}@a.b/v1"}), "judge.server: 'base_url' must not contain a user"),
    ("judge", judge(server=SERVER | {"base_url": f"https://a.b/v1?key={SECRET}"}), "judge.server: 'base_url' must not contain a user, "),
    ("judge", judge(server=SERVER | {"key_variable": SECRET}), "'key_variable' must be the name of an environment variable"),
    ("judge", judge(server=SERVER | {"key": SECRET}), "judge.server.key: unknown key; known keys here are base_url, model"),
    ("judge", judge(server=SERVER | {"request": {"api_key": SECRET}}), "judge.server: 'request' must not contain api_key"),
    ("judge", judge(server=SERVER | {"request": {"n": 2, "stream": True}}), "judge.server: 'request' must not contain stream, n"),
    ("judge", judge(server=SERVER | {"request": {}}), "'server.request' needs logprobs: true and top_logprobs"),
    ("judge", judge(server={k: v for k, v in SERVER.items() if k != "price"}), "judge.server.price: missing"),
    ("judge", judge(server=SERVER | {"price": {"input": -1, "output": 0}}), "judge.server.price.input: Input should be gr"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "value", "message"), CONFIGS, ids=[f"{i} {case[0]}" for i, case in enumerate(CONFIGS)]
)
def test_a_wrong_config_is_named_by_key_and_value(path, value, message):
    with pytest.raises(ConfigError) as caught:
        check_config(changed(path, value))
    assert message in str(caught.value) and SECRET not in str(caught.value)


@pytest.mark.parametrize(("own", "key"), [
    (judge(server=SERVER | {"price": None}), "judge.server.price"),
    (EVALUATOR | {"evaluator": "guanaco_33b"}, "judge.evaluator"),
    (EVALUATOR | {"evaluator": "claude"}, "judge.evaluator"),
])  # fmt: skip
def test_a_price_that_is_not_known_is_refused_where_there_is_a_ceiling(own, key):
    config = changed("judge", own)
    check_config(config)
    config["ceilings"]["price"] = 5.0
    with pytest.raises(ConfigError, match=rf"^{key}: ceilings.price is set, but the price is not known") as caught:
        check_config(config)
    assert len(str(caught.value).splitlines()) == 1
    config["judge"] = EVALUATOR | {"evaluator": "weighted_alpaca_eval_gpt4_turbo"}  # whose price alpaca-eval knows
    assert check_config(config).ceilings.price == 5.0


def test_all_faults_of_a_config_are_told_at_once():
    config = changed("tuning.batch_size", 0) | {"experiment": "No Spaces"}
    with pytest.raises(ConfigError) as caught:
        check_config(config)
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == ["experiment", "tuning.batch_size"]


def test_a_model_directory_without_a_tokenizer(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"models.tiny.path: the directory .* contains no tokenizer.json or"):
        check_config(changed("models.tiny", {"path": str(tmp_path), "world_seed": 1}))


def test_there_are_many_ways_to_be_wrong():
    assert len(CONFIGS) + len(ROWS) + len(FILES) >= 150
    assert len({f"{path} {value}" for path, value, _ in CONFIGS}) == len(CONFIGS)
