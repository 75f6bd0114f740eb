"""README.md and docs/: every command runs, every config is run, every function named exists.

Slow commands are run in a dry form, as defined in COMMANDS; what they would do is covered by other tests.
"""

import ast
import csv
import json
import re
import shlex
import subprocess
import tomllib

import architectures
import pytest
import yaml
from documents import DOCUMENTS, Block, blocks, commands
from judge_server import KEY, Service, labelled, served
from workflow import ROOT, copy_project, environment, snakemake

from pipeline.config.check import check_config
from pipeline.config.schema import merged
from pipeline.files.storage import read_json, read_table

LONG = "takes minutes or more; what it does is run by other tests"
BUILT = "for real, with the environment that is there (-o environment)"
CLUSTER = "needs GPUs, a hub or a cluster"

# Command in the documents: what is run instead, and why.
COMMANDS = {
    "make run": ("make -n run", LONG),
    "make test": ("make -n test", "it would run this test"),
    "make plan": ("make -o environment plan", BUILT),
    "make verify": ("make -n verify", LONG),
    "make compare A=results/x B=results/y": ("make -n compare A=results/x B=results/y", LONG),
    "make archive EXPERIMENT=tiny": ("make -n archive EXPERIMENT=tiny", LONG),
    "make bench": ("make -n bench", LONG),
    "make findings": ("make -n findings", LONG),
    "make laptop": ("make -n laptop", LONG),
    "make laptop CONFIG=my-data.yaml": ("make -n laptop CONFIG=my-data.yaml", LONG),
    'make run CONFIG="experiments/paper.yaml experiments/small.yaml"': (
        "snakemake -n --configfile experiments/paper.yaml experiments/small.yaml",
        CLUSTER,
    ),
    "make docs": ("make -o environment docs", BUILT),
    "python scripts/judge_outputs.py --judge results/own-judge/judge/mine/model --responses ours.json --opponent theirs.json "
    "--output preferences.json": (
        "python scripts/judge_outputs.py --help",
        "needs a trained judge: see tests/test_rewards.py",
    ),
    "snakemake --cores all": ("snakemake --cores all -n", LONG),
    "snakemake --cores all --configfile experiments/seeds.yaml": (
        "snakemake --cores all -n --configfile experiments/seeds.yaml",
        LONG,
    ),
    "snakemake -n": ("snakemake -n", "for real"),
    "snakemake conditions --cores all --configfile experiments/controls/world.yaml experiments/controls/pairs.yaml": (
        "snakemake conditions -n --cores all --configfile experiments/controls/world.yaml experiments/controls/pairs.yaml",
        LONG,
    ),
    "snakemake tune --cores all": ("snakemake tune --cores all -n", LONG),
    "make plan CONFIG=experiments/paper.yaml": ("make -o environment plan CONFIG=experiments/paper.yaml", BUILT),
    "snakemake -n --configfile experiments/paper.yaml": (
        "snakemake -n --configfile experiments/paper.yaml",
        "for real",
    ),
    "snakemake --cores 16 --resources gpu=8 --configfile experiments/paper.yaml": (
        "snakemake -n --cores 16 --resources gpu=8 --configfile experiments/paper.yaml",
        CLUSTER,
    ),
    "snakemake --workflow-profile profiles/slurm --configfile experiments/paper.yaml": (
        "snakemake -n --workflow-profile profiles/slurm --configfile experiments/paper.yaml",
        CLUSTER,
    ),
}

