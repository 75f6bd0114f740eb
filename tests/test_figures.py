"""The figures: what they are drawn from, that they come out the same every time, and that each says its n."""

import csv
import json
import re
import subprocess
import sys

import pytest
from results_folder import Results
from workflow import ROOT

from make_figures import training_rows
from stage.charts import PANELS, on_paper


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    results = Results(tmp_path_factory.mktemp("made"), models=("one", "two"))
    results.write()
    results.make_tables()
    results.make_figures()
    results.make_conditions()
    return results


def read(folder, name):
    with (folder / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_figure_has_its_data_and_is_byte_for_byte_the_same_when_drawn_again(made):
    folder = made.folder / "results" / "made" / "figures"
    files = sorted(path.name for path in folder.iterdir())
    assert files == sorted(f"{name}.{ending}" for name in PANELS for ending in ("csv", "pdf", "png"))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    made.make_figures()
    made.make_conditions()
    assert [name for name in files if (folder / name).read_bytes() != before[name]] == []
    assert all(before[name].startswith(b"%PDF") for name in files if name.endswith("pdf"))


def test_the_main_figure_holds_what_the_tables_say_and_the_papers_values(made):
    rows = read(made.folder / "results" / "made" / "figures", "win_rates")
    table = read(made.folder / "results" / "made" / "tables", "table1")
    drawn = {(row["model"], row["tuning"]): row for row in rows}
    for row in table:
        own = drawn[row["model"], row["tuning"]]
        assert f"{float(own['win_rate']):.1f} ± {float(own['std']):.1f}" == row["win rate"]
        assert own["each seed"] == row["each seed"] and own["paper, Llama-2-7B"] == row["paper, Llama-2-7B"]
    values = PANELS["win_rates"](rows)[0].spec["data"]["values"]
    marks = {(v["kind"], v["tuning"]): v["value"] for v in values if v["model"] == "one"}
    assert marks["paper, Llama-2-7B", "response tuning"] == 43.3 and ("each seed", "base") in marks
    one = next(v for v in values if v["kind"] == "mean over seeds" and v["tuning"] == "response tuning")
    assert one["high"] - one["value"] == pytest.approx(float(drawn["one", "response tuning"]["std"]))


def test_no_chart_is_without_n_and_units(made):
    for name, panels in PANELS.items():
        for panel in panels(read(made.folder / "results" / "made" / "figures", name)):
            assert re.search(r"\bn = \d", panel.note) and panel.spoken, name
            spec = json.dumps(panel.spec)
            assert re.search(r"\((percent|nats|mean dot|square|mean of)|epochs", spec), name
        assert "params" in on_paper(panels(read(made.folder / "results" / "made" / "figures", name)))


def test_a_long_training_curve_is_means_of_all_its_steps(tmp_path):
    path = tmp_path / "record.json"
    losses = [float(i) for i in range(1001)]
    path.write_text(json.dumps({"losses": losses}))
    rows = list(training_rows([{"model": "m", "mode": "a", "seed": 1, "path": str(path)}]))
    assert len(rows) <= 200 and rows[0] == {
        "model": "m", "mode": "a", "seed": 1, "step": 1, "loss": "2.5000", "steps": 6,
    }  # fmt: skip
    assert (rows[-1]["step"], rows[-1]["loss"]) == (997, "998.0000")  # of five steps


@pytest.mark.parametrize("script", ["make_figures", "make_tables", "make_conditions"])
def test_light_stages_do_not_import_torch(script):
    code = f"import sys; sys.path.insert(0, 'scripts'); import {script}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
