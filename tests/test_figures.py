"""The figures: their data, that they are reproducible, and that each states its n."""

import csv
import itertools
import json
import os
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import vl_convert
from results_folder import Results
from workflow import ROOT

from reporting.charts.chart_parts import COLOURS
from reporting.charts.charts import on_paper
from reporting.charts.drawing import packed
from reporting.charts.figures import FIGURES, as_text, rows_of
from reporting.metrics.collect import read_metrics, table_of
from reporting.metrics.view import View


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return Results(tmp_path_factory.mktemp("made"), models=("one", "two")).make("make_tables", "make_figures")


@pytest.fixture(scope="module")
def rows(made):
    """The data of each figure."""
    before = Path.cwd()
    os.chdir(made.folder)
    view = View(read_metrics(Path(made.path("metrics.parquet"))), axis=made.settings["axis"])
    found = {name: rows_of(name, view) for name in FIGURES}
    os.chdir(before)
    return found


def read(folder, name):
    with (folder / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_figure_has_its_data_and_is_byte_for_byte_the_same_when_drawn_again(made):
    folder = made.folder / "results" / "made" / "figures"
    files = sorted(path.name for path in folder.iterdir())
    assert files == sorted(f"{name}.{ending}" for name in FIGURES for ending in ("csv", "pdf", "png"))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    made.of_metrics("make_figures", "figures")
    assert [name for name in files if (folder / name).read_bytes() != before[name]] == []
    assert all(before[name].startswith(b"%PDF") for name in files if name.endswith("pdf"))


def chunks_of(png):
    """The chunks of a PNG, as (kind, content), after checking their checksums."""
    place = 8
    while place < len(png):
        length, kind = struct.unpack_from(">I4s", png, place)
        content = png[place + 8 : place + 8 + length]
        assert png[place + 8 + length : place + 12 + length] == struct.pack(">I", zlib.crc32(kind + content))
        yield kind, content
        place += 12 + length


def test_a_packed_picture_is_the_same_picture():
    svg = '<svg xmlns="http://www.w3.org/2000/svg" width="90" height="60"><circle cx="30" cy="30" r="20" fill="red"/></svg>'
    drawn = vl_convert.svg_to_png(svg, scale=2.5)
    before, after = list(chunks_of(drawn)), list(chunks_of(packed(drawn)))
    pixels = [zlib.decompress(b"".join(c for kind, c in found if kind == b"IDAT")) for found in (before, after)]
    assert pixels[0] == pixels[1] and len(set(pixels[0])) > 2
    assert [found for found in after if found[0] != b"IDAT"] == [found for found in before if found[0] != b"IDAT"]
    assert len(packed(drawn)) < len(drawn) and after[-1][0] == b"IEND" and packed(drawn)[:8] == drawn[:8]


def test_the_main_figure_holds_what_the_tables_say_and_the_papers_values(made, rows):
    drawn = {
        (row["model"], row["tuning"]): row for row in read(made.folder / "results" / "made" / "figures", "win_rates")
    }
    for row in read(made.folder / "results" / "made" / "tables", "table1"):
        own = drawn[row["model"], row["tuning"]]
        assert f"{own['win_rate']} ± {own['std']}" == row["win rate"]
        assert own["each seed"] == row["each seed"] and own["paper, Llama-2-7B"] == row["paper, Llama-2-7B"]
    values = FIGURES["win_rates"].panels(rows["win_rates"])[0].spec["data"]["values"]
    marks = {(v["kind"], v["tuning"]): v for v in values if v["model"] == "one"}
    assert marks["paper, Llama-2-7B", "response tuning"]["value"] == 43.3 and ("each seed", "base") in marks
    one = marks["mean over seeds", "response tuning"]
    assert one["high"] - one["value"] == pytest.approx(float(drawn["one", "response tuning"]["std"]))


def test_a_drawing_holds_no_more_than_its_csv(made, rows):
    for name, own in rows.items():
        printed = read(made.folder / "results" / "made" / "figures", name)
        assert as_text(name, own) == printed
        for row, told in zip(own, printed, strict=True):
            assert all(float(told[column]) == value for column, value in row.items() if isinstance(value, float))


def test_no_chart_is_without_n_and_units(rows):
    for name, figure in FIGURES.items():
        panels = figure.panels(rows[name])
        for panel in panels:
            assert re.search(r"\bn = \d", panel.note) and panel.spoken, name
            spec = json.dumps(panel.spec)
            assert re.search(r"\((percent|nats|mean dot|square|mean of)|epochs", spec), name
        assert "params" in on_paper(panels)


def test_a_long_training_curve_is_means_of_all_its_steps():
    same = {"model": "m", "name": "a", "seed": 1, "slice": "all", "metric": "loss", "level": "seed"}
    losses = table_of([same | {"step": step, "value": float(step)} for step in range(1, 1002)])
    rows = rows_of("training", View(losses))
    assert len(rows) <= 200
    assert rows[0] == {"model": "m", "mode": "a", "seed": 1, "step": 1, "loss": 3.5, "steps": 6}
    assert (rows[-1]["step"], rows[-1]["loss"]) == (997, 999.0)  # of five steps


@pytest.mark.parametrize("script", ["collect_metrics", "make_figures", "make_tables", "make_report"])
def test_light_stages_do_not_import_torch(script):
    code = f"import sys; sys.path.insert(0, 'scripts'); import {script}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


# Linear RGB as seen by people without one of the three cone types (Machado, Oliveira and Fernandes 2009, severity 1).
VISIONS = {
    "all cones": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


def seen(colour, vision):
    """A colour (#RRGGBB) in CIELAB, in which distances are roughly perceptual, as seen with the given vision."""
    rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = XYZ @ np.clip(np.array(vision) @ linear, 0, 1) / XYZ.sum(axis=1)
    x, y, z = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("vision", VISIONS)
def test_the_colour_blind_can_tell_the_colours_apart(vision):
    """A distance of 2 is just noticeable; the smallest in Okabe and Ito's own palette is 16."""
    for one, other in itertools.combinations(COLOURS, 2):
        distance = np.linalg.norm(seen(one, VISIONS[vision]) - seen(other, VISIONS[vision]))
        assert distance > 15, (one, other, distance)
