"""The metrics of runs: as TensorBoard events, read back, and as sent to a tracking module."""

import json
import re
import shutil
import struct
import sys
from importlib.metadata import PackageNotFoundError, version

import pytest
import yaml
from results_folder import WithoutSimilarity
from tensorboardX.crc32c import crc32c
from tensorboardX.proto.event_pb2 import Event
from workflow import ROOT, planned, snakemake

from implicit.tuning.optimise import learning_rate_factor
from make_events import FILE, VERSION
from pipeline.config.check import ConfigError, check_config
from pipeline.config.schema import merged
from pipeline.files.storage import read_json

RANKED = {"ranking/capability": "sequence", "ranking/capability_per_token": "token"}
# A stand-in for a tracking module: the same three functions, which record their arguments.
STAND_IN = """\
import json
def told(**what):
    with open("told.jsonl", "a") as file:
        file.write(json.dumps(what) + "\\n")
def init(project, name, group, config):
    told(name=name, project=project, group=group, config=config)
def log(metrics, step):
    told(step=step, metrics=metrics)
def finish():
    told(finished=True)
"""


def masked(crc):
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def read_events(path):
    """The metrics of an event file, by step, from records of length and content, each with its checksum."""
    data, steps = path.read_bytes(), {}
    while data:
        end = 12 + int.from_bytes(data[:8], "little")
        for part, sum_ in ((data[:8], data[8:12]), (data[12:end], data[end : end + 4])):
            assert struct.unpack("<I", sum_)[0] == masked(crc32c(part))
        event = Event.FromString(data[12:end])
        if not steps:
            assert event.file_version == VERSION
        assert event.wall_time == event.step and (event.step not in steps or not steps[event.step])
        steps[event.step] = {value.tag: value.simple_value for value in event.summary.value}
        data = data[end + 4 :]
    return {step: metrics for step, metrics in steps.items() if metrics}


def all_events(folder):
    return {str(path.parent.relative_to(folder)): read_events(path) for path in folder.rglob(FILE)}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return WithoutSimilarity(tmp_path_factory.mktemp("made")).make("make_events")


def close(metrics):
    """Metrics rounded to 32-bit floats."""
    return {name: pytest.approx(value, rel=1e-6) for name, value in metrics.items()}


def test_events_say_what_the_records_say(made):
    events = all_events(made.folder / made.path("events"))
    of_seeds = [f"{system}/seed{n}" for system in ("base", "rules/rules", *made.modes) for n in (1, 2)]
    assert set(events) == {f"tiny/{run}" for run in (*of_seeds, "base", *(f"{mode}/validation" for mode in made.modes))}
    for result in made.results:
        told = read_json(made.folder / result.path) if result.path.endswith("json") else None
        of_seed = f"tiny/{result.system and result.system.name}/seed{result.seed}"
        if result.stage == "tune":
            steps, losses = events[of_seed], told["losses"]
            assert list(steps) == list(range(1, 241))
            assert [step["tuning/loss"] for step in steps.values()] == pytest.approx(losses, rel=1e-6)
            rates = [1e-4 * learning_rate_factor("cosine", i, steps=240, warmup=0.1) for i in range(240)]
            assert [step["tuning/learning_rate"] for step in steps.values()] == pytest.approx(rates, rel=1e-6)
            assert steps[240]["tuning/tokens"] == 9000 and steps[240]["tuning/tokens_per_step"] == 37.5
        elif result.stage == "judge" and result.opponent == "references":
            steps = events[f"tiny/{result.system.name}/validation"][result.system.epochs]
            assert steps == close({f"validation/{name}": told[name] for name in ("win_rate", "win_rate_error")})
        elif result.stage == "judge":
            last = events[of_seed][max(events[of_seed])]
            assert last.items() >= close({"test/win_rate": told["win_rate"], "test/ties": 0}).items()
            assert not {"test/length_controlled_win_rate", "test/quality"} & last.keys()  # none there
        elif result.stage == "rank":
            steps = events[re.sub("/seedNone", "", of_seed)]
            shares = {name: 100 * told["summary"][score]["capability"] for name, score in RANKED.items()}
            assert steps[max(steps)].items() >= close(shares).items()


