"""The numbers in docs/findings.md come from the tables: none is written by hand."""

import pytest
import yaml
from results_folder import Results
from test_workflow import read_csv
from workflow import ROOT

from make_examples import example_rows, page_of, spaced
from make_findings import MARK, figure, files_of, fill, table
from pipeline.config.check import check_config
from pipeline.config.schema import merged
from pipeline.jobs.command import InputError
from reporting.tables.condition_tables import MEASURES
from reporting.tables.forms import to_csv

ROWS = [
    {"condition": "0", "tuning": "base", "quality": "0.10 ± 0.02", "worlds": "5"},
    {"condition": "50", "tuning": "base", "quality": "0.25 ± 0.03", "worlds": "5"},
]
WORLDS = [
    {"model": f"one-world{world}", "tuning": "base", "negatives": kind, "capability": str(rate), "ties": ""}
    for kind, rates in (("any", (80.0, 84.0)), ("same_kind", (60.0, 70.0)))
    for world, rate in enumerate(rates)
]


def test_a_figure_is_that_of_its_row_and_of_several_worlds_their_mean_and_deviation():
    assert figure(ROWS, "condition=50 | tuning=base | quality") == "0.25 ± 0.03"
    assert figure(WORLDS, "negatives=any | capability") == "82.0 ± 2.8"
    assert figure(WORLDS, "negatives=any | tuning") == "base"


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ("condition=50 | loss", "no column 'loss'"),
        ("mode=50 | quality", "no column 'mode'"),
        ("condition=7 | quality", "no row has condition=7"),
        ("tuning=base | quality", "2 rows have tuning=base"),
    ],
)
def test_what_is_no_figure_is_an_error(told, message):
    with pytest.raises(InputError, match=message):
        figure(ROWS, told)


def test_a_table_has_a_row_for_all_worlds():
    assert table(WORLDS, "negatives | capability").splitlines()[2:] == [
        "| any | 82.0 ± 2.8 |",
        "| same_kind | 65.0 ± 7.1 |",
    ]
    assert table(ROWS, "condition | quality").splitlines()[2] == "| 0 | 0.10 ± 0.02 |"


def test_a_template_is_filled_from_copies_of_the_tables(tmp_path):
    (tmp_path / "pairs-conditions.csv").write_text(to_csv(ROWS))
    template = "Of {{pairs/conditions: condition=0 | worlds}} worlds:\n{{figure pairs/conditions}}\n{{table pairs/conditions: quality}}\n"
    assert files_of(template) == {
        "pairs/tables/conditions.csv": "pairs-conditions.csv",
        "pairs/figures/conditions.png": "pairs-conditions.png",
    }
    assert fill(template, tmp_path).startswith(
        f"Of 5 worlds:\n![pairs, conditions; all values are in {tmp_path.name}/]("
    )
    with pytest.raises(InputError, match=r"^\{\{pairs/conditions: condition=1 | worlds\}\}: no row has"):
        fill("{{pairs/conditions: condition=1 | worlds}}", tmp_path)


TEMPLATE = (ROOT / "experiments" / "controls" / "findings.md").read_text(encoding="utf-8")
COLUMNS = {"condition", "tuning", *MEASURES, "worlds", "n", "pairs"}
CONTROLS = {path.stem for path in (ROOT / "experiments" / "controls").glob("*.yaml")} - {"world"}


def test_every_control_is_told_of_and_every_mark_is_of_a_row_that_its_experiment_has():
    marks = [mark for mark in MARK.finditer(TEMPLATE)]
    assert len(marks) == TEMPLATE.count("{{") == TEMPLATE.count("}}")
    assert {mark["name"].split("/")[0] for mark in marks} == CONTROLS
    for mark in marks:
        layers = (
            "config.yaml",
            "experiments/controls/world.yaml",
            f"experiments/controls/{mark['name'].split('/')[0]}.yaml",
        )
        config = check_config(merged(*(yaml.safe_load((ROOT / layer).read_text(encoding="utf-8")) for layer in layers)))
        labels = {"base", "base + rules", *(config.modes[mode].label for mode in config.run.modes)}
        known = {"condition": config.conditions.values, "tuning": labels}
        for part in (mark["rest"] or "").split(" | "):
            name, _, value = part.partition("=")
            if value:
                assert value in known.get(name, [value]), mark[0]
            if part and mark["name"].endswith("/conditions"):
                assert name in COLUMNS, mark[0]


