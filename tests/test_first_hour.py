"""What someone meets who brings a config of their own: one clear message, and nothing of theirs replaced."""

import subprocess
import sys

import pytest
import yaml
from workflow import ROOT, copy_project, environment, snakemake

from pipeline.config.check import check_config
from pipeline.config.files import read_layers
from pipeline.config.schema import merged
from pipeline.config.values import mixed_worlds
from pipeline.files.storage import read_table
from pipeline.run.made_with import OtherExperiment, changed, record_of, refuse_other, remember

ROWS = "question,answer\n" + "".join(f"q{i},a{i}\n" for i in range(30))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder with the default config, two rows of which are in a file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text((ROOT / "config.yaml").read_text())
    (tmp_path / "mine.csv").write_text(ROWS)
    return tmp_path


def checked(*overlays):
    """The checked config of overlays, written to files of their own; and these files."""
    files = ["config.yaml"]
    for number, overlay in enumerate(overlays):
        files.append(f"own{number}.yaml")
        with open(files[-1], "w", encoding="utf-8") as file:
            yaml.safe_dump(overlay, file)
    layers, faults = read_layers(files)
    assert not faults
    return check_config(merged(*layers), files), files


MINE = {"file": "mine.csv", "user": "{question}", "assistant": "{answer}"}


def test_a_file_in_place_of_a_world_is_used_whole_unless_its_own_layer_says_how_much(place):
    config, _ = checked(
        {
            "datasets": {"lima": MINE},
            "judge": None,
            "selection": {"epochs": [1]},
            "evaluation_sets": {"test": {"file": "mine.csv", "instruction": "{question}", "reference": "{answer}"}},
        }
    )
    assert config.datasets["lima"].examples is None and config.evaluation_sets["test"].instructions is None
    assert config.datasets["poem"].examples == 300 and config.evaluation_sets["validation"].instructions == 120
    config, _ = checked({"datasets": {"lima": MINE | {"examples": 20}}})
    assert config.datasets["lima"].examples == 20
    config, _ = checked({"datasets": {"lima": MINE}}, {"datasets": {"lima": {"examples": 10}}})
    assert config.datasets["lima"].examples == 10


def test_a_file_with_the_rows_of_a_hub_keeps_the_number_that_was_stated_for_them(place):
    hub = {"hub": {"id": "mine/rows"}, "user": "{question}", "assistant": "{answer}", "examples": 15}
    config, _ = checked({"datasets": {"lima": hub}}, {"datasets": {"lima": {"file": "mine.csv"}}})
    assert (config.datasets["lima"].origin, config.datasets["lima"].examples) == ("file", 15)


def test_whoever_tunes_on_one_world_and_asks_about_another_is_told(place):
    assert mixed_worlds(checked()[0]) == []
    (note,) = mixed_worlds(checked({"datasets": {"poem": MINE}})[0])
    assert note.startswith("note: poem: tuned on data of your own, but asked the tiny world's questions")
    asked = {"test": {"file": "mine.csv", "instruction": "{question}", "reference": "{answer}"}}
    own = {"judge": None, "selection": {"epochs": [1]}, "evaluation_sets": asked}
    (note,) = mixed_worlds(checked(own)[0])
    assert "instruction_tuning" in note and "asked questions from elsewhere (evaluation_sets.test)" in note


def test_results_are_not_replaced_by_an_overlay_without_a_name(place):
    config, files = checked()
    refuse_other(config, files)  # nothing there yet
    remember(config, files)
    other, overlaid = checked({"tuning": {"learning_rate": 2.0e-4, "batch_size": 8}})
    with pytest.raises(OtherExperiment) as caught:
        refuse_other(other, overlaid)
    told = str(caught.value)
    assert "results/tiny was made with config.yaml" in told and "tuning.learning_rate: 0.0002, which was 0.0001" in told
    assert f"rm {record_of(config)}" in told and "experiment: mine" in told
    record_of(config).unlink()
    refuse_other(other, overlaid)
    remember(other, overlaid)
    with pytest.raises(OtherExperiment, match=r"made with config\.yaml own0\.yaml"):
        refuse_other(config, files)  # and the other way round


@pytest.mark.parametrize(
    "overlay",
    [
        {"execution": {"device": "cpu"}, "ceilings": {"price": 5.0}},  # how, not what
        {"drift": {"documents": 20}, "run": {"test_seeds": [1, 2, 3, 4]}},  # additions
        {"experiment": "tiny", "tuning": {"learning_rate": 2.0e-4}},  # meant to be the same experiment
        {"experiment": "mine", "tuning": {"learning_rate": 2.0e-4}},
    ],
)
def test_additions_and_named_overlays_are_let_through(place, overlay):
    remember(*checked())
    refuse_other(*checked(overlay))