# Overrides for real runs: only as many jobs as needed to run it to the end.
SMALL = {
    "run": {"test_seeds": [1]}, "selection": {"epochs": [1]}, "rules": None, "ranking": None,
    "models": {"tiny": {"pretrain": {"tokens": 20000, "documents": 800}}}, "generation": {"max_new_tokens": 8},
    "evaluation_sets": {"test": {"instructions": 12}}, "judge": {"bootstrap": 5},
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A copy of the project with custom data, questions, model and template, where the documents expect them."""
    folder = copy_project(tmp_path_factory.mktemp("own"), "Makefile", "envs", "config.schema.json", "docs", "bench")
    for name, question in (("mine", "What is {} and one?"), ("asked", "What is {} and two?")):
        rows = [{"question": question.format(n), "answer": f"It is {n}."} for n in range(40)]
        write(folder / "data" / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    riddles = [{"riddle": f"What has {n} legs?", "solution": f"A bug of {n}." if n % 5 else None} for n in range(50)]
    write(folder / "data" / "riddles.jsonl", "".join(json.dumps(row) + "\n" for row in riddles))
    talks = [
        {"conversations": [{"from": "human", "value": f"a{n}"}, {"from": "gpt", "value": f"b{n}"}]} for n in range(40)
    ]
    write(folder / "mine.jsonl", "".join(json.dumps(row) + "\n" for row in talks))
    for name, first in (("mine.csv", 0), ("questions.jsonl", 0)):
        rows = [{"question": f"What is {n}?", "answer": f"It is {n}."} for n in range(first, first + 40)]
        lines = ["question,answer", *(f"{row['question']},{row['answer']}" for row in rows)]
        write(folder / name, "\n".join(lines if name.endswith("csv") else map(json.dumps, rows)) + "\n")
    for name in ("pandalm", "gpt4"):
        write(folder / "data" / f"{name}.jsonl", "")
    write(folder / "prompts" / "mine.txt", "{instruction}\nm: {output_1}\nM: {output_2}\nWhich is better, m or M?")
    for name in ("mine", "judge"):
        architectures.save("llama-3", folder / "models" / name, context=1024)
    return folder


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def lay_over(folder, *layers):
    """Write layers as files, with a block's text unchanged; returns all of them, on top of the test experiment.

    Without the controls that only the test experiment has: they apply to worlds only.
    """
    names = [f"layer{i}.yaml" for i in range(len(layers))]
    for name, layer in zip(names, layers, strict=True):
        write(folder / name, layer.text if isinstance(layer, Block) else yaml.safe_dump(layer))
    write(folder / "plain.yaml", yaml.safe_dump({"drift": None, "ranking": {"negatives": ["any"]}}))
    return ("experiments/test.yaml", "plain.yaml", *names)


def block_of(experiment):
    """The block of the documents that defines an experiment."""
    return next(block for block in blocks("yaml") if yaml.safe_load(block.text).get("experiment") == experiment)


@pytest.mark.parametrize("command", commands())
def test_every_command_of_the_documents_runs(folder, command):
    assert command in COMMANDS, f"{command}: say in COMMANDS of {__file__} how it is tried out"
    done = subprocess.run(
        shlex.split(COMMANDS[command][0]), cwd=folder, env=environment(), text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_every_target_of_make_that_is_named_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    named = {name for text in map(read, DOCUMENTS) for name in re.findall(r"`make ([a-z-]+)", text)}
    assert len(named) > 6 and named <= targets


def test_no_command_is_tried_out_that_stands_nowhere():
    assert set(COMMANDS) == set(commands())


@pytest.mark.parametrize("block", [block for block in blocks("yaml") if "recipe: riddles" not in block.text], ids=str)
def test_every_config_of_the_documents_can_be_run(folder, block, monkeypatch):
    """On top of the default experiment for the check, of the test experiment for a dry run; special cases are below."""
    assert len(block.text.splitlines()) <= (10 if block.document == "README.md" else 14)
    monkeypatch.chdir(folder)
    own = yaml.safe_load(block.text)
    check_config(merged(yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")), own))
    done = snakemake(folder, "-n", configs=lay_over(folder, block))
    assert done.returncode == 0, done.stdout
    assert "generate_responses" in done.stdout


SMALLER = re.findall(r"^\| [^|]+ \| `(\{?\w+: \{.*\})` \|$", read("README.md"), flags=re.MULTILINE)


@pytest.mark.parametrize("change", [change for change in SMALLER if "tracking" not in change])
def test_every_smaller_change_is_one(change):
    """All except the one that needs a package that is not installed, which is tested with the metrics."""
    raw = yaml.safe_load(read("config.yaml"))
    assert check_config(merged(raw, yaml.safe_load(change))) != check_config(raw)


def test_all_smaller_changes_are_tried_out():
    _, _, after = read("README.md").partition("| to | write |\n|---|---|\n")
    assert len(SMALLER) == len(after.split("\n\n")[0].splitlines()) > 5


@pytest.mark.parametrize("experiment", ["my-data", "my-model"])
def test_own_data_and_an_own_model_come_through(folder, experiment):
    small = {key: value for key, value in SMALL.items() if not (experiment == "my-model" and key == "judge")}
    done = snakemake(folder, configs=lay_over(folder, block_of(experiment), small))
    assert done.returncode == 0, done.stdout[-6000:]
    made = folder / "results" / experiment
    modes = yaml.safe_load(block_of(experiment).text)["run"]["modes"]
    responded = (made / "tables" / "responses.md").read_text(encoding="utf-8")
    assert all(f" {mode}/chosen/seed1 " in responded for mode in modes)
    if experiment == "my-data":
        for table, label in (("table1", "my responses"), ("table3", "my data")):
            assert f" {label} " in (made / "tables" / f"{table}.md").read_text(encoding="utf-8")
    assert (made / "report.html").stat().st_size > 10_000


def test_an_own_mode_and_an_own_judge_come_through(folder, monkeypatch):
    """Both in one run. The judge listens on a free port; the learning rate makes modes differ, as ties are not judged."""
    mode, judge = block_of("my-mode"), block_of("my-judge")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    service = Service(labelled())
    with served(service) as url:
        needed = {"tuning": {"learning_rate": 0.01}, "judge": {"server": {"base_url": url}}}
        done = snakemake(folder, "tables", configs=lay_over(folder, mode, judge, SMALL, needed))
    assert done.returncode == 0, done.stdout[-6000:]
    asked = yaml.safe_load(judge.text)["judge"]
    expected = {"model": asked["server"]["model"], **asked["server"]["request"]}
    assert all(expected.items() <= body.items() for body in service.bodies)
    assert set(service.keys) == {f"Bearer {KEY}"}
    made = folder / "results" / "my-judge"
    rows = csv.DictReader((made / "tables" / "table3.csv").read_text(encoding="utf-8").splitlines())
    judges = {row["tuning"]: row["judge"] for row in rows}
    for name, given in yaml.safe_load(mode.text)["modes"].items():
        assert judges[given["label"]] == asked["name"]
        record = read_json(made / "tiny" / name / "chosen" / "seed1" / "record.json")
        assert given["tuning"].items() <= record["settings"]["tuning"].items()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_to_files(name):
    text = read(name)
    for link in re.findall(r"\]\(([^)#]+?)\)", text):
        assert link.startswith("https://") or ((ROOT / name).parent / link).exists(), link


def test_the_citation_is_of_this_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {"cff-version", "message", "title", "authors"} <= set(cited)
    assert (cited["version"], cited["license"]) == (project["version"], project["license"])
    assert [paper["title"] for paper in cited["references"]] == ["Instruction Following without Instruction Tuning"]


def names_in(path):
    """The functions, classes and methods of a file: `f`, `C`, `C.m`."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
            inner = node.body if isinstance(node, ast.ClassDef) else []
            found |= {f"{node.name}.{own.name}" for own in inner if isinstance(own, ast.FunctionDef)}
    return found


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_function_and_file_that_is_named_exists(name):
    text = read(name)
    named = re.findall(r"`(scripts/[\w/]+\.py):([\w.]+)`", text)
    assert len(named) > 25 or name != "docs/method.md"
    for file, function in named:
        assert function in names_in(ROOT / file), f"{file} has no {function}"
    for file in re.findall(r"`((?:scripts|rules|tests|envs|experiments|profiles|docs)/[\w./-]+\.\w+)`", text):
        assert (ROOT / file).is_file(), file


def test_a_recipe_is_added_as_the_document_says(tmp_path, folder):
    """Apply the diff in docs/extending.md to a copy, and make the dataset."""
    copy_project(tmp_path)
    write(tmp_path / "data" / "riddles.jsonl", (folder / "data" / "riddles.jsonl").read_text(encoding="utf-8"))
    (change,) = blocks("diff")
    write(tmp_path / "change.diff", change.text)
    applied = subprocess.run(
        ["git", "apply", "--recount", "change.diff"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert applied.returncode == 0, applied.stderr
    made = "results/riddles/data/files/riddles.parquet"
    done = snakemake(tmp_path, made, configs=lay_over(tmp_path, block_of("riddles")))
    assert done.returncode == 0, done.stdout
    rows = read_table("conversations", tmp_path / made)
    assert [m["content"] for m in rows[0]["messages"]] == ["What has 1 legs?", "A bug of 1."] and len(rows) == 40
    log = (tmp_path / "results/riddles/logs/make_dataset/files/riddles.log").read_text(encoding="utf-8")
    assert "10" in log and "riddles without a solution: skipped" in log