def test_the_findings_are_what_the_template_says_with_the_figures_of_the_tables(tmp_path):
    copies = ROOT / "docs" / "findings"
    assert fill(TEMPLATE, copies) == (ROOT / "docs" / "findings.md").read_text(encoding="utf-8")
    assert {path.name for path in copies.iterdir()} == set(files_of(TEMPLATE).values())


REAL = (ROOT / "experiments" / "real.md").read_text(encoding="utf-8")


def test_the_page_on_a_real_model_has_the_figures_of_its_tables():
    copies = ROOT / "docs" / "real"
    assert fill(REAL, copies) == (ROOT / "docs" / "real.md").read_text(encoding="utf-8")
    assert {path.name for path in copies.iterdir()} == set(files_of(REAL).values())
    assert REAL.count("{{") == len(list(MARK.finditer(REAL)))


def test_readmes_columns_of_the_real_model_are_those_of_its_tables():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = {line.split(" | ")[0]: line.split(" | ")[2:4] for line in readme.splitlines() if line.startswith("| ")}
    names = {"base": "base model", "response tuning": "response tuning: responses only, instructions never seen",
             "GSM": "tuned on arithmetic only", "MBPP": "on code only", "Poetry": "on poems only", "Recipes": "on recipes only",
             "Chess": "on chess games only", "base + rules": "base model with three rules, no tuning",
             "base + rules without eos": "the same without the EOS rule"}  # fmt: skip
    found = {}
    for number in (1, 3, 4):
        for row in read_csv(ROOT / "docs" / "real" / f"laptop-table{number}.csv"):
            found[row["tuning"]] = dict(member.split(" ", 1) for member in row["by each member"].split(", "))
    for tuning, name in names.items():
        assert shown[f"| {name}"] == [found[tuning]["gemma"], found[tuning]["chrf"]], tuning


def test_examples_and_files_are_copied_beside_the_page(tmp_path):
    template = "{{examples a}} and {{file a/metrics.csv}}"
    assert files_of(template) == {"a/tables/examples.md": "a-examples.md", "a/metrics.csv": "a-metrics.csv"}
    (tmp_path / "a-examples.md").write_text("| one |\n")
    assert fill(template, tmp_path) == f"| one | and [metrics.csv]({tmp_path.name}/a-metrics.csv)"


@pytest.mark.parametrize(
    ("n", "places"), [(10, [1, 3, 6, 8]), (101, [12, 37, 63, 88]), (3, [0, 1, 2]), (4, [0, 1, 2, 3])]
)
def test_examples_are_evenly_spaced(n, places):
    assert spaced(n, 4) == places


def test_examples_are_those_of_the_first_seed_and_of_all_systems(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = Results(tmp_path, instructions=30, seeds=2)
    made.write()
    rows = example_rows(made.experiment, 5)
    assert [row["id"] for row in rows[::5]] == [f"test-{place}" for place in (3, 9, 15, 21, 27)]
    systems = ["base", "base + rules", "instruction tuning", "response tuning", "task 0"]
    assert [row["system"] for row in rows] == 5 * systems
    for row in rows:
        path = {"base": "base", "base + rules": "rules/rules"}.get(
            row["system"], f"{row['system'].replace(' ', '_')}/chosen/seed1"
        )
        (given,) = [one for one in made.given["tiny", path] if one["id"] == row["id"]]
        assert (row["response"], row["stopped"]) == (given["output"], given["stopped"])


def test_a_response_stays_in_its_cell():
    rows = [{"model": "m", "id": "a-0", "instruction": "Why?\n*So*", "system": "base", "stopped": False, "tokens": 9}
            | {"response": "a | b\n\n<script>`x`" + 500 * "y"}]  # fmt: skip
    lines = page_of(rows).splitlines()
    assert lines[0] == r"**Why? ⏎ \*So\***" and lines[-1].startswith(r"| base | a \| b ⏎  ⏎ \<script\>\`x\`y")
    assert lines[-1].endswith("y … ▷ |") and len(lines[-1]) < 460