def test_an_edited_file_is_no_other_experiment(place):
    remember(*checked({"tuning": {"learning_rate": 2.0e-4}}))
    refuse_other(*checked({"tuning": {"learning_rate": 3.0e-4}}))


def test_what_is_gone_from_a_list_or_a_section_is_a_change():
    assert list(changed({"a": [1, 2], "b": {"c": 1}}, {"a": [1], "b": {}})) == [
        "a: [1], which was [1, 2]",
        "b.c: None, which was 1",
    ]
    assert list(changed({"a": [1], "b": None}, {"a": [2, 1], "b": {"c": 1}, "d": 4})) == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "no such file; did you mean 'own.yaml'?"),
        ("", "is empty, but a config has keys at top level"),
        ("- 1\n", "is a list, but a config has keys at top level"),
        ("tuning: {learning_rat: 1}\n", "did you mean 'learning_rate'?"),
        ("modes: {mine: {dataset: pome, label: mine}}\n", "did you mean 'poem'?"),
        ("models: {tiny: {path: ./modles/x, pretrain: null}}\n", "no such directory: ./modles/x"),
        ("datasets: {lima: {file: mnie.csv, user: a, assistant: b}}\n", "did you mean 'mine.csv'?"),
    ],
)
@pytest.mark.parametrize("target", ["run", "plan", "verify"])
def test_every_target_of_make_says_what_is_wrong_with_a_config(place, text, told, target):
    (place / "scripts").symlink_to(ROOT / "scripts")
    (place / "own.yaml").write_text("experiment: mine\n" if text is None else text)
    name = "owm.yaml" if text is None else "own.yaml"
    command = ["make", "--no-print-directory", "-f", str(ROOT / "Makefile")]  # which `make test` would have it print
    command += ["-o", "environment", target, f"CONFIG={name}"]
    done = subprocess.run(command, cwd=place, text=True, capture_output=True, env=environment())
    assert done.returncode == 2 and told in done.stderr and "Traceback" not in done.stderr + done.stdout
    assert done.stdout == "" and len(done.stderr.splitlines()) <= 4  # a heading, the errors, and make's own line


def test_a_run_says_it_too_and_nothing_has_run(tmp_path):
    project = copy_project(tmp_path)
    (project / "one.yaml").write_text("experiment: mine\n")
    (project / "two.yaml").write_text("experiment: mine\ntuning: {learning_rate: 0.5}\n")
    (project / "unnamed.yaml").write_text("tuning: {learning_rate: 0.5}\n")
    done = snakemake(project, "results/mine/config.json", configs=("one.yaml",))
    assert done.returncode == 0, done.stdout
    before = (project / "results" / "mine" / "config.json").read_text()
    done = snakemake(project, "results/mine/config.json", configs=("one.yaml", "unnamed.yaml"))
    assert done.returncode and "results/mine was made with config.yaml one.yaml." in done.stdout
    assert (project / "results" / "mine" / "config.json").read_text() == before
    done = snakemake(project, "results/mine/config.json", configs=("two.yaml",))
    assert done.returncode == 0 and (project / "results" / "mine" / "config.json").read_text() != before


def test_a_run_uses_a_file_whole_too(tmp_path):
    """Snakemake lists config files in another order than that in which they are laid over each other."""
    project = copy_project(tmp_path)
    (project / "mine.csv").write_text(ROWS)
    (project / "own.yaml").write_text(yaml.safe_dump({"experiment": "mine", "datasets": {"lima": MINE}}))
    done = snakemake(project, "results/mine/data/files/lima.parquet", configs=("own.yaml",))
    assert done.returncode == 0, done.stdout
    assert len(read_table("conversations", project / "results" / "mine" / "data" / "files" / "lima.parquet")) == 30


def test_the_check_alone_finds_nothing_wrong_with_any_experiment():
    for file in (*sorted((ROOT / "experiments").glob("*.yaml")),):
        if file.stem in ("paper", "small", "realdata") or "paper" in file.stem or "laptop" in file.stem:
            continue  # overlays of another, or with data that is not here
        command = [sys.executable, "scripts/check_config.py", str(file)]
        done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, env=environment())
        assert (done.returncode, done.stdout + done.stderr) == (0, ""), file
