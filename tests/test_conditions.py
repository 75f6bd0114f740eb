"""One model in several conditions and worlds: what is run, what they share, and what is reported."""

import csv
import math
import shutil
import statistics
from collections import Counter

import pytest
import yaml
from workflow import ROOT, copy_project, planned, snakemake

from pipeline.config.check import check_config
from pipeline.config.schema import merged
from pipeline.files.storage import read_json
from pipeline.jobs.record import fingerprint
from reporting.charts.condition_charts import MEASURES
from reporting.charts.figures import FIGURES, rows_of
from reporting.metrics.collect import read_metrics, table_of
from reporting.metrics.view import View
from reporting.tables.condition_tables import condition_lines, world_rows

CONTROLS = sorted(path.stem for path in (ROOT / "experiments" / "controls").glob("*.yaml") if path.stem != "world")


def configs(name, *more):
    """The config layers of a small control; for the pairs, only the first and the last condition."""
    layers = ["experiments/controls/world.yaml", f"experiments/controls/{name}.yaml", "tests/small_controls.yaml"]
    return (*layers, *(["two.yaml"] if name == "pairs" else []), *more)


def checked(name):
    """The checked config of a control at full size."""
    layers = ("config.yaml", "experiments/controls/world.yaml", f"experiments/controls/{name}.yaml")
    return check_config(merged(*(yaml.safe_load((ROOT / layer).read_text(encoding="utf-8")) for layer in layers)))


