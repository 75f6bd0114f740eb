"""The values in config files reach the scripts as intended, or the run is refused with one line."""

import json
import re
import shlex
import subprocess
import sys

import pytest
import yaml
from workflow import ROOT, copy_project, environment, snakemake

from pipeline.config.check import ConfigError, check_config
from pipeline.config.files import doubled_keys
from pipeline.config.schema import merged
from pipeline.files.hub import find_commit, is_hub_id
from pipeline.jobs.command import InputError

DEFAULT = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
TEST = yaml.safe_load((ROOT / "experiments" / "test.yaml").read_text(encoding="utf-8"))
CONFIGS = sorted([ROOT / "config.yaml", *(ROOT / "experiments").rglob("*.yaml")])


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project for dry runs only, in a folder whose name needs quoting."""
    folder = tmp_path_factory.mktemp("files") / "my project's"
    folder.mkdir()
    return copy_project(folder)


def dry_run(project, overlay, *targets):
    """A dry run of the test experiment with an overlay, with shell commands; returns its status and output."""
    (project / "own.yaml").write_text(yaml.safe_dump(overlay, allow_unicode=True), encoding="utf-8")
    done = snakemake(project, *targets, "-n", "-p", configs=("experiments/test.yaml", "own.yaml"))
    return done.returncode, done.stdout


def commands(printed, script):
    """The arguments of every shell command that runs a script."""
    lines = re.findall(
        rf"^ *Shell command: ((?:printf|python) .*\bscripts/{script}\.py .*)$", printed, flags=re.MULTILINE
    )
    assert lines, printed
    return [shlex.split(line) for line in lines]


def after(words, option):
    """The arguments of an option, up to the next one."""
    rest = words[words.index(option) + 1 :]
    return rest[: next(i for i, word in enumerate(rest) if word.startswith(("--", ">")))]


def refused(overlay):
    """The single line with which the test experiment with an overlay is refused."""
    with pytest.raises(ConfigError) as caught:
        check_config(merged(DEFAULT, TEST, overlay))
    (line,) = str(caught.value).splitlines()
    return line


# Duplicate keys


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.yaml", "tuning:\n  batch_size: 4\nrun: {}\ntuning: {warmup: 0}\n", ["tuning occurs", "lines 1 and 4"]),
        (
            "a.yaml",
            "models:\n  a:\n    path: x\n    gated: true\n    path: y\n",
            ["models.a.path occurs", "lines 3 and 5"],
        ),
        ("a.yaml", "modes: {poem: {label: a, label: b}}\n", ["modes.poem.label occurs", "lines 1 and 1"]),
        ("a.yaml", "conditions: {values: {'1': {}, 1: {}}}\n", ["conditions.values.1 occurs"]),
        ("a.yaml", "a: &x {b: 1, b: 2}\nc: *x\n", ["a.b occurs"]),
        ("a.yaml", "a:\n- {b: 1}\n- b: 1\n  b: 2\n", ["a.b occurs", "lines 3 and 4"]),
        ("a.json", '{\n\t"run": {},\n\t"run": {"modes": []}}', ["run occurs", "lines 2 and 3"]),
        ("a.yaml", "a: {\n", ["not valid YAML"]),
    ],
)
def test_a_key_that_is_there_twice_is_named_with_both_lines(tmp_path, name, text, told):
    (tmp_path / name).write_text(text)
    (line,) = doubled_keys(tmp_path / name)
    assert line.startswith(str(tmp_path / name)) and all(part in line for part in told) and "\n" not in line


@pytest.mark.parametrize("path", CONFIGS, ids=[path.name for path in CONFIGS])
def test_no_file_of_the_project_has_a_key_twice(path):
    assert doubled_keys(path) == []


def test_what_is_not_twice_is_not_named(tmp_path):
    (tmp_path / "a.yaml").write_text("a: &x {b: 1}\nc: {<<: *x, b: 2}\nd: [*x, *x]\n")
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    (tmp_path / "a.json").write_text('{"a": {"b": 1},\n\t"c": {"b": "\\ud83d\\ude00 \\/"}}')
    assert [doubled_keys(path) for path in sorted(tmp_path.iterdir())] == [[], [], []]


def test_snakemake_refuses_a_file_with_a_key_twice(project):
    for name, text in (
        ("twice.yaml", "tuning: {warmup: 0}\ntuning: {}\n"),
        ("twice.json", '{"note": "a",\n "note": "b"}'),
    ):
        (project / name).write_text(text)
        done = snakemake(project, "-n", configs=("experiments/test.yaml", name))
        assert done.returncode and f"{project / name}: " in done.stdout and "lines 1 and 2" in done.stdout


# Values that a model or a mode overrides


def tiny(**own):
    return {"models": {"tiny": own}}


@pytest.mark.parametrize(
    ("overlay", "key"),
    [
        (tiny(tuning={"max_length": 4096}), "models.tiny.tuning.max_length: 4096"),
        ({"modes": {"poem": {"tuning": {"max_length": 4096}}}}, "modes.poem.tuning.max_length: 4096"),
        ({"tuning": {"max_length": 4096}}, "tuning.max_length: 4096"),
        (
            tiny(tuning={"max_length": 9}) | {"modes": {"poem": {"tuning": {"max_length": 4096}}}},
            "modes.poem.tuning.max",
        ),
    ],
)
def test_a_length_is_checked_as_it_holds_for_a_model_and_mode(overlay, key):
    assert refused(overlay).startswith(key)


def test_a_length_that_every_model_and_mode_overrides_is_not_used():
    check_config(merged(DEFAULT, TEST, {"tuning": {"max_length": 4096}}, tiny(tuning={"max_length": 64})))
    modes = {mode: {"tuning": {"max_length": 64}} for mode in TEST["run"]["modes"]}
    check_config(merged(DEFAULT, TEST, {"tuning": {"max_length": 4096}, "modes": modes}))


def test_a_seed_is_one_of_the_model_s_own():
    own = {"encoder": "a/b", "modes": ["poem"], "baseline": "lima"}
    check_config(merged(DEFAULT, TEST, tiny(test_seeds=[7]), {"similarity": own | {"seed": 7}}))
    line = refused(tiny(test_seeds=[7]) | {"similarity": own | {"seed": 1}})
    assert line.startswith("similarity.seed: 1 ") and "'tiny'" in line and "[7]" in line


@pytest.mark.parametrize(
    ("overlay", "strict"),
    [
        ({}, ["lima", "poem"]),
        (tiny(tuning={"too_long": "cut"}), []),
        ({"tuning": {"too_long": "cut"}} | tiny(tuning={"too_long": "error"}), ["lima", "poem"]),
        ({"modes": {"poem": {"tuning": {"too_long": "cut"}}}}, ["lima"]),
        ({"modes": {"response_tuning": {"tuning": {"too_long": "cut"}}}}, ["lima", "poem"]),
        ({"tuning": {"too_long": "cut"}, "modes": {"poem": {"tuning": {"too_long": "error"}}}}, ["poem"]),
    ],
)
def test_a_dataset_is_checked_as_strictly_as_its_modes_want(overlay, strict):
    assert check_config(merged(DEFAULT, TEST, overlay)).whole_datasets("tiny") == strict


def test_the_rules_check_those_datasets_where_a_model_is_made_or_taken(project):
    """Before pre-training, the user's own datasets; for the other models, also those drawn from the world."""
    (project / "rows.jsonl").write_text("".join(json.dumps({"q": f"q {i}", "a": f"a {i}"}) + "\n" for i in range(40)))
    own = {"file": "rows.jsonl", "user": "{q}", "assistant": "{a}"}
    modes = {"poem": {"tuning": {"too_long": "cut"}}, "response_tuning": {"dataset": "chess"}}
    status, printed = dry_run(project, {"datasets": {"poem": own, "lima": own}, "modes": modes}, "model")
    assert status == 0, printed
    expected = {"pretrain": ["files/lima"], "take_base": ["files/lima", "world1/chess"]}
    for script, names in expected.items():
        (words,) = commands(printed, script)
        (file,) = after(words, "--conversations")
        done = snakemake(project, file.removeprefix("@"), configs=("experiments/test.yaml", "own.yaml"))
        assert done.returncode == 0, done.stdout
        listed = (project / file.removeprefix("@")).read_text().splitlines()
        assert listed == [f"results/test/data/{name}.parquet" for name in names]


