"""No name or label in a config is ambiguous, and no list has duplicate entries."""

import copy
import re

import pytest
import yaml
from workflow import ROOT, copy_project, snakemake

from pipeline.config.check import ConfigError, check_config
from pipeline.config.names import RESERVED
from pipeline.config.schema import Config, merged

DEFAULT = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


def faults(*overlays):
    """The lines with which the default config with the overlays is refused."""
    with pytest.raises(ConfigError) as caught:
        check_config(merged(DEFAULT, *overlays))
    return str(caught.value).splitlines()


def leaves(node, path=()):
    """Every value of a config with its path, including those in lists."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else None
    if items is None:
        yield path, node
    for key, value in items or ():
        yield from leaves(value, (*path, key))


def replaced(path, value):
    config = copy.deepcopy(DEFAULT)
    section = config
    for key in path[:-1]:
        section = section[key]
    section[path[-1]] = value
    return config


# Names that could make a rule's paths ambiguous


def patterns():
    """The paths in the rules, relative to results/EXPERIMENT, with wildcards and names as {name}."""
    tops = {"RESULTS": "", "LOGS": "logs/", "BENCHMARKS": "benchmarks/"}
    for file in sorted((ROOT / "rules").glob("*.smk")):
        for top, rest in re.findall(r'f"\{(RESULTS|LOGS|BENCHMARKS)\}/([^"]*)"', file.read_text(encoding="utf-8")):
            yield (tops[top] + rest.replace("{{", "{").replace("}}", "}")).split("/")


def test_what_is_reserved_is_what_the_rules_name_themselves():
    found = {"models": set(), "modes": set(), "evaluation_sets": set()}
    own = {parts[-1].removeprefix("{set}") for parts in patterns() if parts[-1].startswith("{set}")}
    own = {ending for ending in own if "{" not in ending}  # those of comparisons also contain an opponent's name
    assert own == {".parquet", ".alpaca_eval.json", ".record.json", ".checks.parquet", ".checks.json"} | {
        ".log",
        ".tsv",
    }
    for parts in patterns():
        first, *others = parts
        if NAME.fullmatch(first):
            found["models"].add(first)
        if first != "{model}":
            continue
        if NAME.fullmatch(others[0]):
            found["modes"].add(others[0])
        if "{system}" in others or "seed{seed}" in others:
            ends = [parts[-1].removesuffix(ending) for ending in own if parts[-1].endswith(ending)]
            found["evaluation_sets"] |= {end for end in ends if NAME.fullmatch(end)}
    assert found == {section: set(RESERVED[section]) for section in found}


@pytest.mark.parametrize(("section", "name"), [(section, name) for section, own in RESERVED.items() for name in own])
def test_a_reserved_name_is_refused(section, name):
    some = next(iter(DEFAULT[section].values())) if section != "experiment" else None
    (line,) = faults({section: name if some is None else {name: some}})
    assert line.startswith(f"{section}: {name!r} ") and "reserved" in line


@pytest.fixture(scope="module")
def unreserved(tmp_path_factory):
    """A copy of the project that reserves no names of evaluation sets."""
    folder = copy_project(tmp_path_factory.mktemp("unreserved"))
    check = folder / "scripts" / "pipeline" / "config" / "names.py"
    text = check.read_text(encoding="utf-8")
    assert '    "evaluation_sets": ("drift"' in text
    check.write_text(re.sub(r'("evaluation_sets": )\(.*\)', r"\1()", text), encoding="utf-8")
    return folder


@pytest.mark.parametrize(  # one for each ending
    ("name", "file"), [("drift", "poem/chosen/seed1/drift.parquet"), ("harness", "base/harness.record.json")]
)
def test_two_rules_would_claim_a_reserved_name(unreserved, name, file):
    (unreserved / "named.yaml").write_text(
        yaml.safe_dump({"evaluation_sets": {name: {"world_part": "test", "instructions": 30}}, "generation": {"evaluation_set": name}})
    )  # fmt: skip
    target = f"results/test/tiny/{file}"
    done = snakemake(unreserved, target, "-n", configs=("experiments/test.yaml", "named.yaml"))
    assert done.returncode and "AmbiguousRuleException" in done.stdout, done.stdout


def test_every_other_fixed_name_can_be_given(tmp_path):
    """One run with the names of fixed files, folders, rules and tables that are not reserved."""
    config = yaml.safe_load((ROOT / "experiments" / "test.yaml").read_text(encoding="utf-8"))
    tiny = merged(DEFAULT["models"]["tiny"], config["models"]["tiny"])
    overlay = {
        "experiment": "findings",
        "run": {"models": ["base", "rewriting"], "modes": ["chosen", "selected", "sets", "epochs1"]},
        "models": {"base": tiny, "rewriting": tiny | {"world_seed": 2}},
        "datasets": {"sets": DEFAULT["datasets"]["lima"], "access": DEFAULT["datasets"]["poem"]},
        "evaluation_sets": {name: DEFAULT["evaluation_sets"]["test"] for name in ("record", "model", "tokens", "sets")},
        "modes": {
            "chosen": {"dataset": "sets", "label": "a"}, "selected": {"dataset": "access", "label": "b"},
            "sets": {"dataset": "sets", "label": "c"}, "epochs1": {"dataset": "sets", "label": "d"},
        },
        "rules": {"variants": {"tokens": {"use": ["eos"]}, "chosen": {"use": ["uniform"]}}},
        "generation": {"evaluation_set": "record"},
        "ranking": {"evaluation_set": "model", "modes": ["chosen", "sets"]},
        "judge": {"reference_mode": "chosen"},
    }  # fmt: skip
    folder = copy_project(tmp_path)
    (folder / "named.yaml").write_text(yaml.safe_dump(overlay))
    done = snakemake(folder, "-n", "-q", configs=("experiments/test.yaml", "named.yaml"))
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["", "a" * 65, "a.b", "a/b", "..", "A", "ä", "a b", "-a", "a\n", "{a}"])
def test_a_name_that_no_path_should_have_is_refused(name):
    for section in ("models", "datasets", "evaluation_sets", "modes"):
        assert any(section in line for line in faults({section: {name: next(iter(DEFAULT[section].values()))}}))


@pytest.mark.parametrize("name", [1, True, 1.5])
def test_a_name_that_yaml_takes_for_a_number_is_to_be_quoted(name):
    (line,) = faults({"datasets": {name: DEFAULT["datasets"]["lima"]}})
    assert line.startswith("datasets.1") and "put it in quotes" in line


# Labels


def variants(**own):
    return {"rules": {"variants": own}}


@pytest.mark.parametrize(
    ("overlay", "places"),
    [
        ({"modes": {"poem": {"label": "base"}}}, ["modes.poem.label ('base')", "base model"]),
        ({"modes": {"poem": {"label": "  BASE "}}}, ["modes.poem.label ('  BASE ')", "base model"]),
        ({"modes": {"poem": {"label": "Code"}}}, ["modes.poem.label ('Code')", "modes.code.label ('code')"]),
        ({"modes": {"poem": {"label": "instruction\u00a0tuning"}}}, ["modes.poem", "modes.instruction_tuning"]),
        ({"modes": {"poem": {"label": "base + rules without eos"}}}, ["modes.poem.label", "rules.variants.no_eos"]),
        (variants(all={"use": ["diversity", "uniform", "eos"]}), ["rules.variants.all", "rules.variants.rules"]),
        (variants(short={"use": ["uniform", "diversity"], "max_new_tokens": 5}), ["variants.short", "variants.no_eos"]),
    ],
)
def test_labels_that_a_reader_cannot_tell_apart_are_refused(overlay, places):
    (line,) = faults(overlay)
    assert all(place in line for place in places), line


@pytest.mark.parametrize("label", ["", "  ", "two\nlines", "a\x00b"])
def test_a_label_is_a_line_of_text(label):
    (line,) = faults({"modes": {"poem": {"label": label}}})
    assert line.startswith("modes.poem.label: ") and repr(label) in line


# Lists


def lists(node, path=()):
    """The paths of all lists in a JSON schema, with their shapes."""
    if isinstance(node, dict):
        if node.get("type") == "array":
            yield [part for part in path if part not in ("anyOf", "properties", "items")], node
        for key, value in node.items():
            yield from lists(value, (*path, key))
    elif isinstance(node, list):
        for item in node:
            yield from lists(item, path)


def test_in_every_list_of_a_config_an_entry_is_there_once():
    """Also in a mapping that is checked later: only a range of rows and the words of a command may have duplicates."""
    found = {path[-1]: shape.get("uniqueItems", False) for path, shape in lists(Config.model_json_schema())}
    assert len(found) >= 10 and {name for name, unique in found.items() if not unique} == {"rows", "options"}


@pytest.mark.parametrize(
    ("overlay", "key"),
    [
        ({"run": {"modes": ["instruction_tuning", "poem", "poem"]}}, "run.modes: "),
        ({"run": {"models": ["tiny", "tiny"]}}, "run.models: "),
        ({"models": {"tiny": {"test_seeds": [3, 3]}}}, "models.tiny.test_seeds: "),
        ({"ranking": {"modes": ["poem", "poem"]}}, "ranking.modes: "),
        ({"rules": {"variants": {"rules": {"use": ["eos", "eos"]}}}}, "rules.variants.rules.use: "),
        ({"drift": {"documents": 2, "harness": {"tasks": ["arc_easy", "arc_easy"]}}}, "drift.harness.tasks: "),
        ({"similarity": {"encoder": "a/b", "modes": ["poem", "poem"], "baseline": "lima", "seed": 1}}, "similarity.modes: "),
    ],
)  # fmt: skip
def test_an_entry_that_is_there_twice_is_named(overlay, key):
    (line,) = faults(overlay)
    assert line.startswith(key) and "more than once" in line


def test_two_conditions_that_give_the_same_model_are_refused():
    values = {
        "0": {"pretrain": {"corpus": {"intact_pairs": 0}}},
        "100": {"pretrain": {"corpus": {"intact_pairs": 1.0}}},
    }
    conditions = {"model": "tiny", "worlds": [3, 4], "axis": "share", "values": values}
    assert check_config(merged(DEFAULT, {"conditions": conditions}))
    (line,) = faults({"conditions": conditions | {"values": values | {"all": {}}}})
    assert line.startswith("conditions.values: 100, all ")


# References


@pytest.mark.parametrize(
    ("overlay", "key", "similar"),
    [
        ({"run": {"modes": ["instruction_tuning", "peom"]}}, "run.modes", "poem"),
        ({"plan": {"tokens": {"lma": 3}}}, "plan.tokens", "lima"),
        ({"modes": {"poem": {"published": "poetry"}}}, "modes.poem.published", "Poetry"),
        ({"tuning": {"learning_rte": 1}}, "tuning.learning_rte", "learning_rate"),
        ({"judge": {"kind": "evaluator", "evaluator": "weighted_alpaca_eval_gpt4_turb"}}, "judge.evaluator", "weighted_alpaca_eval_gpt4_turbo"),
    ],
)  # fmt: skip
def test_a_name_that_is_unknown_comes_with_a_similar_one(overlay, key, similar):
    (line,) = faults(overlay)
    assert line.startswith(f"{key}: ") and line.endswith(f"did you mean {similar!r}?")


# Values


def numbers():
    """Every number of the default config with its path."""
    return [
        (path, value)
        for path, value in leaves(DEFAULT)
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]


@pytest.mark.parametrize("wrong", [True, float("nan"), float("inf"), "many", [], {}])
def test_no_number_of_a_config_can_be_anything_else(wrong):
    assert len(numbers()) > 70
    for path, _ in numbers():
        key = ".".join(str(part) if str(part).isprintable() else repr(part) for part in path)
        assert any(line.startswith(f"{key}: ") for line in faults(replaced(path, wrong))), key


def test_a_number_without_a_dot_in_yaml_is_still_a_number():
    assert check_config(replaced(("tuning", "learning_rate"), yaml.safe_load("1e-4"))).tuning.learning_rate == 1e-4


def test_seeds_are_what_all_random_generators_take():
    """NumPy's generator rejects negative seeds, and Python's treats -1 like 1."""
    seeds = [path for path, _ in numbers() if any("seed" in str(part) for part in path)]
    assert len(seeds) >= 8
    for path in seeds:
        for wrong in (-1, 2**40):
            assert any(line.startswith(".".join(map(str, path))) for line in faults(replaced(path, wrong))), path


@pytest.mark.parametrize("value", [float("nan"), yaml.safe_load("2024-01-01")])
def test_what_a_request_holds_can_be_sent(value):
    server = {"base_url": "http://a/v1", "model": "m", "price": {"input": 0, "output": 0}}
    request = {"logprobs": True, "top_logprobs": 5, "extra": {"since": value}}
    (line,) = faults({"judge": {"kind": "server", "server": server | {"request": request}}})
    assert line.startswith("judge.server.request: 'extra' ")