def test_the_same_metrics_give_the_same_events_byte_for_byte(made):
    folder = made.folder / made.path("events")
    before = {path: path.read_bytes() for path in folder.rglob(FILE)}
    (folder / "tiny" / "of a former run").mkdir()
    made.of_metrics("make_events", "events")
    assert {path: path.read_bytes() for path in folder.rglob(FILE)} == before
    assert not (folder / "tiny" / "of a former run").exists()


def test_the_reader_finds_a_changed_byte(made, tmp_path):
    data = bytearray((made.folder / made.path("events") / "tiny" / "base" / FILE).read_bytes())
    data[-6] ^= 1
    (tmp_path / FILE).write_bytes(data)
    with pytest.raises(AssertionError):
        read_events(tmp_path / FILE)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Installs a stand-in for a tracking module where every Python process finds it first."""

    def install(name):
        (tmp_path / f"{name}.py").write_text(STAND_IN)
        (tmp_path / f"{name}-0.0.dist-info").mkdir()
        (tmp_path / f"{name}-0.0.dist-info" / "METADATA").write_text(f"Name: {name}\nVersion: 0.0\n")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        monkeypatch.syspath_prepend(tmp_path)

    return install


def tracked(made, module):
    """Send synthetic results to a module; returns what the stage reports as sent."""
    made.settings |= {"module": module, "project": "made"}
    path = made.path(f"tracked/{module}.json")
    made.of_metrics("track_metrics", f"tracked/{module}.json")
    return read_json(made.folder / path)


def test_what_is_sent_is_what_the_events_say(made, installed):
    installed("wandb")
    sent = tracked(made, "wandb")
    lines = [json.loads(line) for line in (made.folder / "told.jsonl").read_text().splitlines()]
    runs, name = {}, None
    for line in lines:
        if "name" in line:
            assert name is None and line["project"] == "made" and line["name"].startswith(f"{line['group']}/")
            name, runs[line["name"]] = line["name"], {}
            assert ("tuning" in line["config"]) == ("240" in str(sent["steps"][name]))
        elif "step" in line:
            assert line["step"] > max(runs[name], default=-1)  # late metrics are dropped
            runs[name][line["step"]] = close(line["metrics"])
        else:
            name = None
    assert name is None and runs == all_events(made.folder / made.path("events"))
    assert sent == {
        "module": "wandb", "version": "0.0", "project": "made", "steps": {name: len(steps) for name, steps in runs.items()}
    }  # fmt: skip


@pytest.mark.parametrize("module", ["wandb", "trackio"])
def test_the_real_module_takes_what_is_sent(made, tmp_path, monkeypatch, module):
    try:
        version(module)
    except PackageNotFoundError:
        pytest.skip(f"{module} is not installed: it is no part of the environment")
    for name, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "TRACKIO_DIR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    assert len(tracked(made, module)["steps"]) == 14


def config_of(tracking):
    raw = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    return merged(raw, {"execution": {"tracking": tracking}})


def test_a_module_that_is_not_installed_is_named_before_any_job(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trackio").mkdir()  # a folder is not a package
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(ConfigError, match=r"^execution.tracking: trackio is not installed: pip install trackio, with"):
        check_config(config_of("trackio"))


def test_one_key_sends_what_has_come_out_and_nothing_else_is_done_anew(project, installed, tmp_path):
    """The events and the key of a copy of the finished test experiment, as other tests count its files."""
    project = shutil.copytree(project, tmp_path / "project")
    events = all_events(project / "results" / "test" / "events")
    assert len(events) == 2 * 6 + 1 + 3  # systems of two seeds, the base model's ranking, validations
    loss = read_json(project / "results/test/tiny/poem/chosen/seed1/record.json")["losses"][-1]
    assert events["tiny/poem/seed1"][max(events["tiny/poem/seed1"])].items() >= close({"tuning/loss": loss}).items()
    installed("trackio")
    (project / "tracking.yaml").write_text("execution: {tracking: trackio}\n")
    configs = ("experiments/test.yaml", "tracking.yaml")
    assert planned(project, configs=configs) == {"track_metrics": 1}
    done = snakemake(project, configs=configs)
    assert done.returncode == 0 and "16 runs sent to trackio, project test" in done.stdout
    assert len(read_json(project / "results/test/tracked/trackio.json")["steps"]) == len(events)
    assert planned(project, configs=configs) == planned(project) == {}