# Paths and texts

STRANGE = 'Größe\'s "$HOME" `x` & #1;%.csv'


def test_files_and_texts_reach_the_scripts_as_they_are(project):
    (project / STRANGE).write_text("q,a\nb,c\n", encoding="utf-8")
    label, note = "a {mode} <results> {{x}} \"q\" $HOME 'b' \\", "{note} {} <logs> `ls`"
    overlay = {
        "datasets": {"poem": {"file": f".//{STRANGE}", "user": "{q}", "assistant": "{a} {{x}}"}},
        "modes": {"poem": {"label": label}},
        "judge": {"df_gamed": STRANGE, "metric": "length_controlled_v1"},
        "note": note,
    }
    status, printed = dry_run(project, overlay)
    assert status == 0, printed
    (read,) = [words for words in commands(printed, "make_dataset") if "files" in " ".join(words)]
    source = json.loads(*after(read, "--settings"))["source"]
    assert source["file"] == STRANGE and source["assistant"] == "{a} {{x}}"
    assert all(f"--gamed={STRANGE}" in words for words in commands(printed, "judge_responses"))
    (made,) = commands(printed, "make_tables")
    assert json.loads(made[2])["note"] == note  # printf %s SETTINGS |
    (made,) = commands(printed, "collect_metrics")
    systems = [result["system"] for result in json.loads(made[2])["results"] if result["system"]]
    assert label in {system["label"] for system in systems}
    status, printed = dry_run(project, overlay, "verify")
    assert status == 0 and f"--gamed={STRANGE}" in commands(printed, "verify")[0]


