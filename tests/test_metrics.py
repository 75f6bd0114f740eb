"""The metrics of runs: as TensorBoard events, read back by a reader of our own, and as what a tracking module is sent."""

import json
import shutil
import struct
import sys
from importlib.metadata import PackageNotFoundError, version

import pytest
import yaml
from results_folder import Results
from workflow import ROOT, planned, snakemake

from implicit.optimise import learning_rate_factor
from make_events import FILE, VERSION
from stage.check import ConfigError, check_config
from stage.config import merged
from stage.storage import read_json

# In the place of a tracking module: the same three functions, which write down what they are given.
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


def crc32c(data):
    """Castagnoli's checksum, bit by bit (RFC 3720, appendix B.4)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def records(data):
    """The records of a TFRecord file: length, its checksum, content, its checksum; checksums are masked."""
    while data:
        length, checked, content = data[:8], data[8:12], data[12 : 12 + int.from_bytes(data[:8], "little")]
        end = 12 + len(content)
        for part, mask in ((length, checked), (content, data[end : end + 4])):
            crc = crc32c(part)
            assert struct.unpack("<I", mask)[0] == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
        yield content
        data = data[end + 4 :]


def fields(message):
    """The fields of a protocol buffer message: (number, value), of groups none."""
    place = 0

    def varint():
        nonlocal place
        value, shift = 0, 0
        while True:
            byte = message[place]
            place, value, shift = place + 1, value | (byte & 127) << shift, shift + 7
            if byte < 128:
                return value

    while place < len(message):
        key = varint()
        if key & 7 == 0:
            yield key >> 3, varint()
            continue
        size = {1: 8, 5: 4}[key & 7] if key & 7 != 2 else varint()
        yield key >> 3, message[place : place + size]
        place += size


def read_events(path):
    """The metrics of a file of events, by step, and what its first event says of its version."""
    versions, steps = [], {}
    for record in records(path.read_bytes()):
        event = dict(fields(record))  # 1: time, 2: step, 3: version of the file, 5: summary
        if 3 in event:
            versions.append(event[3].decode())
            continue
        assert struct.unpack("<d", event[1])[0] == event.get(2, 0) if 1 in event else 2 not in event
        values = [dict(fields(value)) for number, value in fields(event[5]) if number == 1]  # 1: tag, 2: a float
        assert event.get(2, 0) not in steps
        steps[event.get(2, 0)] = {value[1].decode(): struct.unpack("<f", value[2])[0] for value in values}
    assert versions == [VERSION]
    return steps


def all_events(folder):
    return {str(path.parent.relative_to(folder)): read_events(path) for path in folder.rglob(FILE)}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    results = Results(tmp_path_factory.mktemp("made"), similarity=False)
    results.write()
    results.run("make_events", "--output", results.path("events"))
    return results


def close(metrics):
    """Metrics as a float of 32 bits holds them."""
    return {name: pytest.approx(value, rel=1e-6) for name, value in metrics.items()}


def test_events_say_what_the_records_say(made):
    events = all_events(made.folder / made.path("events"))
    of_seeds = [f"{system}/seed{n}" for system in ("base", "rules/rules", *made.modes) for n in (1, 2)]
    assert set(events) == {f"tiny/{run}" for run in (*of_seeds, "base", *(f"{mode}/validation" for mode in made.modes))}
    for entry in made.settings["tunings"]:
        steps = events[f"tiny/{entry['mode']}/seed{entry['seed']}"]
        losses = read_json(made.folder / entry["path"])["losses"]
        assert list(steps) == list(range(1, 241))
        assert [step["tuning/loss"] for step in steps.values()] == pytest.approx(losses, rel=1e-6)
        rates = [1e-4 * learning_rate_factor("cosine", i, steps=240, warmup=0.1) for i in range(240)]
        assert [step["tuning/learning_rate"] for step in steps.values()] == pytest.approx(rates, rel=1e-6)
        assert steps[240]["tuning/tokens"] == 9000 and steps[240]["tuning/tokens_per_step"] == 37.5
    for entry in made.settings["figures"]:
        steps, told = events[f"tiny/{entry['system'].removesuffix('/chosen')}/seed{entry['seed']}"], entry["path"]
        told = read_json(made.folder / told)
        assert steps[max(steps)].items() >= close({"test/win_rate": told["win_rate"], "test/ties": 0}).items()
        assert not {"test/length_controlled_win_rate", "test/quality"} & steps[max(steps)].keys()  # none there
    ranked = [read_json(made.folder / entry["path"])["summary"] for entry in made.settings["rankings"]]
    shares = [[100 * summary[score]["capability"] for score in ("sequence", "token")] for summary in ranked]
    names = ("ranking/capability", "ranking/capability_per_token")
    assert events["tiny/base"] == {0: close(dict(zip(names, shares[0], strict=True)))}
    assert events["tiny/instruction_tuning/seed1"][240]["ranking/capability"] == pytest.approx(shares[1][0])
    for entry in made.settings["selections"]:
        grid = read_json(made.folder / entry["path"])["grid"]
        assert events[f"tiny/{entry['mode']}/validation"] == {
            row["epochs"]: close(
                {"validation/win_rate": row["win_rate"], "validation/win_rate_error": row["win_rate_error"]}
            )
            for row in grid
        }


def test_the_same_records_give_the_same_events_byte_for_byte(made):
    folder = made.folder / made.path("events")
    before = {path: path.read_bytes() for path in folder.rglob(FILE)}
    (folder / "tiny" / "of a former run").mkdir()
    made.run("make_events", "--output", made.path("events"))
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
    """Installs a stand-in for a tracking module where all Pythons that are started find it first."""

    def install(name):
        (tmp_path / f"{name}.py").write_text(STAND_IN)
        (tmp_path / f"{name}-0.0.dist-info").mkdir()
        (tmp_path / f"{name}-0.0.dist-info" / "METADATA").write_text(f"Name: {name}\nVersion: 0.0\n")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        monkeypatch.syspath_prepend(tmp_path)

    return install


def tracked(made, module):
    """Send made-up results to a module; returns what the stage says was sent."""
    made.settings |= {"module": module, "project": "made"}
    path = made.path(f"tracked/{module}.json")
    made.run("track_metrics", "--output", path)
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
            assert line["step"] > max(runs[name], default=-1)  # what comes late is dropped
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
    (tmp_path / "trackio").mkdir()  # a folder is no package
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(ConfigError, match=r"^execution.tracking: trackio is not installed: pip install trackio, with"):
        check_config(config_of("trackio"))


def test_one_key_sends_what_has_come_out_and_nothing_else_is_done_anew(project, installed, tmp_path):
    """A copy of the finished test experiment, as other tests count what is there: its events, and the key."""
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
