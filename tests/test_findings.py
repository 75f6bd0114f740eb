"""The numbers in docs/findings.md come from the tables: none is written by hand."""

import pytest
import yaml
from workflow import ROOT

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
    template = (
        "Of {{pairs/conditions: condition=0 | worlds}} worlds:\n{{figure pairs}}\n{{table pairs/conditions: quality}}\n"
    )
    assert files_of(template) == {
        "pairs/tables/conditions.csv": "pairs-conditions.csv",
        "pairs/figures/conditions.png": "pairs.png",
    }
    assert fill(template, tmp_path).startswith(
        f"Of 5 worlds:\n![pairs, by condition; all values are in {tmp_path.name}/]("
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
            if mark["name"].endswith("/conditions"):
                assert name in COLUMNS, mark[0]


def test_the_findings_are_what_the_template_says_with_the_figures_of_the_tables(tmp_path):
    copies = ROOT / "docs" / "findings"
    assert fill(TEMPLATE, copies) == (ROOT / "docs" / "findings.md").read_text(encoding="utf-8")
    assert {path.name for path in copies.iterdir()} == set(files_of(TEMPLATE).values())
