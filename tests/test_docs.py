"""Documents generated from the code are up to date, and the schema accepts what the check accepts."""

import json

import jsonschema
import pytest
import yaml
from workflow import ROOT

from make_docs import comments, make_docs, make_schema, tidy_graph
from pipeline.config.schema import Config, merged
from pipeline.jobs.command import InputError

EXPERIMENTS = ["config.yaml", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "experiments").rglob("*.yaml"))]
PAPER, SMALL, LAPTOP, WORLD = (f"experiments/{name}.yaml" for name in ("paper", "small", "laptop", "controls/world"))
LAID_OVER = {"paper-": [PAPER], "/small": [PAPER], "/laptop": [PAPER, SMALL], "-judge": [LAPTOP], "controls/": [WORLD]}


@pytest.fixture(scope="module")
def schema():
    return json.loads((ROOT / "config.schema.json").read_text(encoding="utf-8"))


def read(name):
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_what_is_made_is_up_to_date():
    for name, text in make_docs().items():
        assert (ROOT / name).read_text(encoding="utf-8") == text, f"{name} is out of date: make docs"


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_config_fits_the_schema_and_names_it(schema, name):
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(read(name), schema)
    first = (ROOT / name).read_text(encoding="utf-8").splitlines()[0]
    said = first.removeprefix("# yaml-language-server: $schema=")
    assert ((ROOT / name).parent / said).resolve() == ROOT / "config.schema.json"


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS[1:] if name != WORLD])
def test_every_experiment_is_whole_once_it_is_laid_over(name):
    """Without checking that files exist, as some are not part of the project."""
    layers = ["config.yaml", *(file for sign, under in LAID_OVER.items() if sign in name for file in under), name]
    Config.model_validate(merged(*map(read, layers)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"rum": {}},
        {"tuning": {"learning_rat": 1.0e-4}},
        {"modes": {"poem": {"tuning": {"learning_rat": 1.0e-4}}}},
        {"models": {"tiny": {"chat": {"tag": "x"}}}},
        {"models": {"Tiny Model": {"path": "here"}}},
        {"datasets": {"mine": {"file": "a.jsonl", "usr": "{a}"}}},
        {"tuning": {"schedule": "cosin"}},
        {"selection": {"epochs": [0]}},
        {"plan": {"gpu": "H300"}},
        {"conditions": {"values": {"a b": {}}}},
        {"judge": {"server": {"price": {"in": 1}}}},
        {"rules": {"variants": {"x": {"use": ["start"]}}}},
    ],
)
def test_a_wrong_key_or_value_does_not_fit(schema, wrong):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, schema)


def test_comments_belong_to_their_keys():
    source = (
        "# The head.\n\n# Above.\na:  # behind\n  b: [1, 2]  # of b\n  # of c\n  c: '#no'\nd: {e: 1, f: 2}  # of d\n"
    )
    assert comments(source) == {("a",): "Above.\nbehind", ("a", "b"): "of b", ("a", "c"): "of c", ("d",): "of d"}


def test_a_key_without_an_explanation_is_an_error():
    config = (ROOT / "config.yaml").read_text(encoding="utf-8")
    with pytest.raises(InputError, match=r"documented neither .*: tuning.learning_rate$"):
        make_schema(config.replace("  # paper: 1e-5 for Llama-2-7B, 3e-6 for OLMo-7B; a small model needs more", ""))


def test_a_rule_graph_without_rules_is_an_error():
    assert tidy_graph("\tid0[all]\n\tid1[plan]\n\tid1 --> id0\n") == "flowchart LR\n  plan --> all"
    with pytest.raises(InputError, match="no rules"):
        tidy_graph("nothing")