def read_csv(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder in which the control for pairs has been run in two conditions and two worlds."""
    folder = copy_project(tmp_path_factory.mktemp("controls"))
    (folder / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "small_controls.yaml", folder / "tests")
    two = {"conditions": {"values": dict.fromkeys(("5", "10", "25", "50"))}, "drift": {"documents": 3}}
    two |= {"ranking": {"instructions": 30, "negatives": ["any", "same_kind", "same_format"]}}
    two |= {"evaluation_sets": {"test": {"instructions": 30}}}  # of which some are of one kind
    (folder / "two.yaml").write_text(yaml.safe_dump(two))
    done = snakemake(folder, configs=configs("pairs"))
    assert done.returncode == 0, done.stdout[-6000:]
    return folder


def pairs(folder):
    return folder / "results" / "pairs"


def test_conditions_become_models_of_each_world():
    config = checked("pairs")
    assert list(config.conditions.models())[:6] == [*(f"0-world{world}" for world in range(11, 16)), "5-world11"]
    assert config.run.models == list(config.conditions.models()) and len(config.run.models) == 30
    one, other = config.models["25-world12"], config.models["100-world12"]
    assert (one.world_seed, one.pretrain.seed, one.pretrain.corpus.intact_pairs) == (12, 12, 0.25)
    assert one.pretrain.model_copy(update={"corpus": other.pretrain.corpus}) == other.pretrain


@pytest.mark.parametrize("name", CONTROLS)
def test_every_control_has_the_unchanged_condition_and_differs_from_it_in_one_thing(name):
    config = checked(name)
    models = [config.models[f"{value}-world11"] for value in config.conditions.values]
    unchanged = checked("pairs").models["100-world11"]
    assert sum(model.pretrain == unchanged.pretrain for model in models) == (8 if name == "emergence" else 1)
    assert len({model.model_dump_json() for model in models}) == len(models)


def test_the_axis_of_snapshots_says_how_many_tokens_each_has_read():
    config = checked("emergence")
    steps = -(-(1500000 // 256) // 16)
    tokens = [min(round(steps * i / 8) * 4096, 1500000 // 256 * 256) for i in range(1, 9)]
    assert list(config.conditions.values) == [f"{count / 1000:.0f}" for count in tokens]


def test_the_axis_of_sizes_says_how_many_parameters_each_has(tokenizer):
    import torch

    from implicit.tuning.pretrain import Architecture, build_model

    config = checked("size")
    for name in config.conditions.values:
        shape = config.models[f"{name}-world11"].pretrain.architecture.model_dump()
        with torch.device("meta"):
            model = build_model(Architecture(**shape), tokenizer, seed=0)
        missing = (1024 - len(tokenizer)) * shape["hidden_size"]  # embeddings
        assert f"{(sum(p.numel() for p in model.parameters()) + missing) / 1000:.0f}" == name


def test_the_table_is_means_over_worlds(made):
    rows, worlds = (read_csv(pairs(made) / "tables" / f"{name}.csv") for name in ("conditions", "conditions_by_world"))
    labels = ["base", "instruction tuning"]
    assert [(row["condition"], row["tuning"]) for row in rows] == [(c, label) for c in ("0", "100") for label in labels]
    assert len(worlds) == 2 * len(rows)
    for row in rows:
        own = [r for r in worlds if (r["condition"], r["tuning"]) == (row["condition"], row["tuning"])]
        assert [r["world"] for r in own] == ["11", "12"] and (row["worlds"], row["n"]) == ("2", "30")
        for name in ("ranking", "per token", "win rate", "ties", "stopped", "tokens"):
            values = [float(r[name]) for r in own if r[name]]
            told = f"{statistics.fmean(values):.1f} ± {statistics.stdev(values):.1f}" if values else ""
            assert row[name] == told, (row, name)
        assert (row["win rate"] == "") == (row["tuning"] == "instruction tuning")
        assert row["ranking"] and row["ranking, same kind"] and row["ranking, same format"] and row["quality"]
        assert (row["KL"] == "") == (row["tuning"] == "base")


def test_the_reference_modes_quality_is_told_by_those_that_were_compared_with_it():
    """Models in the experiment's order, with separate numbers for each world: means over its seeds."""
    rows, same = [], {"condition": "0", "slice": "all", "level": "seed", "n": 6}
    for world in (2, 1):
        model = same | {"model": f"0-world{world}", "world": world}
        for name, seed in (("base", None), ("tuned", 1), ("tuned", 2)):
            own = model | {
                "name": name,
                "label": name,
                "system": f"{name}/chosen/seed{seed}" if seed else name,
                "seed": seed,
            }
            rows += [own | {"metric": metric, "value": 10.0 * world + (seed or 0)} for metric in ("tokens", "stopped")]
        for seed in (1, 2):
            judged = model | {"name": "base", "label": "base", "system": "base", "seed": seed}
            numbers = {"quality": 0.1 * world, "opponent_quality": 0.2 * world + 0.1 * seed, "win_rate": 40.0 + seed}
            judged |= {"opponent": f"tuned/chosen/seed{seed}"}
            rows += [judged | {"metric": metric, "value": value} for metric, value in numbers.items()]
    worlds = [row for row, _ in world_rows(View(table_of(rows)))]
    assert [(row["world"], row["tuning"]) for row in worlds] == [
        (w, name) for w in (2, 1) for name in ("base", "tuned")
    ]
    for row in worlds:
        world, reference = row["world"], row["tuning"] == "tuned"
        assert row["quality"] == pytest.approx(0.2 * world + 0.15 if reference else 0.1 * world)
        assert row["win rate"] == (None if reference else 41.5) and row["tokens"] == 10.0 * world + 1.5 * reference
        assert (row["ranking"], row["seeds"], row["n"], row["pairs"]) == (None, 2 if reference else 1, 6, "")
        assert "KL" not in row
    (base, tuned) = (line.cells for line in condition_lines(View(table_of(rows))))
    assert (base["tokens"], base["worlds"]) == ("15.0 ± 7.1", 2) and tuned["quality"] == "0.45 ± 0.14"


def test_the_figure_has_students_intervals_over_worlds(made):
    rows = read_csv(pairs(made) / "figures" / "conditions.csv")
    harder = {"ranking, same kind": 4, "ranking, same format": 4}
    assert Counter(row["measure"] for row in rows) == harder | {"ranking": 4, "quality": 4, "win rate": 2, "KL": 2}
    worlds = read_csv(pairs(made) / "tables" / "conditions_by_world.csv")
    row = next(row for row in rows if row["measure"] == "ranking")
    values = [float(r["ranking"]) for r in worlds if (r["condition"], r["tuning"]) == (row["condition"], row["tuning"])]
    half = 12.7062 * statistics.stdev(values) / math.sqrt(2)  # the 97.5 % quantile with one degree of freedom
    assert float(row["high"]) - float(row["mean"]) == pytest.approx(half, rel=1e-4, abs=1e-3)
    assert (row["worlds"], row["n"], row["of"]) == ("2", "60", "pairs")


def test_conditions_are_in_the_report_with_the_records_of_every_row(made):
    page = (pairs(made) / "report.html").read_text(encoding="utf-8")
    for title in (
        "Conditions: documents with intact pairs (percent)",
        "Response ranking, among wrong responses of the",
    ):
        assert title in page, title
    view = View(read_metrics(pairs(made) / "metrics.parquet"))
    sources = {(line.cells["condition"], line.cells["tuning"]): line.sources for line in condition_lines(view)}
    for world in (11, 12):
        for name in ("ranking.json", "test.parquet", "test.against-seed1.json"):
            assert f"results/pairs/100-world{world}/base/{name}" in sources["100", "base"]


def test_a_single_condition_has_a_row_for_each_system(made):
    view = View(read_metrics(pairs(made) / "metrics.parquet"), axis="pairs")
    rows = [row for row in rows_of("conditions", view) if row["condition"] == "100"]
    panels = FIGURES["conditions"].panels(rows)
    assert [panel.title for panel in panels] == [title for title, _ in MEASURES.values()]
    for panel, measure in zip(panels, MEASURES, strict=True):
        interval, point = panel.spec["layer"]
        own = [row for row in rows if row["measure"] == measure]
        assert panel.spec["data"]["values"] == own
        assert (interval["encoding"]["x"]["field"], interval["encoding"]["x2"]["field"]) == ("low", "high")
        assert point["encoding"]["y"]["sort"] == [row["tuning"] for row in own]
        assert "n = 2 worlds" in panel.note and "t-interval" in panel.note


def test_a_base_model_is_pretrained_once_for_all_controls(made):
    bases = {path.parent for path in (made / "results" / "bases").glob("*/record.json")}
    assert len(bases) == 4
    assert planned(made, configs=configs("pairs")) == {}
    (made / "world.yaml").write_text(yaml.safe_dump({"conditions": {"worlds": [11]}}))
    expected = {"emergence": 0, "markup": 1, "stopping": 1, "tags": 2, "size": 3}
    expected |= {"tuning": 0, "transfer": 0, "measuring": 0}
    assert sorted(expected) == sorted(set(CONTROLS) - {"pairs"})
    for name, count in expected.items():
        jobs = planned(made, configs=configs(name, "world.yaml"))
        conditions = len(checked(name).conditions.values)
        assert jobs.get("pretrain", 0) == jobs.get("make_corpus", 0) == count, name
        assert jobs["take_base"] == jobs["tune_chosen"] == jobs["judge_responses"] == conditions
        assert (jobs["rank_responses"], jobs["collect_metrics"]) == (2 * conditions, 1)


def test_a_model_of_a_snapshot_is_that_snapshot(made):
    one = {
        "experiment": "snapshots",
        "conditions": {"worlds": [11], "axis": "snapshot", "values": {"0": None, "100": None, "third": {"snapshot": 3}, "last": {"snapshot": 8}}},
    }  # fmt: skip
    (made / "one.yaml").write_text(yaml.safe_dump(one))
    done = snakemake(made, "model", configs=configs("pairs", "one.yaml"))
    assert done.returncode == 0 and "pretrain" not in done.stdout, done.stdout
    base = {}
    for name in ("third", "last"):
        folder = made / "results" / "snapshots" / f"{name}-world11" / "base"
        taken = made / read_json(folder / "record.json")["inputs"]["shared"]["path"]
        base[name] = folder / "model" / "model.safetensors"
        assert base[name].samefile(taken / "model.safetensors")
        assert read_json(folder / "record.json")["outputs"]["model"]["sha256"] == fingerprint(folder / "model")
    assert taken.parent.name == "snapshots" and sorted(path.name for path in taken.parent.glob("[0-9]")) == [
        *"12345678"
    ]
    final = pairs(made) / "100-world11" / "base" / "model" / "model.safetensors"
    assert fingerprint(base["last"]) == fingerprint(final) != fingerprint(base["third"])


def test_what_is_changed_in_the_conditions_is_found(made):
    done = snakemake(made, "verify", configs=configs("pairs"))
    assert done.returncode == 0 and "no discrepancies" in done.stdout, done.stdout
    files = [
        pairs(made) / name
        for name in ("tables/conditions.csv", "tables/conditions_by_world.csv", "figures/conditions.csv")
    ]
    (taken, *_) = sorted((made / "results" / "bases").glob("*/snapshots/1/config.json"))
    before = {path: path.read_bytes() for path in [*files, taken]}
    try:
        for path in files:
            *lines, last = path.read_text().splitlines()
            path.write_text("\n".join([*lines, last.replace("100,", "101,", 1)]) + "\n")
        taken.write_bytes(before[taken] + b"\n")
        done = snakemake(made, "verify", configs=configs("pairs"))
    finally:
        for path, content in before.items():
            path.write_bytes(content)
    assert done.returncode == 1 and "Traceback" not in done.stdout
    for told in (
        "tables/conditions.csv, row 4, 'condition': found '101', expected '100'",
        "tables/conditions_by_world.csv, row 8, 'condition':",
        "figures/conditions.csv, row",
        "snapshots/1 has sha256",
    ):
        assert told in done.stdout, (told, done.stdout)