def test_a_file_with_a_strange_name_is_read(project):
    (project / STRANGE).write_text("q,a\n" + "".join(f"question {i},answer {i}\n" for i in range(40)), encoding="utf-8")
    (project / "own.yaml").write_text(
        yaml.safe_dump(
            {"datasets": {"poem": {"file": STRANGE, "user": "{q}", "assistant": "{a}"}}}, allow_unicode=True
        ),
        encoding="utf-8",
    )
    target = "results/test/data/files/poem.parquet"
    done = snakemake(project, target, configs=("experiments/test.yaml", "own.yaml"))
    assert done.returncode == 0 and (project / target).is_file(), done.stdout


KEYS = {
    "datasets.poem.file": lambda path: {"datasets": {"poem": {"file": path, "user": "{q}", "assistant": "{a}"}}},
    "evaluation_sets.test.file": lambda path: {"evaluation_sets": {"test": {"file": path, "instruction": "{q}", "reference": "{a}"}}},
    "judge.df_gamed": lambda path: {"judge": {"df_gamed": path}},
    "judge.template": lambda path: {"judge": {"template": path}},
    "drift.file": lambda path: {"drift": {"file": path}},
    "models.tiny.path": lambda path: {"models": {"tiny": {"pretrain": None, "path": path}}},
    "judge.path": lambda path: {"judge": {"kind": "local", "path": path}},
    "similarity.encoder": lambda path: {"similarity": {"encoder": path, "modes": ["poem"], "baseline": "lima", "seed": 1}},
    "judge.evaluator": lambda path: {"judge": {"kind": "evaluator", "evaluator": path}},
}  # fmt: skip


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("path", ["", " ", "a\nb.csv", "{x}.csv", "<results>.csv", " a.csv", "a.csv ", "a}.csv"])
def test_a_path_that_cannot_be_passed_on_is_refused(key, path):
    line = refused(KEYS[key](path))
    assert line.startswith(f"{key}: ") and repr(path) in line


@pytest.mark.parametrize("key", KEYS)
def test_a_tilde_is_the_home_directory_everywhere(key, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (line,) = [line for line in all_faults(KEYS[key]("~/none.csv")) if line.startswith(key.removesuffix(".file"))]
    assert str(tmp_path / "none.csv") in line and "~" not in line


def all_faults(overlay):
    with pytest.raises(ConfigError) as caught:
        check_config(merged(DEFAULT, TEST, overlay))
    return str(caught.value).splitlines()


def test_what_is_a_directory_and_what_an_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here" / "model").mkdir(parents=True)
    ids = ["org/name", "gpt2", "meta-llama/Llama-2-7b-hf", "Qwen/Qwen2.5-0.5B", "models/llama"]
    directories = [
        "~/llama",
        "./llama",
        "../llama",
        "/llama",
        "a/b/c",
        "models/llama/",
        "my models/llama",
        "here/model",
        "a\\b",
        "ä/b",
        ".",
    ]
    assert [path for path in ids + directories if is_hub_id(path)] == ids


@pytest.mark.parametrize("path", ["./llama", "../llama", "/no/llama", "models/llama/", "a/b/c", "my models/llama"])
def test_a_model_s_directory_that_is_not_there_is_named(path):
    line = refused(KEYS["models.tiny.path"](path))
    assert line.startswith(f"models.tiny.path: no such directory: {path} (")


def test_what_is_neither_on_the_hub_nor_a_directory_is_told_as_both(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"model models/llama: .*HF_HUB_OFFLINE.*no directory models/llama here"):
        find_commit("model", "models/llama", None)


# Another folder


def test_a_run_from_another_folder_is_refused_in_one_line_with_what_to_do(project, tmp_path):
    def run(*arguments):
        words = [sys.executable, "-m", "snakemake", "-s", project / "Snakefile", "-n", "--cores", "1", *arguments]
        return subprocess.run(
            [*words, "--configfile", project / "experiments" / "test.yaml"],
            cwd=tmp_path, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip

    done = run()
    assert (
        done.returncode and str(tmp_path) in done.stdout and f"--directory {shlex.quote(str(project))}" in done.stdout
    )
    assert "missing" not in done.stdout
    assert run("--directory", project).returncode == 0


# The number of rows requested


@pytest.mark.parametrize(
    ("overlay", "key"),
    [
        (
            {"judge": {"kind": "local", "path": "a/b"}, "selection": {"evaluation_set": "own"}},
            "selection.evaluation_set: ",
        ),
        ({"ranking": {"evaluation_set": "own", "negatives": ["any"]}}, "ranking.evaluation_set: "),
        ({"generation": {"evaluation_set": "own"}}, "judge.kind: "),
        ({"ranking": {"evaluation_set": "answers"}}, "ranking.negatives: "),
    ],
)
def test_an_evaluation_set_has_what_it_is_asked_for(overlay, key, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"q": "a", "a": "b"}\n')
    own = {"file": str(tmp_path / "rows.jsonl"), "instruction": "{q}"}
    sets = {"evaluation_sets": {"own": own, "answers": own | {"reference": "{a}"}}}
    assert refused(sets | overlay).startswith(key)
